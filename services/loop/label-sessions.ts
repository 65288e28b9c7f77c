import { create, fromJsonString, toJsonString } from '@bufbuild/protobuf';
import type { MessageInitShape } from '@bufbuild/protobuf';
import { timestampFromDate } from '@bufbuild/protobuf/wkt';
import {
  failedPrecondition,
  invalidArgument,
  invalidArguments,
  notFound,
  PlumbError,
} from '@plumb/kit/errors';
import type { FieldViolation } from '@plumb/kit/errors';
import type { CallContext, Implementation } from '@plumb/kit/rpc';
import { KnownClipSchema, LabelKind, LabelSessionSchema } from '@plumb/proto/plumb/loop/v1/label_pb.js';
import type {
  CreateLabelSessionRequest,
  KnownClip,
  LabelService,
  LabelSession,
  RateRequest,
  RatingAnswer,
  RatingAnswerSchema,
  RatingClipSchema,
} from '@plumb/proto/plumb/loop/v1/label_pb.js';
import type { Video } from '@plumb/proto/plumb/media/v1/video_pb.js';
import { Split } from '@plumb/proto/plumb/prompts/v1/prompt_pb.js';
import {
  findSession,
  findSessionByKey,
  insertAnswer,
  insertSession,
  itemsOf,
  listSessions,
  standingAnswers,
} from './adapters/ledger/label-sessions.ts';
import type { LabelItemRow, LabelSessionRow } from './adapters/ledger/label-sessions.ts';
import type { LabelRow } from './adapters/ledger/labels.ts';
import { findRun } from './adapters/ledger/runs.ts';
import { findSamples, listSamples, scoresOf } from './adapters/ledger/samples.ts';
import type { SampleRow } from './adapters/ledger/samples.ts';
import { videoFromText } from './adapters/messages.ts';
import { pageOf, pageSizeOf, readPageToken, timePosition } from './adapters/pages.ts';
import { labelIdOf, labelSessionIdOf } from './domain/identity.ts';
import { failureModes } from './domain/label.ts';
import { choosePairs, chooseSamples, mixed, raterOrder, sidesSwapped } from './domain/label-session.ts';
import type { RateableSample } from './domain/label-session.ts';
import { raterAgreement } from './domain/rater-agreement.ts';
import type { RatedItem, RowOfAgreement, ScoredItem } from './domain/rater-agreement.ts';
import { checkKey } from './loop-service.ts';
import type { LoopContext } from './reconciler/context.ts';
import { currentTraceId } from './reconciler/iteration-trace.ts';

/** Most items of a session; a rater at one clip a second needs well over an hour for them. */
const largestSession = 5_000;
/** Samples of one read. */
const readBatch = 1_000;
const raterPattern = /^[a-z0-9][a-z0-9._-]{0,62}$/;
const defaultLinkDays = 30;
const longestLinkDays = 365;

type SessionMethods = Pick<
  Implementation<typeof LabelService>,
  | 'createLabelSession'
  | 'listLabelSessions'
  | 'createRaterLink'
  | 'getRatingQueue'
  | 'rate'
  | 'getRaterAgreement'
>;

