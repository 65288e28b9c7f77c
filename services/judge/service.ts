/** JudgeService: messages in and out of the domain. */

import { create } from '@bufbuild/protobuf';
import type { MessageInitShape } from '@bufbuild/protobuf';
import type { DurationSchema } from '@bufbuild/protobuf/wkt';
import { failedPrecondition, invalidArgument, invalidArguments, notFound } from '@plumb/kit/errors';
import type { FieldViolation } from '@plumb/kit/errors';
import type { Implementation } from '@plumb/kit/rpc';
import { videoViolations } from '@plumb/media';
import type { ArtifactSource } from '@plumb/media';
import { EndpointState, JudgeMode, Purpose, VerdictSchema } from '@plumb/proto/plumb/judge/v1/judge_pb.js';
import type {
  CostSchema,
  JudgeInfoSchema,
  JudgeService,
  SpendSchema,
  TokenUsageSchema,
} from '@plumb/proto/plumb/judge/v1/judge_pb.js';
import type { Video } from '@plumb/proto/plumb/media/v1/video_pb.js';
import { Category } from '@plumb/proto/plumb/prompts/v1/prompt_pb.js';
import type { Prompt as PromptMessage } from '@plumb/proto/plumb/prompts/v1/prompt_pb.js';
import { judgedClip } from './adapters/clip-pictures.ts';
import type { JudgeHealth } from './adapters/judge-health.ts';
import { toRequest } from './adapters/openai-endpoint.ts';
import type { ClipVerdict } from './domain/clip-verdict.ts';
import { contentHash } from '@plumb/kit/content-hash';
import { rubricFor } from './domain/judge-definition.ts';
import type { Judge, Panel } from './domain/judge-definition.ts';
import type { EndpointAccess, JudgedClip, Judging } from './domain/judging.ts';
import type { Prompt, Question } from './domain/question.ts';
import type { JudgeMode as Mode, Category as CategoryName } from './domain/rubric.ts';
import type { Budget, Spend, Spending, Totals } from '@plumb/endpoint';
import { costOf } from './domain/token-estimate.ts';

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

/** What the service needs. */
export interface JudgeServiceParts {
  readonly judges: readonly Judge[];
  readonly panels: readonly Panel[];
  readonly endpoints: readonly EndpointAccess[];
  readonly currency: string;
  readonly judging: Judging;
  readonly spending: Spending;
  readonly artifacts: ArtifactSource;
  readonly health: Pick<JudgeHealth, 'problemOf'>;
}

type Named = { readonly judge: Judge } | { readonly panel: Panel };

