import { timestampDate } from '@bufbuild/protobuf/wkt';
import { failedPrecondition } from '@plumb/kit/errors';
import type { PlumbError } from '@plumb/kit/errors';
import { RunState, Stage } from '@plumb/proto/plumb/loop/v1/loop_pb.js';
import type { Run, StageStall } from '@plumb/proto/plumb/loop/v1/loop_pb.js';
import type { ProgressDisplay } from '../progress/progress-display.ts';
import { createRunProgress, shortDuration } from '../progress/run-progress.ts';
import type { ProgressRow } from '../progress/run-progress.ts';
import { runSecondsLeft } from '../progress/run-time-left.ts';
import { followRun } from './loop-client.ts';
import type { LoopClient } from './loop-client.ts';

const stageNames: Readonly<Record<Stage, string>> = {
  [Stage.UNSPECIFIED]: '',
  [Stage.SAMPLE]: 'sampling',
  [Stage.FREEZE]: 'freezing the data set',
  [Stage.TRAIN]: 'training',
  [Stage.EVALUATE]: 'evaluating',
  [Stage.GATE]: 'at the gate',
  [Stage.DONE]: 'done',
};

/** The summary is repeated after this long, in milliseconds, and whenever the stage changes. */
const summaryMs = 30_000;

/** Follows a run until it has ended or paused: bars for the stages, and a line of everything else now and then. */
export async function watchRun(
  loop: LoopClient,
  run: Run,
  display: ProgressDisplay,
  signal: AbortSignal,
): Promise<Run> {
  display.begin(`${run.spec?.name ?? ''} (${run.id})`);
  const rowsOf = createRunProgress();
  let said: { at: number; stage: string } | undefined;
  return await followRun(
    loop,
    run.id,
    (state) => {
      const now = performance.now();
      const rows = rowsOf(state, now);
      display.update(rows);
      const stage = `${state.iteration} ${state.stage} ${state.stalls.map((one) => one.stage).join()}`;
      if (said !== undefined && said.stage === stage && now - said.at < summaryMs) return;
      said = { at: now, stage };
      display.notice(summaryOf(state, rows));
      for (const stall of state.stalls) display.notice(stallText(stall));
    },
    signal,
  );
}

/** Which stage stands still, since when, and why. */
function stallText({ stage, cause, sinceTime }: StageStall): string {
  const seconds = sinceTime === undefined ? 0 : (Date.now() - timestampDate(sinceTime).getTime()) / 1000;
  return `STALLED: ${stage} has made no progress for ${shortDuration(seconds)}: ${cause}`;
}

/** Iteration, stage, acceptance so far, queue depths, spend and time left, in one line. */
export function summaryOf(run: Run, rows: readonly ProgressRow[]): string {
  const total = run.spec?.iterations ?? 0;
  const parts = [`iteration ${run.iteration} of ${total}, ${stageNames[run.stage]}`];
  const scored = Number(run.counts?.scored ?? 0n);
  if (scored > 0) {
    parts.push(`${((100 * Number(run.counts?.accepted ?? 0n)) / scored).toFixed(1)}% of ${scored} accepted`);
  }
  const errors = Number(run.counts?.errors ?? 0n);
  if (errors > 0) parts.push(`${errors} errors`);
  if (run.queues.length > 0) {
    const depths = run.queues.map(({ queue, waiting, inFlight }) => `${queue} ${waiting}+${inFlight}`);
    parts.push(`queues ${depths.join(', ')}`);
  }
  const { spend } = run;
  if (spend !== undefined) {
    const paid = [`${spend.samples} clips`, `${spend.trainingSteps} steps`];
    if (spend.judgeTokens > 0n) paid.push(`${spend.judgeTokens} judge tokens`);
    if (spend.cost > 0) paid.push(`${spend.cost.toFixed(2)} ${spend.currency}`);
    paid.push(shortDuration(spend.seconds));
    parts.push(`spent ${paid.join(', ')}`);
  }
  const left = Math.max(0, ...rows.map(({ secondsLeft }) => secondsLeft ?? 0));
  if (left > 0) parts.push(`about ${shortDuration(left)} left in this stage`);
  const whole = runSecondsLeft(run, rows);
  if (whole !== undefined && whole > 0) parts.push(`about ${shortDuration(whole)} in all`);
  return parts.join(' · ');
}

/** Why a run that was followed did not succeed, with what to do. */
export function unfinished(
  run: Run,
  advice: { readonly resume: string; readonly startOver: string },
): PlumbError {
  const why = run.error?.message ?? 'no reason was given';
  const refuse = (message: string): PlumbError => failedPrecondition(message, { reason: 'RUN_CONFLICT' });
  switch (run.state) {
    case RunState.PAUSED:
      return refuse(
        `the run ${run.error === undefined ? 'was paused by hand' : `paused: ${why}`}; ${advice.resume} makes it go on`,
      );
    case RunState.CANCELLED:
      return refuse(`the run was cancelled; ${advice.startOver} starts over`);
    case RunState.FAILED:
    case RunState.RUNNING:
    case RunState.SUCCEEDED:
    case RunState.UNSPECIFIED:
      return refuse(`the run failed: ${why}; ${advice.startOver} starts over`);
  }
}