/** The part of LabelService in which people rate. */
export function labelSessions({
  database,
  links,
  signedUrl,
  artifacts,
}: Pick<LoopContext, 'database' | 'links' | 'signedUrl' | 'artifacts'>): SessionMethods {
  async function requireSession(id: string): Promise<LabelSessionRow> {
    const row = await findSession(database, id);
    if (row === undefined) {
      throw notFound('label session', id, { fix: 'list the sessions of the run to see what there is' });
    }
    return row;
  }

  /** The session and rater of a call: those of the token, and never others beside it. */
  async function raterOf(
    request: { readonly sessionId: string; readonly rater: string },
    call: CallContext,
  ): Promise<{ session: LabelSessionRow; rater: string }> {
    const confined = call.session !== undefined;
    const sessionId = request.sessionId === '' ? (call.session ?? '') : request.sessionId;
    const rater = request.rater === '' && confined ? (call.caller ?? '') : request.rater;
    if (confined && (sessionId !== call.session || rater !== call.caller)) {
      throw new PlumbError({
        code: 'PERMISSION_DENIED',
        reason: 'ACCESS_DENIED',
        message: 'this link is for another session or another rater',
      });
    }
    checkRater(rater);
    return { session: await requireSession(sessionId), rater };
  }

  async function sessionView(row: LabelSessionRow): Promise<LabelSession> {
    const items = await itemsOf(database, row.id);
    const truths = knownTruths(items);
    const answers = await standingAnswers(database, row.id);
    const raters = [...Map.groupBy(answers, ({ rater }) => rater)].map(([rater, own]) => {
      const checks = own.filter(({ item }) => truths.has(item ?? -1));
      return {
        rater,
        answered: own.length,
        checksAnswered: checks.length,
        checksRight: checks.filter(({ item, accept }) => truths.get(item ?? -1) === accept).length,
      };
    });
    return create(LabelSessionSchema, {
      id: row.id,
      runId: row.run_id,
      name: row.name,
      kind: row.kind === 'verdict' ? LabelKind.VERDICT : LabelKind.PREFERENCE,
      items: items.length,
      checks: truths.size,
      createTime: timestampFromDate(row.created_at),
      raters,
    });
  }

  /** Clips of held-out prompts of all iterations, or of the training prompts of one. */
  async function rateableSamples(
    runId: string,
    wanted: {
      readonly groups: readonly ['before', 'after'] | readonly ['train'];
      readonly iteration?: number;
    },
  ): Promise<RateableSample[]> {
    const found: RateableSample[] = [];
    let last: SampleRow | undefined;
    do {
      const rows = await listSamples(database, {
        runId,
        ...wanted,
        limit: readBatch,
        ...(last === undefined
          ? {}
          : { after: { iteration: last.iteration, group: last.grp, position: last.position, id: last.id } }),
      });
      for (const row of rows) {
        if (row.video_sha256 === null) continue;
        found.push({
          id: row.id,
          iteration: row.iteration,
          group: row.grp,
          promptId: row.prompt_id,
          sampleIndex: row.sample_index,
          category: row.category,
          videoSha256: row.video_sha256,
        });
      }
      last = rows.length === readBatch ? rows.at(-1) : undefined;
    } while (last !== undefined);
    return found;
  }

  async function checkKnown(known: readonly KnownClip[]): Promise<void> {
    for (const [index, { video }] of known.entries()) {
      const field = `known[${index}].video`;
      if (video?.source.case !== 'uri' || video.sha256 === '') {
        throw invalidArgument(field, 'give a clip of the artifact store, by URI and SHA-256');
      }
      if (!(await artifacts.has(video.sha256))) {
        throw invalidArgument(field, `the artifact store has no ${video.sha256}; put the clip there first`, {
          reason: 'ARTIFACT_NOT_FOUND',
        });
      }
    }
  }

  return {
    async createLabelSession(request) {
      checkKey(request.idempotencyKey);
      const standing = await findSessionByKey(database, request.idempotencyKey);
      if (standing !== undefined) {
        checkSameSession(standing, request);
        return { session: await sessionView(standing) };
      }
      const violations = sessionViolations(request);
      if (violations.length > 0) throw invalidArguments(violations);
      const { runId, kind, size } = request;
      const run = await findRun(database, runId);
      if (run === undefined) {
        throw notFound('run', runId, { reason: 'RUN_NOT_FOUND', fix: 'list the runs to see what there is' });
      }
      await checkKnown(request.known);
      const id = labelSessionIdOf(request.idempotencyKey);
      const training = request.split === Split.TRAIN;
      const samples = await rateableSamples(
        runId,
        training ? { groups: ['train'], iteration: run.iteration } : { groups: ['before', 'after'] },
      );
      const choose = kind === LabelKind.VERDICT ? chooseSamples : choosePairs;
      const chosen = choose(id, samples, size);
      if (chosen.length === 0) {
        throw failedPrecondition(
          training
            ? `run '${runId}' has no clips of training prompts in iteration ${run.iteration} yet; wait for some`
            : `run '${runId}' has no ${kind === LabelKind.VERDICT ? 'clips' : 'pairs of different clips'} of held-out prompts yet; wait for its evaluation`,
        );
      }
      const row = await insertSession(
        database,
        {
          id,
          idempotency_key: request.idempotencyKey,
          run_id: runId,
          name: request.name,
          kind: kind === LabelKind.VERDICT ? 'verdict' : 'preference',
          trace_id: currentTraceId(),
          created_at: new Date(),
        },
        mixed(id, [
          ...chosen.map(({ sampleId, otherSampleId }) => ({
            sample_id: sampleId,
            other_sample_id: otherSampleId ?? null,
            known: null,
          })),
          ...request.known.map((known) => ({
            sample_id: null,
            other_sample_id: null,
            known: toJsonString(KnownClipSchema, known),
          })),
        ]),
      );
      checkSameSession(row, request);
      return { session: await sessionView(row) };
    },

    async listLabelSessions({ runId, pageSize, pageToken }) {
      const size = pageSizeOf(pageSize);
      const after = readPageToken(timePosition, pageToken);
      const rows = await listSessions(database, {
        runId,
        limit: size + 1,
        after: after === undefined ? undefined : { createdAt: after.at, id: after.id },
      });
      const page = pageOf(rows, size, (row) => ({ at: row.created_at.toISOString(), id: row.id }));
      const sessions: LabelSession[] = [];
      for (const row of page.rows) sessions.push(await sessionView(row));
      return { sessions, nextPageToken: page.nextPageToken };
    },

    async createRaterLink({ sessionId, rater, days }) {
      checkRater(rater);
      const session = await requireSession(sessionId);
      if (days < 0 || days > longestLinkDays) {
        throw invalidArgument(
          'days',
          `${days} is out of range; use 1 to ${longestLinkDays}, or 0 for ${defaultLinkDays}`,
        );
      }
      if (links === undefined) {
        throw failedPrecondition(
          'this loop service serves no dashboard, so a link would lead nowhere; set PLUMB_WEB_KEY_FILE for it',
        );
      }
      const expiresAt = new Date(Date.now() + (days === 0 ? defaultLinkDays : days) * 24 * 3600 * 1000);
      const token = await links.token({ name: rater, roles: ['rate'], session: session.id, expiresAt });
      return { token, expireTime: timestampFromDate(expiresAt), path: `/rate#token=${token}` };
    },

    async getRatingQueue(request, call) {
      const { session, rater } = await raterOf(request, call);
      const items = await itemsOf(database, session.id);
      const answers = new Map(
        (await standingAnswers(database, session.id, rater)).map((row) => [row.item, row]),
      );
      const samples = new Map(
        (
          await findSamples(
            database,
            items.flatMap(({ sample_id, other_sample_id }) =>
              [sample_id, other_sample_id].filter((id) => id !== null),
            ),
          )
        ).map((sample) => [sample.id, sample]),
      );
      return {
        sessionId: session.id,
        rater,
        name: session.name,
        kind: session.kind === 'verdict' ? LabelKind.VERDICT : LabelKind.PREFERENCE,
        items: raterOrder(session.id, rater, items.length).flatMap((place) => {
          const item = items[place];
          if (item === undefined) return [];
          const answer = answers.get(item.item);
          return [
            {
              item: item.item,
              ...shown(item, samples, sidesSwapped(session.id, rater, item.item), signedUrl),
              ...(answer === undefined ? {} : { answer: answerView(answer, item, session.id, rater) }),
            },
          ];
        }),
      };
    },

    async rate(request, call) {
      checkKey(request.idempotencyKey);
      const { session, rater } = await raterOf(request, call);
      const items = await itemsOf(database, session.id);
      const item = items[request.item];
      if (item === undefined) {
        throw invalidArgument('item', `${request.item} is out of range; the session has ${items.length}`);
      }
      const violations = answerViolations(request, session);
      if (request.answer === undefined || violations.length > 0) throw invalidArguments(violations);
      const said = labelOf(request.answer, item, sidesSwapped(session.id, rater, item.item));
      const base = {
        id: labelIdOf(request.idempotencyKey),
        idempotencyKey: request.idempotencyKey,
        runId: session.run_id,
        sessionId: session.id,
        item: item.item,
        rater,
        traceId: currentTraceId(),
        createdAt: new Date(),
      };
      if (said === undefined) {
        const standing = (await standingAnswers(database, session.id, rater)).find(
          (row) => row.item === item.item,
        );
        // Taken back twice, or never given: there is nothing that stands.
        if (standing !== undefined) {
          await insertAnswer(database, {
            ...base,
            sampleId: standing.sample_id,
            accept: standing.accept,
            preferredTo: standing.preferred_to,
            failureMode: standing.failure_mode,
            withdrawn: true,
          });
        }
      } else {
        const row = await insertAnswer(database, { ...base, ...said, withdrawn: false });
        if (row.session_id !== session.id || row.item !== item.item || row.rater !== rater) {
          throw new PlumbError({
            code: 'ALREADY_EXISTS',
            reason: 'IDEMPOTENCY_KEY_REUSED',
            message: 'this idempotency key belongs to another answer; use another key',
          });
        }
      }
      const answered = await standingAnswers(database, session.id, rater);
      return { answered: answered.length, items: items.length };
    },

    async getRaterAgreement({ sessionId }) {
      const session = await requireSession(sessionId);
      const items = await itemsOf(database, session.id);
      const rateable = items.filter(({ sample_id }) => sample_id !== null);
      const real = new Map(rateable.map((item) => [item.item, item]));
      const rated: RatedItem[] = (await standingAnswers(database, session.id)).flatMap((row) => {
        const item = real.get(row.item ?? -1);
        if (item === undefined) return [];
        const yes = session.kind === 'verdict' ? row.accept === true : row.sample_id === item.other_sample_id;
        return [{ item: item.item, rater: row.rater, yes }];
      });
      const figures = raterAgreement(rated, await scoresOfItems(rateable, session));
      const { fleissKappa, krippendorffAlpha } = figures;
      const row = ({ name, items: count, accuracy, kappa, rocAuc }: RowOfAgreement) => ({
        name,
        items: count,
        accuracy,
        ...(kappa === null ? {} : { kappa }),
        ...(rocAuc === null ? {} : { rocAuc }),
      });
      return {
        items: figures.items,
        answers: figures.answers,
        fleissItems: figures.fleissItems,
        ...(fleissKappa === null ? {} : { fleissKappa }),
        ...(krippendorffAlpha === null ? {} : { krippendorffAlpha }),
        raters: figures.raters.map(row),
        rewards: figures.rewards.map(({ reliability, ...reward }) => ({
          ...row(reward),
          // Of pairs a reward only says which is better.
          ...(reliability === undefined || session.kind === 'preference'
            ? {}
            : {
                reliability: reliability.bins.map(({ count, ...bin }) => ({ ...bin, items: count })),
                calibrationError: reliability.error,
              }),
        })),
      };
    },
  };

  /** What the rewards say of the items: their value of a clip; of a pair, whether the candidate's is higher (a tie is neither). */
  async function scoresOfItems(
    items: readonly LabelItemRow[],
    session: LabelSessionRow,
  ): Promise<ScoredItem[]> {
    const ids = items.flatMap(({ sample_id, other_sample_id }) =>
      [sample_id, other_sample_id].filter((id) => id !== null),
    );
    const scores = await scoresOf(database, ids);
    const valueOf = (sampleId: string | null, reward: string): number | undefined =>
      scores.get(sampleId ?? '')?.find((score) => score.reward === reward)?.value ?? undefined;
    const rewards = new Set([...scores.values()].flat().map(({ reward }) => reward));
    return items.flatMap((item) =>
      [...rewards].flatMap((reward): ScoredItem[] => {
        const first = valueOf(item.sample_id, reward);
        if (session.kind === 'verdict') {
          return first === undefined ? [] : [{ item: item.item, reward, score: first }];
        }
        const second = valueOf(item.other_sample_id, reward);
        if (first === undefined || second === undefined || first === second) return [];
        return [{ item: item.item, reward, score: second > first ? 1 : 0 }];
      }),
    );
  }
}

