import type { TrainingProgram } from '../training/program.ts';
import type { TrainingState } from '../training/state.ts';
import type { ModelOptions, SessionOptions } from './session.ts';
import type { StepScalars } from './training-session.ts';
import type { TypedTensor } from './typed-tensor.ts';

/** How an engine uses the machine. */
export interface EngineOptions extends SessionOptions {
  /**
   * `process`: a forked process; a native crash or an out-of-memory kill takes only the engine. `worker`: a thread of
   * this process; calls are cheaper, a native crash is everybody's. `process` unless given; docs/decisions/engine.md has
   * the measurements.
   */
  readonly form?: 'process' | 'worker';
}

/** What a caller may add to a call. */
export interface CallOptions {
  /** Gives up waiting: the promise rejects with CANCELLED. Work that has begun runs on and is thrown away. */
  readonly signal?: AbortSignal;
}

/** How the runs of `Engine.iterate` follow from one another. */
export interface Iteration {
  /** Output that takes the place of each input that goes round; both have one dtype and shape. */
  readonly carry: Readonly<Record<string, string>>;
  /** One run for each: the feeds that are its own. */
  readonly steps: readonly Readonly<Record<string, TypedTensor>>[];
}

/** Owns models and training sessions, off the caller's thread. Calls are worked on one after the other. */
export interface Engine {
  /**
   * Loads a model under a name; a model of that name is replaced.
   * @throws PlumbError DATA_LOSS, reason MODEL_CORRUPT, naming the model
   */
  load(name: string, model: Uint8Array, options?: ModelOptions): Promise<void>;
  /** Frees a model. Does nothing when there is none of that name. */
  unload(name: string): Promise<void>;
  /**
   * Runs a loaded model.
   * @param feeds one tensor for each input of the model; arrays in shared memory are not copied to a worker
   * @param outputs names of the outputs that are wanted; all unless given
   * @throws PlumbError NOT_FOUND for a model that is not loaded; INVALID_ARGUMENT for a feed that is missing, unknown or
   *   misshapen; INTERNAL when the runtime fails; UNAVAILABLE when the engine is gone
   */
  run(
    name: string,
    feeds: Readonly<Record<string, TypedTensor>>,
    outputs?: readonly string[],
    options?: CallOptions,
  ): Promise<Record<string, TypedTensor>>;
  /**
   * Runs a loaded model several times, its outputs becoming its inputs; what goes round does not leave the engine.
   * @param feeds one tensor for each input that is not in `iteration.steps`: those that go round as they begin
   * @returns the outputs that go round, of the last run, by name
   * @throws PlumbError what `run` throws; INVALID_ARGUMENT without steps
   */
  iterate(
    name: string,
    feeds: Readonly<Record<string, TypedTensor>>,
    iteration: Iteration,
    options?: CallOptions,
  ): Promise<Record<string, TypedTensor>>;
  /**
   * Opens a training session, which stays in the engine: steps send feeds and return metrics, not state.
   * @param lanes threads that work on micro-batches at the same time; the engine's threads unless given, and one on a GPU
   * @param device what computes the gradients, `cpu` unless given; the update is computed on the CPU
   * @returns an id for the calls that follow
   */
  openTraining(
    name: string,
    program: TrainingProgram,
    state: TrainingState,
    options?: { readonly lanes?: number; readonly device?: 'cpu' | 'cuda' },
  ): Promise<string>;
  /** One optimiser step: see `TrainingSession.step`. */
  trainStep(
    id: string,
    feeds: Readonly<Record<string, TypedTensor>>,
    scalars: StepScalars,
    options?: CallOptions,
  ): Promise<Record<string, number>>;
  /**
   * Runs a loaded model on the parameters that the training has now: inputs of a parameter's name are taken from the
   * session in place, without a copy. The training goes on as if it had not been asked.
   * @param feeds one tensor for each other input of the model
   * @throws PlumbError what `run` throws
   */
  measureTraining(
    id: string,
    feeds: Readonly<Record<string, TypedTensor>>,
    model: string,
    outputs?: readonly string[],
  ): Promise<Record<string, TypedTensor>>;
  /** A copy of parameters and optimiser state, complete enough to go on bit for bit. */
  readTraining(id: string): Promise<TrainingState>;
  /** Puts a state back, such as the last good one after a divergence. */
  restoreTraining(id: string, state: TrainingState): Promise<void>;
  /** Ends a training session and frees its memory. Does nothing when there is none of that id. */
  closeTraining(id: string): Promise<void>;
  /** Ends the engine. Calls under way reject with CANCELLED; calls after it with UNAVAILABLE. May be called twice. */
  close(): Promise<void>;
  /** Resolves when the engine has ended: with the error that ended it, or undefined after `close`. */
  readonly ended: Promise<Error | undefined>;
}

/** Names of the calls that cross to another thread or process. */
export type EngineMethod = Exclude<keyof Engine, 'close' | 'ended'>;
