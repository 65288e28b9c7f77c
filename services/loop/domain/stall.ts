import { invalidArgument } from '@plumb/kit/errors';

/** Everything that a run may stand still in. `judge` and `ledger` are what other stages wait for. */
export const watchedStages = [
  'generate',
  'score',
  'judge',
  'freeze',
  'train',
  'evaluate',
  'gate',
  'ledger',
] as const;
export type WatchedStage = (typeof watchedStages)[number];

/** Seconds without progress after which a stage counts as stalled. */
export type StallBudgets = Readonly<Record<WatchedStage, number>>;

/** How a stage stands at one look. */
export interface StageWork {
  /** Items, or steps, that are still to be done; 0 where the stage has nothing to do. */
  readonly left: number;
  /** Rises with everything that is done. */
  readonly done: number;
}

export interface StallChange {
  readonly stage: WatchedStage;
  readonly kind: 'stalled' | 'moving';
  readonly left: number;
  /** Since the last progress, or since the stage had something to do. */
  readonly idleSeconds: number;
}

interface Watch {
  readonly idle: boolean;
  done: number;
  sinceMs: number;
  stalled: boolean;
}

/** Notices stages that have something to do and do none of it for longer than their budget. */
export class StallWatch {
  readonly #budgets: StallBudgets;
  readonly #watches = new Map<WatchedStage, Watch>();

  constructor(budgets: StallBudgets) {
    this.#budgets = budgets;
  }