/** What a rater sees of an item: never a model, a verdict or whether its truth is known. */
function shown(
  item: LabelItemRow,
  samples: ReadonlyMap<string, SampleRow>,
  swapped: boolean,
  signedUrl: LoopContext['signedUrl'],
): { prompt: string; clips: MessageInitShape<typeof RatingClipSchema>[] } {
  if (item.known !== null) {
    const { video, prompt } = fromJsonString(KnownClipSchema, item.known);
    return { prompt: prompt?.text ?? '', clips: video === undefined ? [] : [clipView(video, signedUrl)] };
  }
  const ids = [item.sample_id, item.other_sample_id].filter((id) => id !== null);
  const rows = ids.flatMap((id) => samples.get(id) ?? []);
  const clips = rows.flatMap(({ video }) =>
    video === null ? [] : [clipView(videoFromText(video), signedUrl)],
  );
  return { prompt: rows[0]?.prompt_text ?? '', clips: swapped ? clips.toReversed() : clips };
}

function clipView(
  video: Video,
  signedUrl: LoopContext['signedUrl'],
): MessageInitShape<typeof RatingClipSchema> {
  const { mediaType, width, height, frameCount, fps } = video;
  return { url: signedUrl(video), mediaType, width, height, frameCount, fps };
}

/** An answer in the columns of a label; undefined for one that is taken back. */
function labelOf(
  answer: RatingAnswer,
  item: LabelItemRow,
  swapped: boolean,
):
  | {
      readonly sampleId: string | null;
      readonly accept: boolean | null;
      readonly preferredTo: string | null;
      readonly failureMode: string;
    }
  | undefined {
  const { failureMode } = answer;
  if (answer.answer.case === 'accept') {
    return { sampleId: item.sample_id, accept: answer.answer.value, preferredTo: null, failureMode };
  }
  if (answer.answer.case !== 'preferred') return undefined;
  const first = (answer.answer.value === 0) !== swapped;
  return {
    sampleId: first ? item.sample_id : item.other_sample_id,
    accept: null,
    preferredTo: first ? item.other_sample_id : item.sample_id,
    failureMode,
  };
}

