import { setTimeout as delay } from 'node:timers/promises';
import { create } from '@bufbuild/protobuf';
import { describeError, PlumbError } from '@plumb/kit/errors';
import {
  CancelRunRequestSchema,
  CreateRunRequestSchema,
  GetReportRequestSchema,
  GetRunRequestSchema,
  PauseRunRequestSchema,
  ResumeRunRequestSchema,
} from '@plumb/proto/plumb/loop/v1/loop_pb.js';
import type { Report, Run } from '@plumb/proto/plumb/loop/v1/loop_pb.js';
import type { ModelVersion } from '@plumb/proto/plumb/models/v1/model_pb.js';
import type { FeedbackRunObject, FeedbackRunObjects } from './adapters/kubernetes/feedback-run-objects.ts';
import { listOpenRunsOf } from './adapters/ledger/feedback-runs.ts';
import { findRunByKey } from './adapters/ledger/runs.ts';
import type { RunRow } from './adapters/ledger/runs.ts';
import { specFromText } from './adapters/messages.ts';
import { parseFeedbackRunSpec } from './domain/feedback-run-spec.ts';
import type { FeedbackRunSpec } from './domain/feedback-run-spec.ts';
import {
  eventsBetween,
  feedbackRunStatus,
  pauseRequested,
  sameStatus,
} from './domain/feedback-run-status.ts';
import type { FeedbackRunFacts, FeedbackRunStatus } from './domain/feedback-run-status.ts';
import { firstDifference, withDefaults } from './domain/run-spec.ts';
import type { loopService } from './loop-service.ts';
import { loopLogger } from './reconciler/context.ts';
import type { LoopContext } from './reconciler/context.ts';

/** Time between two looks at runs that go on, in milliseconds; a change of an object is looked at sooner. */
const lookMs = 3_000;
/** Shortest time between two looks, in milliseconds. */
const pauseMs = 500;

type Runs = Pick<
  ReturnType<typeof loopService>,
  'createRun' | 'getRun' | 'getReport' | 'pauseRun' | 'resumeRun' | 'cancelRun'
>;

/** Keeps a run for every FeedbackRun of the namespace, and its status. */
export interface FeedbackRunController {
  /** Begins; when the signal aborts, nothing more is begun. */
  start(signal: AbortSignal): void;
  stop(): Promise<void>;
}

/**
 * Compares FeedbackRuns with the ledger, over and over: makes the run of a new one, pauses and resumes it, cancels the run of
 * one that was deleted, and says in the status how the run stands. A run is found by its idempotency key, which holds the
 * object's uid: nothing is kept here that a restart would lose, and an object needs no finalizer, which would keep it in the
 * cluster for ever once Plumb is gone.
 *
 * @param open begins to observe the objects: only who leads does
 * @param fail hears what ends it for good: no such kind, no rights
 */
export function feedbackRunController(
  loop: Pick<LoopContext, 'database' | 'registry'>,
  runs: Runs,
  open: () => FeedbackRunObjects,
  fail: (error: unknown) => void,
): FeedbackRunController {
  let stop: () => Promise<void> = () => Promise.resolve();
  return {
    start(signal) {
      const objects = open();
      const working = reconcileAll(loop, runs, objects, signal).catch((thrown: unknown) => {
        if (!signal.aborted) fail(thrown);
      });
      stop = async () => {
        await objects.stop();
        await working;
      };
    },
    stop: () => stop(),
  };
}

