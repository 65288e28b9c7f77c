/** JudgeService: messages in and out of the domain. */

import { create } from '@bufbuild/protobuf';
import type { MessageInitShape } from '@bufbuild/protobuf';
import type { DurationSchema } from '@bufbuild/protobuf/wkt';
import { invalidArgument, invalidArguments, notFound } from '@plumb/kit/errors';
import type { FieldViolation } from '@plumb/kit/errors';
import type { Implementation } from '@plumb/kit/rpc';
import { videoViolations } from '@plumb/media';
import type { ArtifactSource } from '@plumb/media';
import { JudgeMode, VerdictSchema } from '@plumb/proto/plumb/judge/v1/judge_pb.js';
import type { JudgeService, TokenUsageSchema } from '@plumb/proto/plumb/judge/v1/judge_pb.js';
import type { Video } from '@plumb/proto/plumb/media/v1/video_pb.js';
import { Category } from '@plumb/proto/plumb/prompts/v1/prompt_pb.js';
import type { Prompt as PromptMessage } from '@plumb/proto/plumb/prompts/v1/prompt_pb.js';
import { judgedClip } from './adapters/clip-frames.ts';
import type { Judge } from './domain/judge-definition.ts';
import type { Judging } from './domain/judging.ts';
import type { Prompt } from './domain/question.ts';
import type { JudgeMode as Mode, Category as CategoryName } from './domain/rubric.ts';
import type { ClipVerdict, Judged } from './domain/verdict.ts';

/** Longest prompt, in characters (prompt.proto). */
const longestPrompt = 2000;
const largestPage = 1000;

const modes: Record<Mode, JudgeMode> = {
  binary: JudgeMode.BINARY,
  grade: JudgeMode.GRADE,
  compare: JudgeMode.COMPARE,
};

const categoryNames: Record<Category, CategoryName | undefined> = {
  [Category.UNSPECIFIED]: undefined,
  [Category.OBJECT_REMOVAL]: 'OR',
  [Category.MULTIPLE_OBJECTS]: 'MO',
  [Category.DEFORMABLE_OBJECT]: 'DO',
  [Category.DIRECTIONAL_MOVEMENT]: 'DM',
  [Category.FALLING_DOWN]: 'FD',
};

/** The service's handlers. */
export function judgeService(
  judges: readonly Judge[],
  judging: Judging,
  artifacts: ArtifactSource,
): Implementation<typeof JudgeService> {
  const byName = new Map(judges.map((judge) => [judge.name, judge]));

  function judgeNamed(name: string): Judge {
    const judge = byName.get(name);
    if (judge !== undefined) return judge;
    if (name === '')
      throw invalidArgument('judge', 'is empty; name a judge of ListJudges', { reason: 'MISSING_FIELD' });
    throw notFound('judge', name.slice(0, 80), {
      reason: 'JUDGE_UNKNOWN',
      fix: `known are: ${[...byName.keys()].join(', ')}`,
    });
  }

  return {
    async judge(request, { signal }) {
      const judge = judgeNamed(request.judge);
      if (judge.definition.mode === 'compare') {
        throw invalidArgument(
          'judge',
          `'${judge.name}' compares two clips; call Compare or name another judge`,
        );
      }
      const prompt = promptOf(request.prompt, [videoField(request.video, 'video')]);
      const clip = judgedClip(present(request.video, 'video'), artifacts, 'video');
      const verdict = await judging.judge(judge, prompt, clip, signal);
      return { verdict: toVerdict(judge, verdict) };
    },

    async compare(request, { signal }) {
      const judge = judgeNamed(request.judge);
      if (judge.definition.mode !== 'compare') {
        throw invalidArgument(
          'judge',
          `'${judge.name}' judges one clip; call Judge or name a judge of mode compare`,
        );
      }
      const prompt = promptOf(request.prompt, [
        videoField(request.first, 'first'),
        videoField(request.second, 'second'),
      ]);
      const first = judgedClip(present(request.first, 'first'), artifacts, 'first');
      const second = judgedClip(present(request.second, 'second'), artifacts, 'second');
      const verdict = await judging.compare(judge, prompt, [first, second], signal);
      return {
        firstPreferred: verdict.firstPreferred,
        reason: verdict.reason,
        usage: usageOf(verdict),
        cached: verdict.cached,
      };
    },

    listJudges(request) {
      const { items, nextPageToken } = page(
        judges,
        (judge) => judge.name,
        request.pageSize,
        request.pageToken,
      );
      return Promise.resolve({
        judges: items.map(({ name, definition, rubric, hash }) => ({
          name,
          model: definition.model,
          mode: modes[definition.mode],
          rubricHash: rubric.hash,
          heldOut: definition.heldOut,
          judgeHash: hash,
          version: definition.version,
        })),
        nextPageToken,
      });
    },
  };
}