  /**
   * Takes a look; gives the stages that have stalled or move again since the look before. Of a stage that is left out
   * nothing is known: its budget begins anew when it is.
   * @param nowMs of a clock that never goes back
   */
  look(work: Readonly<Partial<Record<WatchedStage, StageWork>>>, nowMs: number): StallChange[] {
    return watchedStages.flatMap((stage): StallChange[] => {
      const seen = work[stage];
      const watch = this.#watches.get(stage);
      if (seen === undefined) {
        if (watch !== undefined && !watch.stalled) watch.sinceMs = nowMs;
        return [];
      }
      const { left, done } = seen;
      if (watch === undefined || watch.idle || left === 0 || watch.done !== done) {
        this.#watches.set(stage, { idle: left === 0, done, sinceMs: nowMs, stalled: false });
        const idleSeconds = watch === undefined ? 0 : (nowMs - watch.sinceMs) / 1000;
        return watch?.stalled === true ? [{ stage, kind: 'moving', left, idleSeconds }] : [];
      }
      const idleSeconds = (nowMs - watch.sinceMs) / 1000;
      if (watch.stalled || idleSeconds < this.#budgets[stage]) return [];
      watch.stalled = true;
      return [{ stage, kind: 'stalled', left, idleSeconds }];
    });
  }

  /** Takes back that a stage has stalled: something else is to blame. Its budget begins anew. */
  forgive(stage: WatchedStage, nowMs: number): void {
    const watch = this.#watches.get(stage);
    if (watch === undefined) return;
    watch.stalled = false;
    watch.sinceMs = nowMs;
  }
}

/** What the judge service says of itself. */
export interface JudgeSigns {
  /** False when it does not answer. */
  readonly answers: boolean;
  readonly endpoints: readonly {
    readonly name: string;
    /** down: its circuit breaker is open. */
    readonly state: 'serving' | 'recovering' | 'down';
    readonly callsInFlight: number;
  }[];
  /** The run's budget of tokens and money is spent. */
  readonly exhausted: boolean;
}

/** What is known beside the ledger when a stage has stalled. */
export interface StallSigns {
  /** Of the stage's queue; undefined if the broker does not say or no worker has ever asked. */
  readonly queue?: { readonly waiting: number; readonly inFlight: number } | undefined;
  /** Of the training job; undefined while it is still being asked for. */
  readonly job?: 'pending' | 'running' | undefined;
  /** Undefined where there is no judge service. */
  readonly judge?: JudgeSigns | undefined;
  /** What the loop's own passes fail with at present. */
  readonly failure?: string | undefined;
}

/** A short name for each cause; a label of metrics, so the list is closed. */
export type StallCauseKind =
  | 'no-worker'
  | 'worker-silent'
  | 'results-lost'
  | 'judge-unreachable'
  | 'endpoint-down'
  | 'endpoint-silent'
  | 'budget-spent'
  | 'job-waiting'
  | 'trainer-silent'
  | 'step-failing'
  | 'step-silent'
  | 'ledger-failing'
  | 'ledger-silent';

export interface StallCause {
  readonly kind: StallCauseKind;
  /** The cause and what to look at, in one sentence. */
  readonly text: string;
}

/** The likely cause of a stall. */
export function likelyCause(stage: WatchedStage, signs: StallSigns): StallCause {
  switch (stage) {
    case 'generate':
    case 'score':
      return causeInQueue(stage, signs);
    case 'judge':
      return causeAtJudge(signs.judge) ?? judgeSilent;
    case 'train':
      if (signs.job === undefined) return causeOfStep(stage, signs);
      return signs.job === 'pending'
        ? {
            kind: 'job-waiting',
            text: 'the job waits for its turn: the trainer works on another job, or has not taken this one up',
          }
        : {
            kind: 'trainer-silent',
            text: 'the trainer is away, or one step takes longer than the budget: look at its log and its memory',
          };
    case 'ledger':
      return signs.failure === undefined
        ? {
            kind: 'ledger-silent',
            text: 'the database takes the statement and does not answer: look for locks, and at its disk',
          }
        : { kind: 'ledger-failing', text: `the database cannot be read or written: ${signs.failure}` };
    case 'freeze':
    case 'evaluate':
    case 'gate':
      return causeOfStep(stage, signs);
  }
}

const judgeSilent: StallCause = {
  kind: 'endpoint-silent',
  text: 'the judge is asked and gives no verdict: look at its endpoint',
};

/** What is wrong at the judge; undefined where nothing is, as far as it says. */
export function causeAtJudge(judge: JudgeSigns | undefined): StallCause | undefined {
  if (judge === undefined) return undefined;
  if (!judge.answers) {
    return { kind: 'judge-unreachable', text: 'the judge service does not answer: is it running?' };
  }
  if (judge.exhausted) {
    return {
      kind: 'budget-spent',
      text: "the run's budget of judge tokens or money is spent: raise it with `plumb judge budget`, or end the run",
    };
  }
  const down = judge.endpoints.find(({ state }) => state !== 'serving');
  if (down !== undefined) {
    return {
      kind: 'endpoint-down',
      text: `the endpoint ${down.name} of the judge fails all calls and its circuit breaker is open: is it running, and does it let the judge in?`,
    };
  }
  const busy = judge.endpoints.find(({ callsInFlight }) => callsInFlight > 0);
  if (busy === undefined) return undefined;
  return {
    kind: 'endpoint-silent',
    text: `${busy.callsInFlight} calls are with the endpoint ${busy.name} of the judge and none is answered: it hangs, or takes longer than the budget`,
  };
}

function causeInQueue(stage: 'generate' | 'score', { queue, judge, failure }: StallSigns): StallCause {
  const worker = stage === 'generate' ? 'generator' : 'reward service';
  if (failure !== undefined) return { kind: 'step-failing', text: `the loop cannot plan: ${failure}` };
  if (queue === undefined) {
    return {
      kind: 'no-worker',
      text: `no ${worker} has taken a task from the queue yet, or the broker is away: is one running, and connected to the same broker?`,
    };
  }
  const atJudge = stage === 'score' ? causeAtJudge(judge) : undefined;
  if (atJudge !== undefined) return atJudge;
  if (queue.inFlight > 0) {
    return {
      kind: 'worker-silent',
      text:
        stage === 'generate'
          ? `${queue.inFlight} tasks are with generators and none ends: an engine may hang, or a batch takes longer than the budget`
          : `${queue.inFlight} tasks are with the reward service and none ends: a reward may hang, or be down (\`RewardService.ListRewards\`)`,
    };
  }
  if (queue.waiting > 0) {
    return {
      kind: 'no-worker',
      text: `${queue.waiting} tasks wait and no ${worker} takes them: is one running?`,
    };
  }
  return {
    kind: 'results-lost',
    text: 'the queue is empty although results are missing: they were lost on their way, and will be asked for again',
  };
}

function causeOfStep(stage: 'freeze' | 'train' | 'evaluate' | 'gate', { failure }: StallSigns): StallCause {
  if (failure !== undefined)
    return { kind: 'step-failing', text: `the step fails again and again: ${failure}` };
  return {
    kind: 'step-silent',
    text:
      stage === 'train'
        ? 'the trainer does not take the job: is it running?'
        : 'the step has begun and does not end: look at the artifact store and the database',
  };
}

/**
 * Budgets from text such as `generate=600,train=1800`; stages that are not named have the default.
 * @throws PlumbError INVALID_ARGUMENT naming the part that is wrong
 */
export function parseBudgets(text: string, defaultSeconds: number): StallBudgets {
  const budgets = Object.fromEntries(watchedStages.map((stage) => [stage, defaultSeconds])) as Record<
    WatchedStage,
    number
  >;
  for (const part of text.split(',').filter((given) => given.trim() !== '')) {
    const [name = '', value = ''] = part.split('=').map((side) => side.trim());
    const stage = watchedStages.find((known) => known === name);
    const budgetSeconds = Number(value);
    if (stage === undefined || value === '' || !Number.isFinite(budgetSeconds) || budgetSeconds <= 0) {
      throw invalidArgument(
        'PLUMB_STALL_BUDGETS',
        `'${part}' is no budget; give seconds for ${watchedStages.join(', ')}, for example generate=600,train=1800`,
        { reason: 'CONFIGURATION_INVALID' },
      );
    }
    budgets[stage] = budgetSeconds;
  }
  return budgets;
}
