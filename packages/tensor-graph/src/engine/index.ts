export type { CallOptions, Engine, EngineOptions } from './engine.ts';
export { openInThread } from './in-thread.ts';
export { openEngine } from './open.ts';
export type { Session, SessionOptions, ValueSpec } from './session.ts';
export { openSession } from './session.ts';
export type { StepScalars, TrainingSession, TrainingSessionOptions } from './training-session.ts';
export { openTrainingSession } from './training-session.ts';
export type { TypedTensor } from './typed-tensor.ts';
