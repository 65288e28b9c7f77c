/** Scores items with rewards: cache, batcher, and an outcome whatever happens. */

import { LRUCache } from 'lru-cache';
import { PlumbError, notFound } from '@plumb/kit/errors';
import { createBatcher } from './batcher.ts';
import type { Batcher, BatchReport, Priority } from './batcher.ts';
import { contentHash } from '@plumb/kit/content-hash';
import type { RewardScorer, ScoreValue, ScoringItem } from './reward-scorer.ts';

/** Times of one outcome, in milliseconds. */
export interface Timings {
  readonly queueMs: number;
  readonly inferenceMs: number;
  readonly totalMs: number;
}

/** A value or a typed error of one reward for one item; never a value that stands for an error. */
export interface Outcome {
  readonly reward: string;
  readonly version: string;
  readonly weightsHash: string;
  readonly result: { readonly score: ScoreValue } | { readonly error: PlumbError };
  readonly timings: Timings;
  readonly cached: boolean;
}

/** What the outside is told. */
export interface ScoringEvents {
  outcome?(outcome: Outcome): void;
  batch?(reward: string, batch: BatchReport): void;
}

/** All rewards of this service. */
export interface Scoring {
  readonly rewards: readonly RewardScorer[];
  /** @throws PlumbError NOT_FOUND, reason REWARD_UNKNOWN, naming the rewards that there are */
  reward(name: string): RewardScorer;
  /** Scores an item with one reward. Never throws but for an unknown reward: what goes wrong is the outcome. */
  score(reward: string, item: ScoringItem, priority: Priority): Promise<Outcome>;
  /** Items that wait for a reward. */
  waiting(reward: string): number;
}

/** @param remembered Scores that are kept. */
export function createScoring(
  rewards: readonly RewardScorer[],
  events: ScoringEvents = {},
  remembered = 50_000,
): Scoring {
  const batchers = new Map<string, { scorer: RewardScorer; batcher: Batcher }>();
  for (const scorer of rewards) {
    const { name } = scorer.info;
    const batcher = createBatcher(
      name,
      scorer.batching,
      (items) => scorer.score(items),
      (batch) => events.batch?.(name, batch),
    );
    batchers.set(name, { scorer, batcher });
  }
  const cache = new LRUCache<string, ScoreValue>({ max: remembered });

  function entry(name: string): { scorer: RewardScorer; batcher: Batcher } {
    const found = batchers.get(name);
    if (found !== undefined) return found;
    throw notFound('reward', name.slice(0, 80), {
      reason: 'REWARD_UNKNOWN',
      fix: `known are: ${[...batchers.keys()].join(', ')}`,
    });
  }

  async function measure(name: string, item: ScoringItem, priority: Priority): Promise<Outcome> {
    const start = performance.now();
    const { scorer, batcher } = entry(name);
    const { version, weightsHash } = scorer.info;
    const shared = { reward: name, version, weightsHash };
    const key = scorer.cacheable ? cacheKey(scorer, item) : undefined;
    const known = key === undefined ? undefined : cache.get(key);
    if (known !== undefined) {
      const timings = { queueMs: 0, inferenceMs: 0, totalMs: performance.now() - start };
      return { ...shared, result: { score: known }, timings, cached: true };
    }
    try {
      const { score, queueMs, inferenceMs } = await batcher.submit(item, priority);
      if (!Number.isFinite(score.value)) {
        throw new PlumbError({
          code: 'INTERNAL',
          reason: 'REWARD_FAILED',
          message: `reward '${name}' gave ${score.value}, which is no score`,
        });
      }
      if (key !== undefined) cache.set(key, score);
      return {
        ...shared,
        version: score.version ?? version,
        weightsHash: score.weightsHash ?? weightsHash,
        result: { score },
        timings: { queueMs, inferenceMs, totalMs: performance.now() - start },
        cached: score.cached ?? false,
      };
    } catch (thrown) {
      const timings = { queueMs: 0, inferenceMs: 0, totalMs: performance.now() - start };
      return { ...shared, result: { error: PlumbError.from(thrown) }, timings, cached: false };
    }
  }

  return {
    rewards,
    reward: (name) => entry(name).scorer,
    async score(name, item, priority) {
      const outcome = await measure(name, item, priority);
      events.outcome?.(outcome);
      return outcome;
    },
    waiting: (name) => entry(name).batcher.waiting,
  };
}

/** What a value depends on: how the clip's bytes are read, the prompt, and everything that makes the reward. */
function cacheKey({ info }: RewardScorer, { clipHash, video, prompt }: ScoringItem): string {
  return contentHash({
    reward: info.name,
    version: info.version,
    weightsHash: info.weightsHash,
    clip: clipHash,
    shape: [video.width, video.height, video.frameCount, video.fps],
    text: prompt.text,
    category: prompt.category,
  });
}