/** Until the signal aborts. @throws PlumbError where the cluster has no such kind, or refuses */
async function reconcileAll(
  loop: Pick<LoopContext, 'database' | 'registry'>,
  runs: Runs,
  objects: FeedbackRunObjects,
  signal: AbortSignal,
): Promise<void> {
  const prefix = `feedbackrun.${objects.namespace}.`;
  const keyOf = ({ metadata }: FeedbackRunObject): string => `${prefix}${metadata.uid}`;
  /** Reports are costly, and change with the stage alone. */
  const reports = new Map<string, { readonly at: string; readonly report: Report | undefined }>();

  /** The run of an object's spec: made when it is not there, compared when it is. */
  async function ensure(key: string, spec: FeedbackRunSpec, standing: RunRow | undefined): Promise<void> {
    if (standing === undefined) {
      const wanted = spec.specFor(await loop.registry.get(spec.model));
      await runs.createRun(create(CreateRunRequestSchema, { spec: wanted, idempotencyKey: key }));
      return;
    }
    const has = specFromText(standing.spec);
    const base = has.base !== undefined && names(spec.model, has.base) ? has.base : undefined;
    const wanted = withDefaults(spec.specFor(base ?? (await loop.registry.get(spec.model))));
    const difference = firstDifference(has, wanted);
    if (difference === undefined) return;
    const { field, before, after } = difference;
    throw new PlumbError({
      code: 'ALREADY_EXISTS',
      reason: 'IDEMPOTENCY_KEY_REUSED',
      message: `${field} is ${before} in run ${standing.id} and ${after} here; the spec of a run does not change: put it back, or make another FeedbackRun`,
    });
  }

  /** Pauses and resumes a run as its object says. A run that was paused for another reason stays so. */
  async function steer(object: FeedbackRunObject, { paused }: FeedbackRunSpec, row: RunRow): Promise<void> {
    const { id } = row;
    if (paused && row.state === 'running') {
      await runs.pauseRun(create(PauseRunRequestSchema, { id }));
    } else if (!paused && row.state === 'paused') {
      if (pausedByUs(object.status)) await runs.resumeRun(create(ResumeRunRequestSchema, { id }));
    }
  }

  async function reportOf(run: Run): Promise<Report | undefined> {
    const at = `${run.iteration} ${run.stage} ${run.state}`;
    const known = reports.get(run.id);
    if (known?.at === at) return known.report;
    const { report } = await runs.getReport(create(GetReportRequestSchema, { runId: run.id }));
    reports.set(run.id, { at, report });
    return report;
  }

  async function reconcile(object: FeedbackRunObject): Promise<void> {
    const { generation, name } = object.metadata;
    const { status: before } = object;
    const key = keyOf(object);
    let row = await findRunByKey(loop.database, key);
    const ended = row !== undefined && row.ended_at !== null;
    if (ended && before?.observedGeneration === generation && before.completionTime !== undefined) return;
    let error: PlumbError | undefined;
    let spec: FeedbackRunSpec | undefined;
    try {
      spec = parseFeedbackRunSpec(object.spec, name);
      await ensure(key, spec, row);
    } catch (thrown) {
      error = PlumbError.from(thrown);
    }
    row ??= await findRunByKey(loop.database, key);
    if (row !== undefined && spec !== undefined) await steer(object, spec, row);
    // A spec that cannot be read asks for what the last one did.
    const paused = spec?.paused ?? pausedByUs(before);
    const facts: FeedbackRunFacts = { generation, paused, error, run: await factsOf(row) };
    const after = feedbackRunStatus(facts, before, new Date());
    if (sameStatus(before, after)) return;
    await objects.writeStatus(object, after);
    for (const event of eventsBetween(before, after)) await objects.record(object, event);
  }

  async function factsOf(row: RunRow | undefined): Promise<FeedbackRunFacts['run']> {
    if (row === undefined) return undefined;
    const { run } = await runs.getRun(create(GetRunRequestSchema, { id: row.id }));
    return { run, report: await reportOf(run), iterations: run.spec?.iterations ?? 0 };
  }

  /** Cancels runs whose objects are gone. */
  async function cancelOrphans(present: ReadonlySet<string>): Promise<void> {
    for (const { id, key } of await listOpenRunsOf(loop.database, prefix)) {
      if (present.has(key)) continue;
      await runs.cancelRun(create(CancelRunRequestSchema, { id }));
      reports.delete(id);
      loopLogger.info({ runId: id, key }, 'the FeedbackRun was deleted; its run is cancelled');
    }
  }

  /** One look at everything. */
  async function look(): Promise<void> {
    const present = objects.all().filter(({ metadata }) => metadata.deletionTimestamp === undefined);
    for (const object of present) {
      if (signal.aborted || objects.stale) return;
      await attempt(object.metadata.name, async () => {
        await reconcile(object);
      });
    }
    if (signal.aborted || objects.stale) return;
    await attempt('those that were deleted', async () => {
      await cancelOrphans(new Set(present.map(keyOf)));
    });
  }

  await objects.synchronised;
  while (!signal.aborted) {
    // Before the look: what changes meanwhile is looked at next.
    const changed = objects.changed();
    if (!objects.stale) await look();
    await delay(pauseMs, undefined, { signal }).catch(() => undefined);
    const timer = new AbortController();
    const stopped = AbortSignal.any([signal, timer.signal]);
    await Promise.race([changed, delay(lookMs, undefined, { signal: stopped }).catch(() => undefined)]);
    timer.abort();
  }
}

/** Whether a status says that the object itself has paused the run. */
function pausedByUs(status: FeedbackRunStatus | undefined): boolean {
  const pause = status?.conditions.find(({ type }) => type === 'Paused');
  return pause?.status === 'True' && pause.reason === pauseRequested;
}

/** Whether a model that a spec names is this version: `toybox@promoted` was resolved when the run was made. */
function names(model: string, version: ModelVersion): boolean {
  return model === version.version || model === `${version.model}@promoted`;
}

/** Another look is due soon: one object that cannot be had does not keep the others. */
async function attempt(object: string, body: () => Promise<void>): Promise<void> {
  try {
    await body();
  } catch (thrown) {
    const error = PlumbError.from(thrown);
    // Somebody has changed or deleted the object meanwhile: the next look sees how it is now.
    if (error.code === 'ABORTED' || error.code === 'NOT_FOUND') {
      loopLogger.debug({ object, error }, 'a FeedbackRun has changed meanwhile');
      return;
    }
    loopLogger.warn(
      { object, error: describeError(thrown) },
      'a FeedbackRun could not be reconciled; trying again',
    );
  }
}
