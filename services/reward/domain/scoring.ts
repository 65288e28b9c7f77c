/** Scores items with rewards: cache, batcher, exchange while running, and an outcome whatever happens. */

import { context, trace } from '@opentelemetry/api';
import { LRUCache } from 'lru-cache';
import { recordError, tracer, withSpan } from '@plumb/kit/telemetry';
import { contentHash } from '@plumb/kit/content-hash';
import { PlumbError, notFound } from '@plumb/kit/errors';
import { createBatcher } from './batcher.ts';
import type { Batcher, BatchReport, Priority } from './batcher.ts';
import type { ItemResult, RewardInfo, RewardScorer, ScoreValue, ScoringItem } from './reward-scorer.ts';
import { compareScores } from './shadow-comparison.ts';
import type { ShadowComparison, ShadowReport } from './shadow-comparison.ts';

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
  /** As they are at the moment, in the order in which their names came. */
  readonly rewards: readonly RewardScorer[];
  /** @throws PlumbError NOT_FOUND, reason REWARD_UNKNOWN, naming the rewards that there are */
  reward(name: string): RewardScorer;
  /** Scores an item with one reward. Never throws but for an unknown reward: what goes wrong is the outcome. */
  score(reward: string, item: ScoringItem, priority: Priority): Promise<Outcome>;
  /** Items that wait for a reward. */
  waiting(reward: string): number;
  /**
   * Adds a reward, or puts it in the place of the one with its name: items that wait are scored by the new one, and no
   * call notices. Resolves when the former one has finished its last batch and may be closed.
   */
  install(scorer: RewardScorer): Promise<void>;
  /** Takes a reward away; resolves when it has finished what was handed in. */
  remove(name: string): Promise<void>;
  /**
   * Lets a candidate score what the reward of its name scores, after it and seen by nobody but the report.
   *
   * @throws PlumbError NOT_FOUND when there is no reward of that name
   */
  shadow(candidate: RewardScorer): void;
  /** Ends the shadow of a reward; resolves when the candidate has finished its last batch. */
  endShadow(name: string): Promise<void>;
  /** How the candidate of a reward compares; undefined when it has none. */
  shadowReport(name: string): ShadowReport | undefined;
}

interface Candidate {
  readonly scorer: RewardScorer;
  readonly runner: Runner;
  readonly batcher: Batcher;
  readonly comparison: ShadowComparison;
}

interface Slot {
  scorer: RewardScorer;
  runner: Runner;
  readonly batcher: Batcher;
  candidate: Candidate | undefined;
}

/** A shadow that cannot keep up skips items; it never holds what callers wait for. */
const largestShadowQueue = 256;

/**
 * @param remembered Scores that are kept, in memory: making one again costs less than a round trip to a store would, and
 *   verdicts, which cost more, are kept by the judge.
 */