function answerView(
  row: LabelRow,
  item: LabelItemRow,
  sessionId: string,
  rater: string,
): MessageInitShape<typeof RatingAnswerSchema> {
  if (row.preferred_to === null) {
    return { answer: { case: 'accept', value: row.accept ?? false }, failureMode: row.failure_mode };
  }
  const first = row.sample_id === item.sample_id;
  const left = first !== sidesSwapped(sessionId, rater, item.item);
  return { answer: { case: 'preferred', value: left ? 0 : 1 } };
}

function knownTruths(items: readonly LabelItemRow[]): ReadonlyMap<number, boolean> {
  return new Map(
    items.flatMap(({ item, known }) =>
      known === null ? [] : [[item, fromJsonString(KnownClipSchema, known).accept] as const],
    ),
  );
}

function checkRater(rater: string): void {
  if (!raterPattern.test(rater)) {
    throw invalidArgument('rater', 'give a pseudonym of 1 to 63 lower-case letters, digits and . _ -');
  }
}

function sessionViolations(request: CreateLabelSessionRequest): FieldViolation[] {
  const violations: FieldViolation[] = [];
  const { kind, size, known, name, split } = request;
  if (kind !== LabelKind.VERDICT && kind !== LabelKind.PREFERENCE) {
    violations.push({ field: 'kind', description: 'give LABEL_KIND_VERDICT or LABEL_KIND_PREFERENCE' });
  }
  if (size < 1 || size + known.length > largestSession) {
    violations.push({
      field: 'size',
      description: `${size} and ${known.length} known clips are out of range; use 1 to ${largestSession} together`,
    });
  }
  if (split !== Split.UNSPECIFIED && split !== Split.HELDOUT && split !== Split.TRAIN) {
    violations.push({ field: 'split', description: 'give SPLIT_HELDOUT or SPLIT_TRAIN' });
  }
  if (kind === LabelKind.PREFERENCE && split === Split.TRAIN) {
    violations.push({
      field: 'split',
      description: 'pairs are of the two models, which draw held-out prompts only; ask for verdicts',
    });
  }
  if (kind === LabelKind.PREFERENCE && known.length > 0) {
    violations.push({ field: 'known', description: 'is for verdicts only; leave it empty' });
  }
  if (name.length > 200) violations.push({ field: 'name', description: 'give at most 200 characters' });
  return violations;
}

