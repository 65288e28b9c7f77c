import { timestampDate } from '@bufbuild/protobuf/wkt';
import type { Timestamp } from '@bufbuild/protobuf/wkt';
import { fromStatus } from '@plumb/kit/errors';
import type { PlumbError } from '@plumb/kit/errors';
import { RunState, Stage } from '@plumb/proto/plumb/loop/v1/loop_pb.js';
import type { Report, Run } from '@plumb/proto/plumb/loop/v1/loop_pb.js';
import { maxMessageLength } from './feedback-run-definition.ts';

/** A condition as Kubernetes has them (metav1.Condition). */
export interface FeedbackRunCondition {
  readonly type: ConditionType;
  readonly status: 'True' | 'False' | 'Unknown';
  /** One word in CamelCase. */
  readonly reason: string;
  readonly message: string;
  /** RFC 3339; of the last change of `status`. */
  readonly lastTransitionTime: string;
  readonly observedGeneration: number;
}

const conditionTypes = ['Accepted', 'Progressing', 'Paused', 'Succeeded', 'Failed'] as const;
type ConditionType = (typeof conditionTypes)[number];

/** `status` of a FeedbackRun. Times are RFC 3339. */
export interface FeedbackRunStatus {
  readonly observedGeneration: number;
  readonly state: 'Pending' | 'Refused' | 'Running' | 'Paused' | 'Succeeded' | 'Failed' | 'Cancelled';
  readonly runId?: string;
  readonly stage?: string;
  readonly iteration?: string;
  readonly acceptance?: string;
  readonly currentModel?: string;
  readonly startTime?: string;
  readonly completionTime?: string;
  readonly conditions: readonly FeedbackRunCondition[];
}

/** Why a condition Paused is true when the object asks for it; only such a pause ends when the object no longer does. */
export const pauseRequested = 'Requested';

/** What is known of an object at a time. */
export interface FeedbackRunFacts {
  readonly generation: number;
  /** The run, if there is one. */
  readonly run:
    { readonly run: Run; readonly report: Report | undefined; readonly iterations: number } | undefined;
  /** Whether the object asks for a pause. */
  readonly paused: boolean;
  /** What is wrong with the object, or what kept us from acting on it. */
  readonly error: PlumbError | undefined;
}

/**
 * The status that follows from what is known. A condition keeps its time while its status stays.
 * @param before what the object says at present
 */
export function feedbackRunStatus(
  facts: FeedbackRunFacts,
  before: FeedbackRunStatus | undefined,
  now: Date,
): FeedbackRunStatus {
  const { generation, run: known } = facts;
  const said = { ...noCondition, ...conditionsOf(facts) };
  const conditions = conditionTypes.map((type): FeedbackRunCondition => {
    const [status, reason, message] = said[type];
    const standing = before?.conditions.find((condition) => condition.type === type);
    return {
      type,
      status,
      reason,
      message: shortened(message),
      lastTransitionTime:
        standing?.status === status ? standing.lastTransitionTime : now.toISOString().replace(/\.\d+Z$/, 'Z'),
      observedGeneration: generation,
    };
  });
  const state = stateOf(facts);
  if (known === undefined) return { observedGeneration: generation, state, conditions };
  const { run, report, iterations } = known;
  const acceptance = acceptanceOf(report);
  return {
    observedGeneration: generation,
    state,
    runId: run.id,
    stage: stageNames[run.stage],
    iteration: `${run.iteration}/${iterations}`,
    ...(acceptance === undefined ? {} : { acceptance }),
    currentModel: run.currentModelVersion,
    ...timeOf('startTime', run.createTime),
    ...timeOf('completionTime', run.endTime),
    conditions,
  };
}

type Said = readonly [status: FeedbackRunCondition['status'], reason: string, message: string];

const noCondition: Record<ConditionType, Said> = {
  Accepted: ['Unknown', 'Pending', 'the loop has not looked at it yet'],
  Progressing: ['False', 'NoRun', 'there is no run'],
  Paused: ['False', 'NotPaused', ''],
  Succeeded: ['False', 'NotSucceeded', ''],
  Failed: ['False', 'NotFailed', ''],
};

function conditionsOf({ run: known, paused, error }: FeedbackRunFacts): Partial<Record<ConditionType, Said>> {
  const accepted = acceptedOf(known?.run, error);
  if (known === undefined) return { Accepted: accepted };
  const { run } = known;
  const at = `iteration ${run.iteration} of ${known.iterations}`;
  const why = run.error === undefined ? undefined : fromStatus(run.error);
  const ended = (what: string): Said => ['False', 'Ended', what];
  switch (run.state) {
    case RunState.RUNNING:
      return { Accepted: accepted, Progressing: ['True', stageNames[run.stage], at] };
    case RunState.PAUSED: {
      const pause: Said = paused
        ? ['True', pauseRequested, 'spec.paused is true; set it to false to go on']
        : why === undefined
          ? [
              'True',
              'PausedElsewhere',
              'somebody paused it; set spec.paused to true and to false again, or use plumb run resume',
            ]
          : [
              'True',
              camelCase(why.reason),
              `${why.message}; mend it, then set spec.paused to true and to false again`,
            ];
      return { Accepted: accepted, Progressing: ['False', 'Paused', at], Paused: pause };
    }
    case RunState.SUCCEEDED:
      return {
        Accepted: accepted,
        Progressing: ended('the run has ended'),
        Succeeded: ['True', 'RunSucceeded', lastDecision(known.report)],
      };
    case RunState.FAILED:
      return {
        Accepted: accepted,
        Progressing: ended('the run has failed'),
        Failed: ['True', camelCase(why?.reason ?? 'RUN_FAILED'), why?.message ?? 'no reason is recorded'],
      };
    case RunState.CANCELLED:
      return {
        Accepted: accepted,
        Progressing: ended('the run was cancelled'),
        Failed: ['True', 'Cancelled', 'somebody cancelled the run; make another FeedbackRun to run again'],
      };
    case RunState.UNSPECIFIED:
      return { Accepted: accepted };
  }
}

