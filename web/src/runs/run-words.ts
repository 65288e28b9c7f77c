import { RunState, Stage } from '@plumb/proto/plumb/loop/v1/loop_pb.js';
import type { Run, StageProgress } from '@plumb/proto/plumb/loop/v1/loop_pb.js';
import { timestampDate } from '@bufbuild/protobuf/wkt';
import type { Timestamp } from '@bufbuild/protobuf/wkt';

export const stateWords: Readonly<Record<RunState, string>> = {
  [RunState.UNSPECIFIED]: '',
  [RunState.RUNNING]: 'running',
  [RunState.PAUSED]: 'paused',
  [RunState.SUCCEEDED]: 'succeeded',
  [RunState.FAILED]: 'failed',
  [RunState.CANCELLED]: 'cancelled',
};

export const stageWords: Readonly<Record<Stage, string>> = {
  [Stage.UNSPECIFIED]: '',
  [Stage.SAMPLE]: 'sampling',
  [Stage.FREEZE]: 'freezing the data set',
  [Stage.TRAIN]: 'training',
  [Stage.EVALUATE]: 'evaluating',
  [Stage.GATE]: 'gate',
  [Stage.DONE]: 'done',
};

/** True for a run that nothing will change any more. */
export function hasEnded({ state }: Run): boolean {
  return state === RunState.SUCCEEDED || state === RunState.FAILED || state === RunState.CANCELLED;
}

/** Accepted of what was judged in one of the three groups of an iteration; undefined while nothing is judged. */
export function acceptedShare(
  run: Run,
  iteration: number,
  group: 'train prompts' | 'held-out prompts, before' | 'held-out prompts, after',
): number | undefined {
  const step = run.progress.find(
    (candidate) => candidate.iteration === iteration && candidate.label === `${group}, score`,
  );
  if (step?.accepted === undefined || step.done === 0n) return undefined;
  return Number(step.accepted) / Number(step.done);
}

/** Share of a step that is done, 0 to 1. */
export function shareDone({ done, total }: StageProgress): number {
  return total === 0n ? 0 : Math.min(1, Number(done) / Number(total));
}

/** Share of a whole run that is done, each step of each iteration counting alike. */
export function shareOfRun(run: Run): number {
  const iterations = run.spec?.iterations ?? 1;
  const steps = run.progress;
  if (steps.length === 0) return 0;
  const perIteration = steps.filter(({ iteration }) => iteration === steps[0]?.iteration).length;
  return steps.reduce((sum, step) => sum + shareDone(step), 0) / (perIteration * iterations);
}

/** Items a second of a step since it began; undefined while there is nothing to say. */
export function rateOf(step: StageProgress, now: Date): number | undefined {
  if (step.startTime === undefined || step.done === 0n) return undefined;
  const end = step.endTime === undefined ? now : timestampDate(step.endTime);
  const seconds = (end.getTime() - timestampDate(step.startTime).getTime()) / 1000;
  return seconds <= 0 ? undefined : Number(step.done) / seconds;
}

/** "3.4 a second", "12 a minute" */
export function rateWords(perSecond: number): string {
  if (perSecond >= 1) return `${perSecond.toFixed(perSecond < 10 ? 1 : 0)} a second`;
  return `${(perSecond * 60).toFixed(perSecond * 60 < 10 ? 1 : 0)} a minute`;
}

/** How long ago, in one unit. */
export function agoWords(time: Timestamp | undefined, now: Date): string {
  if (time === undefined) return '';
  const seconds = Math.max(0, (now.getTime() - timestampDate(time).getTime()) / 1000);
  if (seconds < 60) return 'just now';
  if (seconds < 3600) return `${Math.floor(seconds / 60)} min ago`;
  if (seconds < 86_400) return `${Math.floor(seconds / 3600)} h ago`;
  return timestampDate(time).toLocaleDateString('en', { day: 'numeric', month: 'short', year: 'numeric' });
}

/** A count with separators. */
export function count(value: bigint | number): string {
  return value.toLocaleString('en');
}
