import { parentPort, workerData } from 'node:worker_threads';
import { PlumbError } from '@plumb/kit/errors';
import type { TrainingProgram } from '../training/program.ts';
import type { WireError } from './error-wire.ts';
import { toWireError } from './error-wire.ts';
import type { Lane, LaneMemory } from './lane.ts';
import { openLane } from './lane.ts';
import type { TypedTensor } from './typed-tensor.ts';

/** What the thread is started with. */
export interface LaneThreadData {
  readonly name: string;
  readonly program: TrainingProgram;
  readonly memory: LaneMemory;
}

/** What the thread is asked. */
export type LaneRequest =
  | {
      readonly kind: 'accumulate';
      readonly side: 0 | 1;
      readonly feeds: readonly Readonly<Record<string, TypedTensor>>[];
    }
  | { readonly kind: 'close' };

/** What the thread answers: first `ready` or an error, then one answer a request, in order. */
export type LaneReply =
  | { readonly kind: 'ready' }
  | { readonly kind: 'accumulated'; readonly metrics: number[][]; readonly sum: 0 | 1 }
  | { readonly kind: 'closed' }
  | { readonly kind: 'error'; readonly error: WireError };

const port = parentPort;
if (port !== null) {
  const { name, program, memory } = workerData as LaneThreadData;
  const reply = (message: LaneReply): void => port.postMessage(message);
  const fail = (error: unknown): void => reply({ kind: 'error', error: toWireError(PlumbError.from(error)) });
  let lane: Lane | undefined;
  const answer = async (request: LaneRequest): Promise<void> => {
    if (request.kind === 'close') {
      await lane?.close();
      reply({ kind: 'closed' });
      port.close();
      return;
    }
    if (lane !== undefined)
      reply({ kind: 'accumulated', ...(await lane.accumulate(request.side, request.feeds)) });
  };
  port.on('message', (request: LaneRequest) => {
    answer(request).catch(fail);
  });
  try {
    // One thread a lane: lanes share the processors by themselves.
    lane = await openLane(name, program, memory, 1);
    reply({ kind: 'ready' });
  } catch (error) {
    fail(error);
  }
}
