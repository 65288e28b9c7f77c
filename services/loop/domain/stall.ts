import { invalidArgument } from '@plumb/kit/errors';

/** Stages whose work is done by others, so that nobody here notices when it stops. */
export const watchedStages = ['generate', 'score', 'train'] as const;
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
   * Takes a look; gives the stages that have stalled or move again since the look before.
   * @param nowMs of a clock that never goes back
   */
  look(work: Readonly<Record<WatchedStage, StageWork>>, nowMs: number): StallChange[] {
    return watchedStages.flatMap((stage): StallChange[] => {
      const { left, done } = work[stage];
      const watch = this.#watches.get(stage);
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

  /** Nobody looks any more: gives the stages that were stalled at the last look. */
  end(): WatchedStage[] {
    const stalled = watchedStages.filter((stage) => this.#watches.get(stage)?.stalled === true);
    this.#watches.clear();
    return stalled;
  }
}

/** What is known beside the ledger when a stage has stalled. */
export interface StallSigns {
  /** Of the stage's queue; undefined if the broker does not say or no worker has ever asked. */
  readonly queue?: { readonly waiting: number; readonly inFlight: number } | undefined;
  /** Of the training job. */
  readonly job?: 'pending' | 'running' | undefined;
}

/** The likely cause of a stall and what to look at, in one sentence. */
export function likelyCause(stage: WatchedStage, { queue, job }: StallSigns): string {
  if (stage === 'train') {
    return job === 'pending'
      ? 'the job waits for its turn: the trainer works on another job, or has not taken this one up'
      : 'the trainer is away, or one step takes longer than the budget: look at its log and its memory';
  }
  const worker = stage === 'generate' ? 'generator' : 'reward service';
  if (queue === undefined) {
    return `no ${worker} has taken a task from the queue yet, or the broker is away: is one running, and connected to the same broker?`;
  }
  if (queue.inFlight > 0) {
    return stage === 'generate'
      ? `${queue.inFlight} tasks are with generators and none ends: an engine may hang, or a batch takes longer than the budget`
      : `${queue.inFlight} tasks are with the reward service and none ends: the judge or its endpoint may not answer, or its budget may be spent`;
  }
  if (queue.waiting > 0) return `${queue.waiting} tasks wait and no ${worker} takes them: is one running?`;
  return `the queue is empty although results are missing: they were lost on their way, and will be asked for again`;
}

/**
 * Budgets from text such as `generate=600,train=1800`; stages that are not named have the default.
 * @throws PlumbError INVALID_ARGUMENT naming the part that is wrong
 */
export function parseBudgets(text: string, defaultSeconds: number): StallBudgets {
  const budgets: Record<WatchedStage, number> = {
    generate: defaultSeconds,
    score: defaultSeconds,
    train: defaultSeconds,
  };
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
