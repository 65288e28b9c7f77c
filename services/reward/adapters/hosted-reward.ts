/** A reward of `@plumb/rewards` in a process or thread of its own, started again when it dies. */

import { availableParallelism } from 'node:os';
import { PlumbError, describeError, unavailable } from '@plumb/kit/errors';
import { logger } from '@plumb/kit/telemetry';
import { clipBytes } from '@plumb/media';
import { definitionHash, openReward, weightsHash } from '@plumb/rewards';
import type { LocatedDefinition, Reward, RewardDefinition, RewardInput } from '@plumb/rewards';
import type { Batching, ItemResult, RewardKind, RewardState, ScoringItem } from '../domain/reward-scorer.ts';
import { createRoom } from '../domain/room.ts';
import type { ManagedScorer } from './reward-set.ts';

/** How hosted rewards use the machine. */
export interface HostedRewardOptions {
  /** Threads of each model's runtime. */
  readonly intraOpThreads?: number;
}

type HostedKind = Exclude<RewardDefinition['kind'], 'ai-feedback'>;

const kinds: Readonly<Record<HostedKind, RewardKind>> = {
  'clip-score': 'clip-score',
  preference: 'preference',
  'optical-flow': 'optical-flow',
  'motion-floor': 'guard',
  'object-persistence': 'guard',
  'colour-stability': 'guard',
};

/** Guards are a few loops over pixels: no native code that could fall, and nothing that a process would be worth. */
const inThread: ReadonlySet<string> = new Set<HostedKind>([
  'motion-floor',
  'object-persistence',
  'colour-stability',
]);

/** Two batches at a time: one is on its way to the model while the other is scored. */
const batching: Batching = { largestBatch: 32, largestDelayMs: 2, concurrentBatches: 2, largestQueue: 4096 };

/** Clips that travel to the model together: up to so many bytes, or one. */
const largestGroupBytes = 2 ** 25;
/** Clips of each reward that are decoded and wait for a batch or are in one, in bytes: 256 MiB. */
const preparedBytes = 2 ** 28;
/** What a clip counts as until its file has said how large it is: 32 MiB. */
const unknownBytes = 2 ** 25;

const restartMs = { first: 500, most: 30_000 };

/** Opens a reward and keeps it open. */
export function hostedReward(located: LocatedDefinition, options: HostedRewardOptions): ManagedScorer {
  const { definition } = located;
  if (definition.kind === 'ai-feedback') throw new TypeError('a verdict is not scored here');
  const log = logger('reward');
  const { name, version } = definition;
  const room = createRoom(preparedBytes);
  const first = Promise.withResolvers<void>();
  first.promise.catch(() => undefined);
  let state: RewardState = { serving: false, reason: 'it is being loaded' };
  let reward: Reward | undefined;
  let timer: NodeJS.Timeout | undefined;
  let closed = false;
  let failures = 0;

  async function start(): Promise<void> {
    try {
      const opened = await openReward(located, {
        form: inThread.has(definition.kind) ? 'worker' : 'process',
        intraOpThreads: options.intraOpThreads ?? availableParallelism(),
      });
      if (closed) {
        await opened.close();
        return;
      }
      reward = opened;
      state = { serving: true };
      failures = 0;
      first.resolve();
      log.info({ reward: name, version }, 'a reward is ready');
      const end = await opened.ended;
      if (closed) return;
      reward = undefined;
      fail(end ?? unavailable(`reward '${name}' ended by itself`, { reason: 'ENGINE_FAILED' }));
    } catch (thrown) {
      if (!closed) fail(PlumbError.from(thrown));
    }
  }

  function fail(error: PlumbError): void {
    failures += 1;
    state = { serving: false, reason: error.message };
    first.reject(error);
    const again = Math.min(restartMs.most, restartMs.first * 2 ** (failures - 1));
    log.error({ reward: name, error: describeError(error), againMs: again }, 'a reward is down');
    timer = setTimeout(() => void start(), again);
    timer.unref();
  }
  void start();

  async function scoreGroup(inputs: readonly RewardInput[]): Promise<readonly ItemResult[]> {
    const using = reward;
    if (using === undefined) {
      const reason = state.serving ? 'it has just ended' : state.reason;
      throw unavailable(`reward '${name}' is not serving: ${reason}`, {
        reason: 'REWARD_FAILED',
        retryAfterMs: 1000,
      });
    }
    return using.score(inputs);
  }

  return {
    info: {
      name,
      description: definition.description,
      version,
      definitionHash: definitionHash(definition),
      weightsHash: weightsHash(definition),
      kind: kinds[definition.kind],
      minimum: definition.range.minimum,
      maximum: definition.range.maximum,
      higherIsBetter: definition.direction === 'higher',
      framesSampled: definition.frames === 'all' ? 0 : definition.frames.count,
      fpsExpected: definition.fps === 'any' ? 0 : definition.fps,
    },
    batching,
    cacheable: true,
    state: () => state,
    async prepare(item) {
      const share = await room.take(item.clipBytes ?? unknownBytes, item.signal);
      try {
        const clip = await item.clip();
        share.resize(clipBytes(clip));
        const prepared: ScoringItem = { ...item, clip: () => Promise.resolve(clip) };
        return { item: prepared, [Symbol.dispose]: () => share[Symbol.dispose]() };
      } catch (error) {
        share[Symbol.dispose]();
        throw error;
      }
    },
    async score(items) {
      const inputs = await Promise.all(
        items.map(async (item) => ({ clip: await item.clip(), prompt: item.prompt.text })),
      );
      const results: ItemResult[] = [];
      for (const group of groupsOf(inputs)) results.push(...(await scoreGroup(group)));
      return results;
    },
    ready: () => first.promise,
    async close() {
      closed = true;
      clearTimeout(timer);
      state = { serving: false, reason: 'it is closed' };
      await reward?.close();
    },
  };
}

/** Inputs in their order, cut where a group's clips would take more than travels together. */
function groupsOf(inputs: readonly RewardInput[]): RewardInput[][] {
  const groups: RewardInput[][] = [];
  let bytes = Infinity;
  for (const input of inputs) {
    const size = clipBytes(input.clip);
    if (bytes + size > largestGroupBytes) {
      groups.push([]);
      bytes = 0;
    }
    groups.at(-1)?.push(input);
    bytes += size;
  }
  return groups;
}