function answerViolations({ answer }: RateRequest, session: LabelSessionRow): FieldViolation[] {
  if (answer?.answer.case === undefined) {
    return [{ field: 'answer', description: 'is missing; accept or reject, prefer, or take back' }];
  }
  const { failureMode } = answer;
  const violations: FieldViolation[] = [];
  const wanted = session.kind === 'verdict' ? 'accept' : 'preferred';
  if (answer.answer.case !== 'withdrawn' && answer.answer.case !== wanted) {
    violations.push({ field: 'answer', description: `this session asks for '${wanted}'` });
  }
  if (answer.answer.case === 'preferred' && answer.answer.value !== 0 && answer.answer.value !== 1) {
    violations.push({
      field: 'answer.preferred',
      description: 'give 0 for the left clip or 1 for the right',
    });
  }
  const known: readonly string[] = failureModes;
  const rejected = answer.answer.case === 'accept' && !answer.answer.value;
  if (failureMode !== '' && (!rejected || !known.includes(failureMode))) {
    violations.push({
      field: 'answer.failure_mode',
      description: `'${failureMode}' does not fit; a rejection may have one of ${failureModes.join(', ')}`,
    });
  }
  return violations;
}

function checkSameSession(row: LabelSessionRow, request: CreateLabelSessionRequest): void {
  const kind = request.kind === LabelKind.VERDICT ? 'verdict' : 'preference';
  if (row.run_id === request.runId && row.kind === kind && row.name === request.name) return;
  throw new PlumbError({
    code: 'ALREADY_EXISTS',
    reason: 'IDEMPOTENCY_KEY_REUSED',
    message: `label session '${row.id}' has this idempotency key and is another one; use another key`,
  });
}
