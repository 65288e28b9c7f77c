/** `@plumb/kit/lifecycle`: start, readiness and stop of a service's process. */
export { runService } from './lifecycle/run-service.ts';
export type {
  ExitCode,
  ServiceAddresses,
  ServiceContext,
  ServiceDefinition,
} from './lifecycle/run-service.ts';
export { startFoundation } from './lifecycle/start-foundation.ts';
export type { Foundation, FoundationOptions } from './lifecycle/start-foundation.ts';
export { StopSequence } from './lifecycle/stop-sequence.ts';
export type { StopResult } from './lifecycle/stop-sequence.ts';
