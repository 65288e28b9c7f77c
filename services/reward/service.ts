/** RewardService: messages in and out of the domain. */

import { create } from '@bufbuild/protobuf';
import type { MessageInitShape } from '@bufbuild/protobuf';
import {
  PlumbError,
  failedPrecondition,
  invalidArgument,
  invalidArguments,
  toStatus,
} from '@plumb/kit/errors';
import type { FieldViolation } from '@plumb/kit/errors';
import type { CallContext, Implementation } from '@plumb/kit/rpc';
import { maxInlineClipBytes, videoViolations } from '@plumb/media';
import type { Video } from '@plumb/proto/plumb/media/v1/video_pb.js';
import {
  Priority as PriorityMessage,
  RewardHealth,
  RewardKind as RewardKindMessage,
  RewardSchema,
  ScoredItemSchema,
} from '@plumb/proto/plumb/reward/v1/reward_pb.js';
import type {
  RewardService,
  ScoreItem,
  ScoreStreamRequest,
  ScoredItem,
} from '@plumb/proto/plumb/reward/v1/reward_pb.js';
import type { ClipReader } from './adapters/clip-reader.ts';
import { duration, outcomeMessage } from './adapters/outcome-message.ts';
import type { RewardSet } from './adapters/reward-set.ts';
import { scoringItem } from './adapters/scoring-item.ts';
import { shadowMessage } from './adapters/shadow-message.ts';
import { createByteBudget } from './domain/byte-budget.ts';
import type { Priority } from './domain/batcher.ts';
import { promptViolations } from './domain/prompt-violations.ts';
import { readyFirst } from './domain/ready-first.ts';
import type { RewardKind, RewardScorer } from './domain/reward-scorer.ts';
import type { Scoring } from './domain/scoring.ts';

/** Most items of a call, and most items of a stream that are worked on at a time. */
export const maxItems = 64;
const largestPage = 1000;
const longestId = 200;

const kinds: Record<RewardKind, RewardKindMessage> = {
  'clip-score': RewardKindMessage.CLIP_SCORE,
  preference: RewardKindMessage.PREFERENCE,
  'optical-flow': RewardKindMessage.OPTICAL_FLOW,
  'ai-feedback': RewardKindMessage.AI_FEEDBACK,
  guard: RewardKindMessage.GUARD,
};

/** How one call is to be scored. */
interface CallSettings {
  readonly rewards: readonly string[];
  readonly priority: Priority;
  readonly runId: string;
  /** Nothing learns from the scores. */
  readonly evaluation?: boolean;
}

/** What the service is made of. */
export interface RewardServiceParts {
  readonly scoring: Scoring;
  readonly rewards: RewardSet;
  readonly clips: ClipReader;
  /** Bytes of clips inside of messages that are held at a time. */
  readonly maxInlineBytesHeld: number;
}

/** The service's handlers. */
export function rewardService(parts: RewardServiceParts): Implementation<typeof RewardService> {
  const { scoring, rewards: rewardSet, clips } = parts;
  const refusal = clips.source.refusal?.bind(clips.source);
  const violationsOf = (video: Video | undefined, field: string): readonly FieldViolation[] =>
    videoViolations(video, field, refusal, clips.limits);
  const held = createByteBudget(parts.maxInlineBytesHeld);

  /** Scores an item; whatever is wrong with it is its own outcome. */
  async function scoreItem(
    item: ScoreItem | undefined,
    field: string,
    { rewards, priority, runId, evaluation = false }: CallSettings,
    { signal, deadline }: CallContext,
    found: readonly FieldViolation[] = [],
  ): Promise<ScoredItem> {
    const start = performance.now();
    try {
      const violations = [...found, ...itemViolations(item, field, violationsOf)];
      const { video, prompt } = item ?? {};
      if (violations.length > 0 || video === undefined || prompt === undefined)
        throw invalidArguments(violations);
      const source = { video, prompt, runId, field: `${field}.video`, signal, deadline, evaluation };
      const scored = scoringItem(source, clips);
      const outcomes = await Promise.all(rewards.map((reward) => scoring.score(reward, scored, priority)));
      return create(ScoredItemSchema, { id: item?.id ?? '', outcomes: outcomes.map(outcomeMessage) });
    } catch (thrown) {
      return failedItem(item?.id ?? '', rewards, PlumbError.from(thrown), performance.now() - start);
    }
  }

  /** One item of a stream, which goes on whatever is wrong with it. */
  async function scoreStreamed(request: ScoreStreamRequest, call: CallContext): Promise<ScoredItem> {
    const { rewards, runId, item } = request;
    const wrong = rewardsViolations(rewards);
    // Without a reward to answer for, there is no outcome to put an error in.
    if (wrong.length > 0) throw invalidArguments(wrong);
    try {
      for (const reward of rewards) scoring.reward(reward);
      using _ = held.take(inlineBytes(item?.video));
      return await scoreItem(item, 'item', { rewards, priority: priorityOf(request.priority), runId }, call);
    } catch (thrown) {
      return failedItem(item?.id ?? '', rewards, PlumbError.from(thrown), 0);
    }
  }

  return {
    async score(request, call) {
      const violations = rewardsViolations(request.rewards);
      if (request.items.length === 0)
        violations.push({ field: 'items', description: 'is empty; give 1 to 64 items' });
      if (request.items.length > maxItems) {
        violations.push({
          field: 'items',
          description: `has ${request.items.length} items; give at most ${maxItems}`,
        });
      }
      if (violations.length > 0) throw invalidArguments(violations);
      for (const reward of request.rewards) scoring.reward(reward);
      using _ = held.take(request.items.reduce((sum, { video }) => sum + inlineBytes(video), 0));
      const settings = {
        rewards: request.rewards,
        priority: priorityOf(request.priority),
        runId: request.runId,
        evaluation: request.evaluation,
      };
      const ids = new Set<string>();
      const items = await Promise.all(
        request.items.map((item, index) => {
          const field = `items[${index}]`;
          const twice = item.id !== '' && ids.has(item.id);
          ids.add(item.id);
          const found = twice ? [{ field: `${field}.id`, description: `'${item.id}' is there twice` }] : [];
          return scoreItem(item, field, settings, call, found);
        }),
      );
      return { items };
    },

    async *scoreStream(requests, call) {
      for await (const item of readyFirst(requests, maxItems, (request) => scoreStreamed(request, call))) {
        yield { item };
      }
    },

    listRewards({ pageSize, pageToken }) {
      const from =
        pageToken === '' ? 0 : scoring.rewards.findIndex(({ info }) => info.name === pageToken) + 1;
      if (pageToken !== '' && from === 0)
        throw invalidArgument('page_token', 'is not one that this service gave out');
      const page = scoring.rewards.slice(
        from,
        from + Math.min(pageSize > 0 ? pageSize : largestPage, largestPage),
      );
      const more = from + page.length < scoring.rewards.length;
      return {
        rewards: page.map((reward) => rewardMessage(reward, scoring, clips)),
        nextPageToken: more ? (page.at(-1)?.info.name ?? '') : '',
      };
    },

    getReward: ({ name }) => ({ reward: rewardMessage(scoring.reward(name), scoring, clips) }),

    getShadowReport({ name }) {
      const report = scoring.shadowReport(name);
      if (report !== undefined) return { report: shadowMessage(report) };
      throw failedPrecondition(
        `reward '${scoring.reward(name).info.name}' has no candidate; put its definition into the folder candidates`,
      );
    },

    async reloadRewards() {
      const { refused, added, exchanged, removed } = await rewardSet.reload();
      const statuses = [...refused].map(([name, error]) => [name, toStatus(error)] as const);
      return {
        added: [...added],
        exchanged: [...exchanged],
        removed: [...removed],
        refused: Object.fromEntries(statuses),
      };
    },
  };
}

