import { failedPrecondition } from '@plumb/kit/errors';
import type { PlumbError } from '@plumb/kit/errors';
import { groupLabels, groups } from './groups.ts';
import { budgetExhausted } from './budget.ts';
import type { Group } from './groups.ts';

/** How the samples of one group stand in the ledger. */
export interface GroupCounts {
  /** Rows there should be. */
  readonly expected: number;
  /** Rows there are, in any state. */
  readonly rows: number;
  /** Planned, and no task published yet. */
  readonly toGenerate: number;
  /** Planned, and a task is out. */
  readonly generating: number;
  /** Clip made, and no scoring task published yet. */
  readonly toScore: number;
  /** Clip made, and a scoring task is out. */
  readonly scoring: number;
  readonly scored: number;
  /** Ended in an error. */
  readonly failed: number;
}

/** How a training job stands. */
export type JobSnapshot =
  | { readonly state: 'absent' }
  | { readonly state: 'running' }
  | { readonly state: 'succeeded' }
  | { readonly state: 'failed'; readonly error: PlumbError };

/** What the ledger holds of a run's current iteration: all that the planner looks at. */
export interface IterationSnapshot {
  readonly state: 'running' | 'paused' | 'succeeded' | 'failed' | 'cancelled';
  readonly iteration: number;
  readonly groups: Readonly<Record<Group, GroupCounts>>;
  readonly dataSetFrozen: boolean;
  readonly job: JobSnapshot;
  readonly candidateRegistered: boolean;
  readonly evaluated: boolean;
  readonly decision: 'none' | 'decided' | 'applied';
  /** Seconds since a clip, or a score, of this run last arrived or a task was published; what is out may be lost. */
  readonly idleSeconds: { readonly generate: number; readonly score: number };
}

/** What the planner needs to know of the spec and of the settings. */
export interface PlanLimits {
  readonly iterations: number;
  readonly maxErrorShare: number;
  /** Most tasks of a run that may be out at a time, in each of the two queues. */
  readonly maxOutstanding: number;
  /** Tasks that brought no result in this time are published again. */
  readonly republishAfterSeconds: number;
  /** One stage after the other, for comparison: nothing overlaps. */
  readonly sequential?: boolean;
  /** Clips that may still be asked for; absent is no limit. */
  readonly samplesLeft?: number | undefined;
  /** Why no training job may be begun. */
  readonly trainingBudget?: PlumbError | undefined;
  /** Why nothing may be done any more. */
  readonly budget?: PlumbError | undefined;
}

export type Queue = 'generate' | 'score';

/** One step that brings the ledger closer to the spec. Each is idempotent: doing it twice is doing it once. */
export type Action =
  | { readonly kind: 'insert-samples'; readonly group: Group }
  | { readonly kind: 'publish'; readonly queue: Queue; readonly limit: number }
  | { readonly kind: 'republish'; readonly queue: Queue }
  | { readonly kind: 'freeze' }
  | { readonly kind: 'train' }
  | { readonly kind: 'watch-training' }
  | { readonly kind: 'register' }
  | { readonly kind: 'evaluate' }
  | { readonly kind: 'decide' }
  | { readonly kind: 'apply' }
  | { readonly kind: 'next-iteration' }
  | { readonly kind: 'finish' }
  /** `errorsOf`: the group whose errors are the cause. */
  | { readonly kind: 'pause'; readonly error: PlumbError; readonly errorsOf?: Group }
  | { readonly kind: 'fail'; readonly error: PlumbError };

/**
 * The steps that are due. Sampling, scoring and training overlap: the two held-out groups wait for nothing but their model,
 * and a scoring task is due as soon as its clip is there.
 */
export function plan(snapshot: IterationSnapshot, limits: PlanLimits): readonly Action[] {
  if (snapshot.state !== 'running') return [];
  const tooMany = groups.find((group) => hasTooManyErrors(snapshot.groups[group], limits.maxErrorShare));
  if (tooMany !== undefined)
    return [
      { kind: 'pause', error: tooManyErrors(tooMany, snapshot, limits.maxErrorShare), errorsOf: tooMany },
    ];
  if (snapshot.job.state === 'failed') return [afterFailedJob(snapshot.job.error)];
  if (limits.budget !== undefined) return [{ kind: 'pause', error: limits.budget }];
  return [...sampling(snapshot, limits), ...training(snapshot, limits), ...judging(snapshot, limits)];
}

/** True when every sample of a group has its scores or its error. */
export function isComplete(counts: GroupCounts): boolean {
  return counts.rows === counts.expected && counts.scored + counts.failed === counts.expected;
}

/** Where an iteration stands, for people. */
export function stageOf(
  snapshot: IterationSnapshot,
): 'sample' | 'freeze' | 'train' | 'evaluate' | 'gate' | 'done' {
  if (snapshot.state === 'succeeded') return 'done';
  if (!isComplete(snapshot.groups.train)) return 'sample';
  if (!snapshot.dataSetFrozen) return 'freeze';
  if (!snapshot.candidateRegistered) return 'train';
  return snapshot.evaluated ? 'gate' : 'evaluate';
}