export function createScoring(
  rewards: readonly RewardScorer[],
  events: ScoringEvents = {},
  remembered = 50_000,
): Scoring {
  const slots = new Map<string, Slot>();
  const cache = new LRUCache<string, ScoreValue>({ max: remembered });

  function install(scorer: RewardScorer): Promise<void> {
    const { name } = scorer.info;
    const runner = createRunner(scorer);
    const slot = slots.get(name);
    if (slot !== undefined) {
      const former = slot.runner;
      slot.scorer = scorer;
      slot.runner = runner;
      return former.idle();
    }
    const fresh: Slot = {
      scorer,
      runner,
      candidate: undefined,
      batcher: createBatcher(name, {
        batching: () => fresh.scorer.batching,
        prepare: (item) => fresh.scorer.prepare?.(item),
        score: async (items) => {
          const { info, cacheable } = fresh.scorer;
          const results = await tracedBatch(name, fresh.scorer, items, () => fresh.runner.score(items));
          // Kept here, so that a score whose caller has left by now is there when it comes again.
          if (cacheable)
            for (const [index, result] of results.entries()) remember(info, items[index], result);
          return results;
        },
        report: (batch) => events.batch?.(name, batch),
      }),
    };
    slots.set(name, fresh);
    return Promise.resolve();
  }
  for (const scorer of rewards) void install(scorer);

  function entry(name: string): Slot {
    const found = slots.get(name);
    if (found !== undefined) return found;
    throw notFound('reward', name.slice(0, 80), {
      reason: 'REWARD_UNKNOWN',
      fix: `known are: ${[...slots.keys()].join(', ')}`,
    });
  }

  function remember(info: RewardInfo, item: ScoringItem | undefined, result: ItemResult): void {
    if (item === undefined || !('score' in result) || !Number.isFinite(result.score.value)) return;
    const { version = info.version, weightsHash = info.weightsHash } = result.score;
    // What made the value is what it is kept under: the reward may have been exchanged while the item waited.
    cache.set(cacheKey({ name: info.name, version, weightsHash }, item), result.score);
  }

  async function measure(slot: Slot, item: ScoringItem, priority: Priority): Promise<Outcome> {
    const start = performance.now();
    const { scorer, batcher } = slot;
    const { name, version, weightsHash } = scorer.info;
    const shared = { reward: name, version, weightsHash };
    const known = scorer.cacheable ? cache.get(cacheKey(scorer.info, item)) : undefined;
    if (known !== undefined) {
      const timings = { queueMs: 0, inferenceMs: 0, totalMs: performance.now() - start };
      return { ...shared, result: { score: known }, timings, cached: true };
    }
    const batched = await batcher.submit(item, priority);
    const { queueMs, inferenceMs } = batched;
    const timings = { queueMs, inferenceMs, totalMs: performance.now() - start };
    if ('error' in batched) return { ...shared, result: { error: batched.error }, timings, cached: false };
    const { score } = batched;
    if (!Number.isFinite(score.value)) {
      const error = new PlumbError({
        code: 'INTERNAL',
        reason: 'REWARD_FAILED',
        message: `reward '${name}' gave ${score.value}, which is no score`,
      });
      return { ...shared, result: { error }, timings, cached: false };
    }
    return {
      reward: name,
      version: score.version ?? version,
      weightsHash: score.weightsHash ?? weightsHash,
      result: { score },
      timings,
      cached: score.cached ?? false,
    };
  }

  /** Has the candidate score what the reward has just scored. Nobody waits for it, so nothing of the call binds it. */
  async function follow(candidate: Candidate, item: ScoringItem, outcome: Outcome): Promise<void> {
    if (outcome.cached) return;
    const followed = await candidate.batcher.submit({ ...item, signal: never, deadline: undefined }, 'bulk');
    candidate.comparison.add(outcome, followed);
  }

  return {
    get rewards() {
      return [...slots.values()].map(({ scorer }) => scorer);
    },
    reward: (name) => entry(name).scorer,
    async score(name, item, priority) {
      const slot = entry(name);
      const attributes = { 'plumb.reward': name, 'plumb.priority': priority };
      const outcome = await withSpan(spans, `score ${name}`, { attributes }, async (span) => {
        const measured = await measure(slot, { ...item, trace: context.active() }, priority);
        span.setAttributes({ 'plumb.reward.version': measured.version, 'plumb.cached': measured.cached });
        if ('error' in measured.result) recordError(span, measured.result.error);
        return measured;
      });
      events.outcome?.(outcome);
      if (slot.candidate !== undefined) void follow(slot.candidate, item, outcome);
      return outcome;
    },
    waiting: (name) => entry(name).batcher.waiting,
    install,
    async remove(name) {
      const slot = slots.get(name);
      if (slot === undefined) return;
      slots.delete(name);
      await Promise.all([slot.batcher.idle(), slot.candidate?.runner.idle()]);
    },
    shadow(candidate) {
      const slot = entry(candidate.info.name);
      const runner = createRunner(candidate);
      slot.candidate = {
        scorer: candidate,
        runner,
        comparison: compareScores(),
        batcher: createBatcher(`candidate of ${candidate.info.name}`, {
          batching: () => ({ ...candidate.batching, concurrentBatches: 1, largestQueue: largestShadowQueue }),
          prepare: (item) => candidate.prepare?.(item),
          score: (items) => runner.score(items),
        }),
      };
    },
    async endShadow(name) {
      const slot = slots.get(name);
      const candidate = slot?.candidate;
      if (slot === undefined || candidate === undefined) return;
      slot.candidate = undefined;
      await candidate.batcher.idle();
    },
    shadowReport(name) {
      const { scorer, candidate } = entry(name);
      return candidate?.comparison.report(scorer.info, candidate.scorer.info);
    },
  };
}

const never = new AbortController().signal;
const spans = tracer('plumb-reward');

/**
 * Items that are scored together belong to no sample, so their batch is a trace of its own, with links to its items and
 * theirs to it. What is scored one by one stays in the trace of its item.
 */
function tracedBatch<Result>(
  name: string,
  { batching }: RewardScorer,
  items: readonly ScoringItem[],
  work: () => Promise<Result>,
): Promise<Result> {
  const [first] = items;
  if (batching.largestBatch === 1) return context.with(first?.trace ?? context.active(), work);
  const attributes = { 'plumb.reward': name, 'plumb.batch.size': items.length };
  return withSpan(spans, 'score batch', { root: true, attributes }, (batch) => {
    for (const { trace: origin } of items) {
      const span = origin === undefined ? undefined : trace.getSpan(origin);
      if (span === undefined) continue;
      batch.addLink({ context: span.spanContext() });
      span.addLink({ context: batch.spanContext() });
    }
    return work();
  });
}

/** A scorer, its running batches counted and its values marked with what made them. */
interface Runner {
  score(items: readonly ScoringItem[]): Promise<readonly ItemResult[]>;
  /** Resolves when no batch runs. */
  idle(): Promise<void>;
}

function createRunner(scorer: RewardScorer): Runner {
  let running = 0;
  let idle = Promise.withResolvers<void>();
  idle.resolve();
  return {
    async score(items) {
      if (running === 0) idle = Promise.withResolvers();
      running += 1;
      try {
        const results = await scorer.score(items);
        const { version, weightsHash } = scorer.info;
        return results.map((result) =>
          'score' in result ? { score: { version, weightsHash, ...result.score } } : result,
        );
      } finally {
        running -= 1;
        if (running === 0) idle.resolve();
      }
    },
    idle: () => idle.promise,
  };
}

/** What a value depends on: how the clip's bytes are read, the prompt, and everything that makes the reward. */
function cacheKey(
  { name, version, weightsHash }: Pick<RewardInfo, 'name' | 'version' | 'weightsHash'>,
  { clipHash, video, prompt }: ScoringItem,
): string {
  return contentHash({
    reward: name,
    version,
    weightsHash,
    clip: clipHash,
    read: [video.mediaType, video.width, video.height, video.frameCount, video.fps],
    text: prompt.text,
    category: prompt.category,
  });
}