function toVerdict(judge: Judge, verdict: Judged<ClipVerdict>): MessageInitShape<typeof VerdictSchema> {
  const answer =
    verdict.accept === undefined
      ? { case: 'grade' as const, value: verdict.grade ?? 0 }
      : { case: 'accept' as const, value: verdict.accept };
  return create(VerdictSchema, {
    judge: judge.name,
    answer,
    ...(verdict.probability === undefined ? {} : { probability: verdict.probability }),
    reason: verdict.reason,
    failureMode: verdict.failureMode,
    checks: verdict.checks,
    model: verdict.model,
    rubricHash: judge.rubric.hash,
    usage: usageOf(verdict),
    endpointTime: duration(verdict.endpointMs),
    cached: verdict.cached,
    calls: verdict.calls,
    judgeHash: judge.hash,
    judgeVersion: judge.definition.version,
  });
}

function usageOf(verdict: {
  inputTokens: number;
  outputTokens: number;
}): MessageInitShape<typeof TokenUsageSchema> {
  return { inputTokens: BigInt(verdict.inputTokens), outputTokens: BigInt(verdict.outputTokens) };
}

interface VideoField {
  readonly field: string;
  readonly video: Video | undefined;
}

function videoField(video: Video | undefined, field: string): VideoField {
  return { field, video };
}

/** The prompt of a request, once the whole request is found to be right. */
function promptOf(message: PromptMessage | undefined, videos: readonly VideoField[]): Prompt {
  const violations: FieldViolation[] = videos.flatMap(({ field, video }) => videoViolations(video, field));
  const text = message?.text ?? '';
  if (text.trim() === '')
    violations.push({ field: 'prompt.text', description: 'is missing; say what the clip shall show' });
  if (text.length > longestPrompt) {
    violations.push({
      field: 'prompt.text',
      description: `has ${text.length} characters; at most ${longestPrompt} are allowed`,
    });
  }
  if (violations.length > 0) throw invalidArguments(violations);
  return { text, category: categoryNames[message?.category ?? Category.UNSPECIFIED] };
}

function present(video: Video | undefined, field: string): Video {
  if (video === undefined) throw invalidArgument(field, 'is missing');
  return video;
}

/** One page of a list that fits in memory; the token is the name of the last item of the page before. */
function page<T>(all: readonly T[], nameOf: (item: T) => string, size: number, token: string) {
  const from = token === '' ? 0 : all.findIndex((item) => nameOf(item) === token) + 1;
  if (token !== '' && from === 0)
    throw invalidArgument('page_token', 'is not one that this service gave out');
  const items = all.slice(from, from + Math.min(size > 0 ? size : largestPage, largestPage));
  const last = items.at(-1);
  const more = last !== undefined && from + items.length < all.length;
  return { items, nextPageToken: more ? nameOf(last) : '' };
}

/** A duration in whole nanoseconds; protobuf-es' own helper wants whole milliseconds. */
function duration(ms: number): MessageInitShape<typeof DurationSchema> {
  const nanoseconds = Math.round(ms * 1e6);
  return { seconds: BigInt(Math.floor(nanoseconds / 1e9)), nanos: nanoseconds % 1e9 };
}