function acceptedOf(run: Run | undefined, error: PlumbError | undefined): Said {
  if (error !== undefined) {
    if (error.retryable) return ['Unknown', 'TryingAgain', error.message];
    if (error.reason === 'IDEMPOTENCY_KEY_REUSED') return ['False', 'SpecChanged', error.message];
    return ['False', 'SpecRefused', error.message];
  }
  if (run === undefined) return noCondition.Accepted;
  return ['True', 'RunCreated', `run ${run.id} follows this object`];
}

function stateOf({ run: known, error }: FeedbackRunFacts): FeedbackRunStatus['state'] {
  if (known === undefined) return error === undefined || error.retryable ? 'Pending' : 'Refused';
  return states[known.run.state];
}

const states: Readonly<Record<RunState, FeedbackRunStatus['state']>> = {
  [RunState.UNSPECIFIED]: 'Pending',
  [RunState.RUNNING]: 'Running',
  [RunState.PAUSED]: 'Paused',
  [RunState.SUCCEEDED]: 'Succeeded',
  [RunState.FAILED]: 'Failed',
  [RunState.CANCELLED]: 'Cancelled',
};

const stageNames: Readonly<Record<Stage, string>> = {
  [Stage.UNSPECIFIED]: 'Starting',
  [Stage.SAMPLE]: 'Sampling',
  [Stage.FREEZE]: 'Freezing',
  [Stage.TRAIN]: 'Training',
  [Stage.EVALUATE]: 'Evaluating',
  [Stage.GATE]: 'Deciding',
  [Stage.DONE]: 'Done',
};

/** Of the first model and of the last candidate, as `48.1% -> 86.3%`; undefined until something was evaluated. */
function acceptanceOf(report: Report | undefined): string | undefined {
  const evaluated = (report?.iterations ?? []).filter(({ after }) => after['overall'] !== undefined);
  const first = evaluated[0]?.before['overall']?.rate;
  const last = evaluated.at(-1)?.after['overall']?.rate;
  return first === undefined || last === undefined ? undefined : `${percent(first)} -> ${percent(last)}`;
}

function lastDecision(report: Report | undefined): string {
  const last = report?.iterations.at(-1);
  const promoted = last?.decision?.override?.promoted ?? last?.decision?.promoted;
  if (last === undefined || promoted === undefined) return 'the run has ended';
  const acceptance = acceptanceOf(report);
  return `${last.afterVersion} was ${promoted ? 'promoted' : 'refused'}${acceptance === undefined ? '' : `; acceptance ${acceptance}`}`;
}

const percent = (share: number): string => `${(share * 100).toFixed(1)}%`;

function camelCase(reason: string): string {
  return reason
    .toLowerCase()
    .split('_')
    .map((word) => word.slice(0, 1).toUpperCase() + word.slice(1))
    .join('');
}

function shortened(message: string): string {
  return message.length <= maxMessageLength ? message : `${message.slice(0, maxMessageLength - 3)}...`;
}

function timeOf<Key extends string>(key: Key, time: Timestamp | undefined): Partial<Record<Key, string>> {
  if (time === undefined) return {};
  const value = timestampDate(time)
    .toISOString()
    .replace(/\.\d+Z$/, 'Z');
  return { [key]: value } as Record<Key, string>;
}

/** An event for people: what kubectl describe shows of how a status came about. */
export interface StatusEvent {
  readonly type: 'Normal' | 'Warning';
  readonly reason: string;
  readonly note: string;
}

/** What has come about between two statuses: conditions that have become true, and refusals. */
export function eventsBetween(
  before: FeedbackRunStatus | undefined,
  after: FeedbackRunStatus,
): StatusEvent[] {
  const events: StatusEvent[] = [];
  for (const { type, status, reason, message } of after.conditions) {
    const standing = before?.conditions.find((condition) => condition.type === type);
    const same = standing?.status === status && standing.reason === reason;
    const refused = type === 'Accepted' && status === 'False';
    if (refused && (!same || standing.message !== message)) {
      events.push({ type: 'Warning', reason, note: message });
    } else if (status === 'True' && !same) {
      const bad = type === 'Failed' || (type === 'Paused' && reason !== pauseRequested);
      events.push({
        type: bad ? 'Warning' : 'Normal',
        reason: type === 'Paused' ? `Paused${reason}` : reason,
        note: message,
      });
    }
  }
  return events;
}

/** Whether an object needs no writing: its status says the same. */
export function sameStatus(before: FeedbackRunStatus | undefined, after: FeedbackRunStatus): boolean {
  return before !== undefined && sorted(before) === sorted(after);
}

/** The API server keeps the order of keys that it likes. */
function sorted(value: unknown): string {
  return JSON.stringify(value, (_key, item: unknown) =>
    typeof item === 'object' && item !== null && !Array.isArray(item)
      ? Object.fromEntries(Object.entries(item).toSorted(([a], [b]) => (a < b ? -1 : 1)))
      : item,
  );
}
