/**
 * The other side of a reward that runs in a thread or process of its own. What talks to it imports this file as well, so the
 * reward itself, with its native libraries, is loaded only when it is hosted.
 */

import { PlumbError } from '@plumb/kit/errors';
import { fromWireError, toWireError } from '@plumb/tensor-graph/engine/error-wire';
import type { WireError } from '@plumb/tensor-graph/engine/error-wire';
import type { LocatedDefinition } from './read-definitions.ts';
import type { RewardInput, RewardModule, RewardResult, RewardValue } from './reward.ts';

/** What a host is started with. */
export interface HostOptions {
  readonly located: LocatedDefinition;
  readonly intraOpThreads: number;
}

/** A batch to score, or the wish to end. */
export type HostRequest =
  | { readonly kind: 'score'; readonly id: number; readonly inputs: readonly RewardInput[] }
  | { readonly kind: 'close' };

/** A result as plain data. */
type WireResult = { readonly score: RewardValue } | { readonly error: WireError };

/** Answers of the host. `ready` or `failed` comes once, first. */
export type HostReply =
  | { readonly kind: 'ready' }
  | { readonly kind: 'failed'; readonly error: WireError }
  | { readonly kind: 'results'; readonly id: number; readonly results: readonly WireResult[] }
  | { readonly kind: 'error'; readonly id: number; readonly error: WireError };

/** Opens the reward and says so; the handler that comes back works on one batch after the other. */
export async function hostReward(
  { located, intraOpThreads }: HostOptions,
  post: (reply: HostReply) => void,
): Promise<(request: HostRequest) => Promise<void>> {
  let module: RewardModule;
  try {
    const { openRewardModule } = await import('./reward-module.ts');
    module = await openRewardModule(located, { intraOpThreads });
  } catch (error) {
    post({ kind: 'failed', error: toWireError(PlumbError.from(error)) });
    return async () => undefined;
  }
  post({ kind: 'ready' });
  let tail: Promise<void> = Promise.resolve();
  const score = async (id: number, inputs: readonly RewardInput[]): Promise<void> => {
    try {
      const results = (await module.score(inputs)).map((result) =>
        'error' in result ? { error: toWireError(result.error) } : result,
      );
      post({ kind: 'results', id, results });
    } catch (error) {
      post({ kind: 'error', id, error: toWireError(PlumbError.from(error)) });
    }
  };
  return (request) => {
    tail = tail.then(() => (request.kind === 'score' ? score(request.id, request.inputs) : module.close()));
    return tail;
  };
}

/** The result that was sent. */
export function fromWire(result: WireResult): RewardResult {
  return 'error' in result ? { error: fromWireError(result.error) } : result;
}
