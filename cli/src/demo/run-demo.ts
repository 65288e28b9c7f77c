import { createHash } from 'node:crypto';
import { create, toBinary } from '@bufbuild/protobuf';
import { failedPrecondition, internal, PlumbError } from '@plumb/kit/errors';
import { RunSpecSchema, RunState } from '@plumb/proto/plumb/loop/v1/loop_pb.js';
import type { Run } from '@plumb/proto/plumb/loop/v1/loop_pb.js';
import type { RunSpecInit } from '../demo-spec.ts';
import { createRunProgress } from '../progress/run-progress.ts';
import type { ProgressDisplay } from '../progress/progress-display.ts';
import type { FinishedRun } from './collect-report.ts';
import { allSamples, followRun, openLoop, persistently } from './loop-client.ts';
import type { LoopClient, RegistryClient } from './loop-client.ts';
import type { ModelVersionInit } from './shipped-model.ts';

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
  model: ModelVersionInit,
  specs: readonly RunSpecInit[],
): Promise<readonly FinishedRun[]> {
  const clients = openLoop(context.loopAddress);
  try {
    await registerModel(clients.registry, model, context.signal);
    const finished: FinishedRun[] = [];
    for (const spec of specs) finished.push(await finishRun(clients.loop, spec, context));
    return finished;
  } finally {
    clients.close();
  }
}

/** Registers the version, and promotes it if no version of its line is promoted yet. */
async function registerModel(
  registry: RegistryClient,
  model: ModelVersionInit,
  signal: AbortSignal,
): Promise<void> {
  const version = model.version ?? '';
  await persistently(
    () =>
      registry.createModelVersion({ modelVersion: model, idempotencyKey: `shipped.${version}` }, { signal }),
    signal,
  );
  try {
    await persistently(
      () => registry.getModelVersion({ version: `${model.model ?? ''}@promoted` }, { signal }),
      signal,
    );
  } catch (error) {
    if (PlumbError.from(error).code !== 'NOT_FOUND') throw error;
    await persistently(
      () =>
        registry.promoteModelVersion(
          { version, reason: 'shipped weights', idempotencyKey: `shipped.${version}` },
          { signal },
        ),
      signal,
    );
  }
}

async function finishRun(loop: LoopClient, spec: RunSpecInit, context: DemoContext): Promise<FinishedRun> {
  const { display, signal } = context;
  const { run: created } = await persistently(
    () => loop.createRun({ spec, idempotencyKey: idempotencyKey(spec) }, { signal }),
    signal,
  );
  if (created === undefined) throw internal(new Error('the loop made no run'));
  if (created.state === RunState.PAUSED) {
    display.notice(`Run ${created.id} was paused (${created.error?.message ?? 'by hand'}); it goes on.`);
    await persistently(
      () =>
        loop.resumeRun(
          { id: created.id, idempotencyKey: `resume.${created.id}.${process.pid}.${Date.now()}` },
          { signal },
        ),
      signal,
    );
  } else if (created.state === RunState.SUCCEEDED) {
    display.notice(`Run ${created.id} is complete already; --fresh draws everything anew.`);
  }
  display.begin(`${created.spec?.name ?? ''} (${created.id})`);
  const rows = createRunProgress();
  const run = await followRun(
    loop,
    created.id,
    (state) => {
      display.update(rows(state, performance.now()));
    },
    signal,
  );
  if (run.state !== RunState.SUCCEEDED) throw unfinished(run);
  const { report } = await persistently(() => loop.getReport({ runId: run.id }, { signal }), signal);
  if (report === undefined) throw internal(new Error(`run ${run.id} has no report`));
  return { run, report, samples: await allSamples(loop, run.id, signal) };
}

/** The same spec finds the same run again, so that a demo that was stopped goes on where it was. */
function idempotencyKey(spec: RunSpecInit): string {
  const bytes = toBinary(RunSpecSchema, create(RunSpecSchema, spec));
  return `demo.${createHash('sha256').update(bytes).digest('hex').slice(0, 32)}`;
}

function unfinished(run: Run): PlumbError {
  const why = run.error?.message ?? 'no reason was given';
  switch (run.state) {
    case RunState.PAUSED:
      return failedPrecondition(`the run paused: ${why}; the same command makes it go on`, {
        reason: 'RUN_CONFLICT',
      });
    case RunState.CANCELLED:
      return failedPrecondition('the run was cancelled; --fresh starts over', { reason: 'RUN_CONFLICT' });
    case RunState.FAILED:
    case RunState.RUNNING:
    case RunState.SUCCEEDED:
    case RunState.UNSPECIFIED:
      return failedPrecondition(`the run failed: ${why}; --fresh starts over`, { reason: 'RUN_CONFLICT' });
  }
}