function priorityOf(priority: PriorityMessage): Priority {
  return priority === PriorityMessage.BULK ? 'bulk' : 'interactive';
}

function rewardsViolations(rewards: readonly string[]): FieldViolation[] {
  if (rewards.length === 0)
    return [{ field: 'rewards', description: 'is empty; name at least one of ListRewards' }];
  const twice = rewards.findIndex((reward, index) => rewards.indexOf(reward) !== index);
  return twice === -1
    ? []
    : [{ field: `rewards[${twice}]`, description: `'${rewards[twice] ?? ''}' is there twice` }];
}

function itemViolations(
  item: ScoreItem | undefined,
  field: string,
  violationsOf: (video: Video | undefined, field: string) => readonly FieldViolation[],
): FieldViolation[] {
  const violations: FieldViolation[] = [];
  const id = item?.id ?? '';
  if (id === '')
    violations.push({ field: `${field}.id`, description: 'is missing; it comes back with the result' });
  if (id.length > longestId) {
    violations.push({
      field: `${field}.id`,
      description: `has ${id.length} characters; at most ${longestId} are allowed`,
    });
  }
  violations.push(
    ...violationsOf(item?.video, `${field}.video`),
    ...promptViolations(item?.prompt, `${field}.prompt`),
  );
  return violations;
}

/** An item for which no reward could be asked: each one's outcome is the error. */
function failedItem(id: string, rewards: readonly string[], error: PlumbError, totalMs: number): ScoredItem {
  const timings = { queueMs: 0, inferenceMs: 0, totalMs };
  return create(ScoredItemSchema, {
    id,
    outcomes: rewards.map((reward) =>
      outcomeMessage({ reward, version: '', weightsHash: '', result: { error }, timings, cached: false }),
    ),
  });
}

function inlineBytes(video: Video | undefined): number {
  return video?.source.case === 'inline' ? video.source.value.length : 0;
}

function rewardMessage(
  scorer: RewardScorer,
  scoring: Scoring,
  { limits }: ClipReader,
): MessageInitShape<typeof RewardSchema> {
  const { info, batching } = scorer;
  const state = scorer.state();
  return create(RewardSchema, {
    name: info.name,
    version: info.version,
    kind: kinds[info.kind],
    weightsHash: info.weightsHash,
    ...(info.minimum === undefined ? {} : { minimum: info.minimum }),
    ...(info.maximum === undefined ? {} : { maximum: info.maximum }),
    higherIsBetter: info.higherIsBetter,
    framesSampled: info.framesSampled,
    fpsExpected: info.fpsExpected,
    maxItems,
    health: state.serving ? RewardHealth.SERVING : RewardHealth.NOT_SERVING,
    healthReason: state.serving ? '' : state.reason,
    definitionHash: info.definitionHash,
    description: info.description,
    limits: {
      maxItems,
      maxFrames: limits.maxFrames,
      maxClipPixels: BigInt(limits.maxPixels),
      maxInlineBytes: BigInt(maxInlineClipBytes),
      largestBatch: batching.largestBatch,
      largestDelay: duration(batching.largestDelayMs),
      largestQueue: batching.largestQueue,
    },
    waiting: scoring.waiting(info.name),
    shadowed: scoring.shadowReport(info.name) !== undefined,
    judge: info.judge ?? '',
  });
}
