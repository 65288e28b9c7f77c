import { timestampMs } from '@bufbuild/protobuf/wkt';
import { Stage } from '@plumb/proto/plumb/loop/v1/loop_pb.js';
import type { Run, StageProgress } from '@plumb/proto/plumb/loop/v1/loop_pb.js';
import type { ProgressRow } from './run-progress.ts';

/** The two kinds of work that take the time of a run, each with a speed of its own. */
type Work = 'clip' | 'step';

/**
 * Seconds until the run ends, all iterations that are left included: clips and training steps that are due, each at its present
 * speed or, where it does not move at the moment, at that of the last stage that ended. Stages that overlap are counted one
 * after the other, and so it is rather too long. Undefined until both speeds are known.
 * @param rows of the same run, with the seconds that each stage still takes
 */
export function runSecondsLeft(run: Run, rows: readonly ProgressRow[]): number | undefined {
  const current = run.progress.filter(({ iteration }) => iteration === run.iteration);
  const later = Math.max(0, (run.spec?.iterations ?? run.iteration) - run.iteration);
  let seconds = 0;
  for (const work of ['clip', 'step'] as const) {
    const stages = current.filter((stage) => workOf(stage) === work);
    const due = stages.reduce(
      (sum, { done, total }) => sum + Number(total - done) + later * Number(total),
      0,
    );
    if (due === 0) continue;
    const each = secondsEach(work, run.progress, rows);
    if (each === undefined) return undefined;
    seconds += due * each;
  }
  return seconds;
}

/** A clip is done when it is scored. */
function workOf({ stage, label }: StageProgress): Work | undefined {
  if (stage === Stage.TRAIN) return 'step';
  return label.endsWith(', score') ? 'clip' : undefined;
}

function secondsEach(
  work: Work,
  progress: readonly StageProgress[],
  rows: readonly ProgressRow[],
): number | undefined {
  const stages = progress.filter((stage) => workOf(stage) === work);
  const moving = rows.flatMap(({ key, done, total, secondsLeft }) =>
    secondsLeft !== undefined && done < total && stages.some((stage) => keyOf(stage) === key)
      ? [secondsLeft / (total - done)]
      : [],
  );
  if (moving.length > 0) return Math.max(...moving);
  const ended = stages.findLast(({ startTime, endTime }) => startTime !== undefined && endTime !== undefined);
  if (ended?.startTime === undefined || ended.endTime === undefined || ended.total === 0n) return undefined;
  return (timestampMs(ended.endTime) - timestampMs(ended.startTime)) / 1000 / Number(ended.total);
}

/** What the same stage is known by in rows and in a run. */
export function keyOf({ iteration, stage, label }: StageProgress): string {
  return `${iteration} ${stage} ${label}`;
}
