import type { Run, StageProgress } from '@plumb/proto/plumb/loop/v1/loop_pb.js';
import { Stage } from '@plumb/proto/plumb/loop/v1/loop_pb.js';
import { createRateMeter } from './rate-meter.ts';
import type { RateMeter } from './rate-meter.ts';
import { keyOf } from './run-time-left.ts';

/** One line of progress, ready to be shown. */
export interface ProgressRow {
  /** The same for the same stage over the whole run. */
  readonly key: string;
  readonly label: string;
  readonly done: number;
  readonly total: number;
  /** For example "5.4/s"; empty while unknown. */
  readonly rate: string;
  /** For example "2 min 10 s left"; empty while unknown or finished. */
  readonly left: string;
  /** For example the training loss, or the acceptance so far. */
  readonly detail: string;
  /** Absent while unknown or finished. */
  readonly secondsLeft?: number;
}

/** Turns a run's state into rows, measuring rates as it goes. */
export function createRunProgress(): (run: Run, atMs: number) => readonly ProgressRow[] {
  const meters = new Map<string, RateMeter>();
  return (run, atMs) =>
    run.progress
      .filter(({ total }) => total > 0n)
      .map((stage) => {
        const key = keyOf(stage);
        let meter = meters.get(key);
        if (meter === undefined) {
          meter = createRateMeter();
          meters.set(key, meter);
        }
        const done = Number(stage.done);
        const total = Number(stage.total);
        meter.observe(done, atMs);
        const perSecond = meter.perSecond();
        const running = done < total && stage.endTime === undefined;
        return {
          key,
          label: stage.label,
          done,
          total,
          rate: perSecond === undefined || !running ? '' : `${rateNumber(perSecond)}/s`,
          left:
            perSecond === undefined || !running ? '' : `${shortDuration((total - done) / perSecond)} left`,
          detail: detail(run, stage),
          ...(perSecond === undefined || !running ? {} : { secondsLeft: (total - done) / perSecond }),
        };
      });
}

function detail(run: Run, stage: StageProgress): string {
  if (stage.stage === Stage.TRAIN && run.training !== undefined && run.training.step > 0) {
    return `loss ${run.training.loss.toFixed(4)}`;
  }
  if (stage.accepted !== undefined && stage.done > 0n) {
    return `${((100 * Number(stage.accepted)) / Number(stage.done)).toFixed(0)}% accepted`;
  }
  return '';
}

function rateNumber(perSecond: number): string {
  return perSecond >= 10 ? perSecond.toFixed(0) : perSecond.toFixed(1);
}

/** "45 s", "3 min 05 s", "1 h 02 min" */
export function shortDuration(seconds: number): string {
  const whole = Math.max(0, Math.round(seconds));
  const pad = (value: number): string => String(value).padStart(2, '0');
  if (whole < 60) return `${whole} s`;
  if (whole < 3600) return `${Math.floor(whole / 60)} min ${pad(whole % 60)} s`;
  return `${Math.floor(whole / 3600)} h ${pad(Math.floor((whole % 3600) / 60))} min`;
}