function* sampling(snapshot: IterationSnapshot, limits: PlanLimits): Generator<Action> {
  const active = groups.filter(
    (group) =>
      group === 'train' || snapshot.candidateRegistered || (group === 'before' && !limits.sequential),
  );
  for (const group of active) {
    if (snapshot.groups[group].rows < snapshot.groups[group].expected)
      yield { kind: 'insert-samples', group };
  }
  const total = (pick: (counts: GroupCounts) => number): number =>
    active.reduce((sum, group) => sum + pick(snapshot.groups[group]), 0);
  yield* queueing(
    'generate',
    total((c) => c.toGenerate),
    total((c) => c.generating),
    snapshot,
    limits,
  );
  // In sequence, scoring begins when every clip that can be made at present is there.
  const unmade = active.some((group) => snapshot.groups[group].rows < snapshot.groups[group].expected);
  if (limits.sequential === true && (unmade || total((c) => c.toGenerate + c.generating) > 0)) return;
  yield* queueing(
    'score',
    total((c) => c.toScore),
    total((c) => c.scoring),
    snapshot,
    limits,
  );
}

function* queueing(
  queue: Queue,
  due: number,
  outstanding: number,
  snapshot: IterationSnapshot,
  limits: PlanLimits,
): Generator<Action> {
  const left = queue === 'generate' ? (limits.samplesLeft ?? Infinity) : Infinity;
  if (due > 0 && left <= 0 && outstanding === 0) {
    yield { kind: 'pause', error: budgetExhausted('samples', 'clips', `${due} more are due`) };
    return;
  }
  const room = Math.min(limits.maxOutstanding - outstanding, left);
  if (due > 0 && room > 0) yield { kind: 'publish', queue, limit: Math.min(due, room) };
  if (outstanding > 0 && snapshot.idleSeconds[queue] >= limits.republishAfterSeconds) {
    yield { kind: 'republish', queue };
  }
}

function* training(snapshot: IterationSnapshot, limits: PlanLimits): Generator<Action> {
  if (!isComplete(snapshot.groups.train) || snapshot.candidateRegistered) return;
  if (!snapshot.dataSetFrozen) yield { kind: 'freeze' };
  else if (snapshot.job.state === 'absent') {
    yield limits.trainingBudget === undefined
      ? { kind: 'train' }
      : { kind: 'pause', error: limits.trainingBudget };
  } else if (snapshot.job.state === 'running') yield { kind: 'watch-training' };
  else yield { kind: 'register' };
}

function* judging(snapshot: IterationSnapshot, limits: PlanLimits): Generator<Action> {
  if (!snapshot.candidateRegistered) return;
  if (!isComplete(snapshot.groups.before) || !isComplete(snapshot.groups.after)) return;
  if (!snapshot.evaluated) yield { kind: 'evaluate' };
  else if (snapshot.decision === 'none') yield { kind: 'decide' };
  else if (snapshot.decision === 'decided') yield { kind: 'apply' };
  else if (snapshot.iteration < limits.iterations) yield { kind: 'next-iteration' };
  else yield { kind: 'finish' };
}

function hasTooManyErrors(counts: GroupCounts, maxErrorShare: number): boolean {
  return counts.failed > maxErrorShare * counts.expected;
}

/** Why a run pauses for the errors of a group; `commonest` is the error that most of its samples ended in. */
export function tooManyErrors(
  group: Group,
  snapshot: Pick<IterationSnapshot, 'groups' | 'iteration'>,
  maxErrorShare: number,
  commonest?: { readonly count: number; readonly reason: string; readonly message: string },
): PlumbError {
  const { failed, expected } = snapshot.groups[group];
  const cause = commonest === undefined ? '' : ` (${commonest.count} of them: ${commonest.message})`;
  return failedPrecondition(
    `${failed} of ${expected} samples (${groupLabels[group]}, iteration ${snapshot.iteration}) ended in errors${cause}, more ` +
      `than the share of ${maxErrorShare} that the spec bears; remove the cause and resume, which tries them again`,
    {
      reason: 'TOO_MANY_ERRORS',
      metadata: {
        group,
        failed: String(failed),
        expected: String(expected),
        ...(commonest === undefined ? {} : { cause: commonest.reason }),
      },
    },
  );
}

// A spec never changes, so a job that was refused for what it says will be refused again: only the others can be resumed.
function afterFailedJob(error: PlumbError): Action {
  const hopeless = error.code === 'INVALID_ARGUMENT';
  return hopeless ? { kind: 'fail', error } : { kind: 'pause', error: trainingFailed(error) };
}

function trainingFailed(error: PlumbError): PlumbError {
  return failedPrecondition(
    `the training job failed: ${error.message}; remove the cause and resume, which trains again`,
    {
      reason: 'JOB_FAILED',
      metadata: { reason: error.reason },
      cause: error,
    },
  );
}
