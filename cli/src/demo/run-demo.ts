import { internal } from '@plumb/kit/errors';
import { RunState } from '@plumb/proto/plumb/loop/v1/loop_pb.js';
import type { ModelVersion } from '@plumb/proto/plumb/models/v1/model_pb.js';
import type { ProgressDisplay } from '../progress/progress-display.ts';
import { allSamples, openLoop, persistently } from '../runs/loop-client.ts';
import { keyOfSpec, registerBase, startRun } from '../runs/make-run.ts';
import type { RunSpecInit } from '@plumb/run-spec';
import { unfinished, watchRun } from '../runs/watch-run.ts';
import type { FinishedRun } from './collect-report.ts';

/** What a demo needs of the running system. */
export interface DemoContext {
  /** Address of the loop. */
  readonly loopAddress: string;
  readonly display: ProgressDisplay;
  readonly signal: AbortSignal;
}

/**
 * Registers the model, makes the runs or finds them again, and follows each to its end.
 * @param specs the run, and perhaps its control
 * @returns the finished runs, in the order of the specs
 * @throws PlumbError if a run pauses, fails or is cancelled; the message says what to do.
 */
export async function runDemo(
  context: DemoContext,
  model: ModelVersion,
  specs: readonly RunSpecInit[],
): Promise<readonly FinishedRun[]> {
  const { display, signal } = context;
  const clients = await openLoop({ address: context.loopAddress });
  const { loop } = clients;
  try {
    await registerBase(clients.registry, model, signal);
    const finished: FinishedRun[] = [];
    for (const spec of specs) {
      const started = await startRun(loop, spec, { key: keyOfSpec(spec), notice: display.notice, signal });
      const run = await watchRun(loop, started, display, signal);
      if (run.state !== RunState.SUCCEEDED) {
        throw unfinished(run, { resume: 'the same command', startOver: '--fresh' });
      }
      const { report } = await persistently(() => loop.getReport({ runId: run.id }, { signal }), signal);
      if (report === undefined) throw internal(new Error(`run ${run.id} has no report`));
      finished.push({ run, report, samples: await allSamples(loop, run.id, signal) });
    }
    return finished;
  } finally {
    clients.close();
  }
}