/** The service's handlers. */
export function judgeService(parts: JudgeServiceParts): Implementation<typeof JudgeService> {
  const { judges, panels, endpoints, currency, judging, spending, artifacts, health } = parts;
  const byName = new Map<string, Named>([
    ...judges.map((judge): [string, Named] => [judge.name, { judge }]),
    ...panels.map((panel): [string, Named] => [panel.name, { panel }]),
  ]);

  function named(name: string, purpose: Purpose): Named {
    const found = byName.get(name);
    if (found === undefined) {
      if (name === '')
        throw invalidArgument('judge', 'is empty; name a judge of ListJudges', { reason: 'MISSING_FIELD' });
      throw notFound('judge', name.slice(0, 80), {
        reason: 'JUDGE_UNKNOWN',
        fix: `known are: ${[...byName.keys()].join(', ')}`,
      });
    }
    const heldOut = 'judge' in found ? found.judge.definition.heldOut : found.panel.heldOut;
    if (heldOut && purpose !== Purpose.EVALUATION) {
      throw failedPrecondition(
        `judge '${name}' is held out: it gives no verdicts for training; name another judge, or ask with PURPOSE_EVALUATION if nothing learns from the answer`,
        { reason: 'JUDGE_HELD_OUT', metadata: { judge: name } },
      );
    }
    return found;
  }

  async function explain(members: readonly Judge[], prompt: Prompt, clip: JudgedClip): Promise<string[]> {
    const questions = await Promise.all(members.map((judge) => judging.questions(judge, prompt, clip)));
    return questions.flat().map(bodyOf);
  }

  return {
    async judge(request, { signal, deadline }) {
      const found = named(request.judge, request.purpose);
      if ('judge' in found && found.judge.definition.mode === 'compare') {
        throw invalidArgument(
          'judge',
          `'${request.judge}' compares two clips; call Compare or name another judge`,
        );
      }
      const prompt = promptOf(request.prompt, [videoField(request.video, 'video')]);
      const clip = judgedClip(present(request.video, 'video'), artifacts, 'video');
      const asker = { runId: runIdOf(request.runId), signal, deadline };
      const members = 'judge' in found ? [found.judge] : found.panel.members;
      const explained = request.explain || request.explainOnly;
      const requestBodies = explained ? await explain(members, prompt, clip) : [];
      if (request.explainOnly) return { requestBodies };
      if ('judge' in found) {
        const verdict = await judging.judge(found.judge, prompt, clip, asker);
        return { verdict: toVerdict(found.judge, prompt, verdict, currency), requestBodies };
      }
      const { panel } = found;
      const verdict = await judging.consult(panel, prompt, clip, asker);
      return { verdict: toPanelVerdict(panel, prompt, verdict, currency), requestBodies };
    },

    async compare(request, { signal, deadline }) {
      const found = named(request.judge, request.purpose);
      if (!('judge' in found) || found.judge.definition.mode !== 'compare') {
        throw invalidArgument(
          'judge',
          `'${request.judge}' judges one clip; call Judge or name a judge of mode compare`,
        );
      }
      const prompt = promptOf(request.prompt, [
        videoField(request.first, 'first'),
        videoField(request.second, 'second'),
      ]);
      const first = judgedClip(present(request.first, 'first'), artifacts, 'first');
      const second = judgedClip(present(request.second, 'second'), artifacts, 'second');
      const asker = { runId: runIdOf(request.runId), signal, deadline };
      const questions =
        request.explain || request.explainOnly
          ? await judging.comparisonQuestions(found.judge, prompt, [first, second])
          : [];
      const requestBodies = questions.map(bodyOf);
      if (request.explainOnly) return { requestBodies };
      const verdict = await judging.compare(found.judge, prompt, [first, second], asker);
      return {
        firstPreferred: verdict.firstPreferred,
        reason: verdict.reason,
        usage: usageOf(verdict),
        cached: verdict.cached,
        rubricHash: rubricFor(found.judge, prompt.category).hash,
        judgeHash: found.judge.hash,
        judgeVersion: found.judge.definition.version,
        cost: priceOf(found.judge, verdict, currency),
        calls: verdict.calls,
        model: verdict.model,
        requestBodies,
      };
    },

    listJudges(request) {
      const problemOf = ({ name }: Judge): string[] => [health.problemOf(name) ?? []].flat();
      const infos = [
        ...judges.map((judge) => judgeInfo(judge, problemOf(judge))),
        ...panels.map((panel) => panelInfo(panel, panel.members.flatMap(problemOf))),
      ];
      const { items, nextPageToken } = page(
        infos,
        (info) => info.name ?? '',
        request.pageSize,
        request.pageToken,
      );
      return Promise.resolve({ judges: items, nextPageToken });
    },

    listEndpoints() {
      const states = {
        serving: EndpointState.SERVING,
        down: EndpointState.DOWN,
        recovering: EndpointState.RECOVERING,
      };
      return Promise.resolve({
        endpoints: endpoints.map(({ endpoint, admission }) => {
          const { state, callsInFlight, concurrency, admitted, pauseMs } = admission.occupancy();
          return {
            name: endpoint.name,
            state: states[state],
            callsInFlight,
            concurrency,
            verdictsInFlight: admitted,
            pause: duration(pauseMs),
          };
        }),
      });
    },

    async setBudget({ runId, budget }) {
      const limits: Budget = {
        ...(budget?.tokens === undefined ? {} : { tokens: Number(budget.tokens) }),
        ...(budget?.cost === undefined ? {} : { cost: budget.cost }),
      };
      for (const [name, value = 0] of Object.entries(limits)) {
        if (!(value >= 0 && Number.isFinite(value)))
          throw invalidArgument(
            `budget.${name}`,
            `is ${value}; give 0 or more, or leave it out for no limit`,
          );
      }
      return { spend: spendMessage(await spending.setBudget(runIdOf(runId, 'needed'), limits), currency) };
    },

    async getSpend({ runId }) {
      return { spend: spendMessage(await spending.spend(runIdOf(runId, 'needed')), currency) };
    },
  };
}

/** A question as it is sent. */
function bodyOf(question: Question): string {
  return JSON.stringify(toRequest(question));
}

function runIdOf(runId: string, need: 'needed' | 'optional' = 'optional'): string {
  if (runId === '' && need === 'needed') {
    throw invalidArgument('run_id', 'is empty; name the run whose budget is meant', {
      reason: 'MISSING_FIELD',
    });
  }
  if (runId.length > 200) throw invalidArgument('run_id', `has ${runId.length} characters; use at most 200`);
  return runId;
}

function judgeInfo(
  { name, definition, rubric, rubrics, hash, askHash, calibration }: Judge,
  problems: readonly string[],
): MessageInitShape<typeof JudgeInfoSchema> {
  return {
    name,
    model: definition.model,
    mode: modes[definition.mode],
    rubricHash: rubric.hash,
    heldOut: definition.heldOut,
    judgeHash: hash,
    version: definition.version,
    votes: definition.votes,
    calibrationHash: calibration?.hash ?? '',
    askHash,
    threshold: definition.threshold,
    problem: problems.join(' '),
    endpoints: [definition.endpoint],
    categoryRubricHashes: Object.fromEntries(
      Object.entries(rubrics).map(([category, one]) => [category, one.hash]),
    ),
  };
}

function panelInfo(
  { name, definition, members, heldOut, hash }: Panel,
  problems: readonly string[],
): MessageInitShape<typeof JudgeInfoSchema> {
  return {
    name,
    model: [...new Set(members.map((member) => member.definition.model))].join(', '),
    mode: JudgeMode.BINARY,
    heldOut,
    judgeHash: hash,
    version: definition.version,
    votes: members.reduce((sum, member) => sum + member.definition.votes, 0),
    members: members.map((member) => member.name),
    threshold: definition.threshold,
    problem: problems.join(' '),
    endpoints: [...new Set(members.map((member) => member.definition.endpoint))],
    rubricHash: contentHash({ rubrics: members.map(({ rubric }) => rubric.hash) }),
  };
}

function toVerdict(
  judge: Judge,
  prompt: Prompt,
  verdict: ClipVerdict,
  currency: string,
): MessageInitShape<typeof VerdictSchema> {
  return create(VerdictSchema, {
    judge: judge.name,
    ...wordsOf(verdict),
    rubricHash: rubricFor(judge, prompt.category).hash,
    judgeHash: judge.hash,
    judgeVersion: judge.definition.version,
    calibrationHash: judge.calibration?.hash ?? '',
    cost: priceOf(judge, verdict, currency),
    threshold: judge.definition.threshold,
  });
}

function priceOf(judge: Judge, { inputTokens, outputTokens }: TokenCounts, currency: string) {
  return money(costOf({ input: inputTokens, output: outputTokens }, judge.definition.price), currency);
}

function toPanelVerdict(
  panel: Panel,
  prompt: Prompt,
  verdict: ClipVerdict & { readonly members: readonly ClipVerdict[] },
  currency: string,
): MessageInitShape<typeof VerdictSchema> {
  const members = panel.members.flatMap((judge, index) => {
    const member = verdict.members[index];
    return member === undefined ? [] : [toVerdict(judge, prompt, member, currency)];
  });
  const rubrics = panel.members.map((judge) => rubricFor(judge, prompt.category).hash);
  return create(VerdictSchema, {
    judge: panel.name,
    ...wordsOf(verdict),
    rubricHash: contentHash({ rubrics }),
    judgeHash: panel.hash,
    judgeVersion: panel.definition.version,
    threshold: panel.definition.threshold,
    cost: money(
      members.reduce((sum, member) => sum + (member.cost?.amount ?? 0), 0),
      currency,
    ),
    members,
  });
}

function wordsOf(verdict: ClipVerdict) {
  const answer =
    verdict.accept === undefined
      ? { case: 'grade' as const, value: verdict.grade ?? 0 }
      : { case: 'accept' as const, value: verdict.accept };
  return {
    answer,
    ...(verdict.probability === undefined ? {} : { probability: verdict.probability }),
    reason: verdict.reason,
    failureMode: verdict.failureMode,
    checks: verdict.checks,
    model: verdict.model,
    usage: usageOf(verdict),
    endpointTime: duration(verdict.endpointMs),
    cached: verdict.cached,
    calls: verdict.calls,
    votes: verdict.votes,
    seeds: verdict.seeds.map(BigInt),
    score: verdict.score,
  };
}

function money(amount: number, currency: string): MessageInitShape<typeof CostSchema> {
  return { amount, currency };
}

function spendMessage(spend: Spend, currency: string): MessageInitShape<typeof SpendSchema> {
  const { tokens, cost } = spend.budget;
  return {
    runId: spend.runId,
    usage: usageOf(spend),
    cost: money(spend.cost, currency),
    calls: BigInt(spend.calls),
    budget: {
      ...(tokens === undefined ? {} : { tokens: BigInt(tokens) }),
      ...(cost === undefined ? {} : { cost }),
    },
    exhausted: spend.exhausted,
    ...estimatedOf(spend),
    judges: Object.entries(spend.byName).map(([judge, part]) => ({
      judge,
      usage: usageOf(part),
      cost: money(part.cost, currency),
      calls: BigInt(part.calls),
      ...estimatedOf(part),
    })),
  };
}

function estimatedOf({ estimatedCalls, estimatedTokens }: Totals) {
  return { estimatedCalls: BigInt(estimatedCalls), estimatedTokens: BigInt(estimatedTokens) };
}

interface TokenCounts {
  readonly inputTokens: number;
  readonly outputTokens: number;
}

function usageOf({ inputTokens, outputTokens }: TokenCounts): MessageInitShape<typeof TokenUsageSchema> {
  return { inputTokens: BigInt(inputTokens), outputTokens: BigInt(outputTokens) };
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
