import { createHash } from 'node:crypto';
import { resolve } from 'node:path';
import { create, toBinary } from '@bufbuild/protobuf';
import { failedPrecondition, fromStatus, internal } from '@plumb/kit/errors';
import type { RpcClient } from '@plumb/kit/rpc';
import { connect } from '@plumb/client';
import type { ConnectionOptions } from '../commands/connection-options.ts';
import { openFolderStore } from '@plumb/media';
import type { Artifact } from '@plumb/proto/plumb/media/v1/video_pb.js';
import { ModelState } from '@plumb/proto/plumb/models/v1/model_pb.js';
import { JobSpecSchema, JobState, TrainerService } from '@plumb/proto/plumb/trainer/v1/trainer_pb.js';
import type { Job, JobSpec } from '@plumb/proto/plumb/trainer/v1/trainer_pb.js';
import { persistently } from '../runs/loop-client.ts';
import { parameterCountOf, storeModel } from '../demo/shipped-model.ts';
import type { ModelVersionInit } from '../demo/shipped-model.ts';
import { listenForInterruption } from '../interrupt.ts';
import { openModelRegistry } from '../models/model-registry.ts';
import { readNamedModels } from '../models/named-model.ts';
import type { NamedModel } from '../models/named-model.ts';
import { openProgressDisplay } from '../progress/progress-display.ts';
import type { ProgressDisplay } from '../progress/progress-display.ts';
import { createRateMeter } from '../progress/rate-meter.ts';
import { shortDuration } from '../progress/run-progress.ts';
import { existingStateFolder, requireWritableFile, writeWhole } from '../state/state-folder.ts';
import type { StateFolder } from '../state/state-folder.ts';
import type { PortName } from '../supervisor/port-names.ts';
import { withSystem } from '../with-system.ts';
import { storeDataSet } from './data-set-file.ts';
import { followJob, hasEnded } from './follow-job.ts';
import { readJobSpecFile } from './job-spec-file.ts';
import type { JobSpecFile } from './job-spec-file.ts';

/** Options of `plumb train`, as commander gives them. */
export interface TrainOptions extends ConnectionOptions {
  readonly json?: true;
  readonly state: string;
  readonly output: string;
  readonly adaptersOutput?: string;
  readonly port: Readonly<Partial<Record<PortName, number>>>;
}

/** What a finished job made: the object of `plumb train --json`. */
interface TrainResult {
  readonly job: string;
  readonly version: string;
  readonly sha256: string;
  readonly steps: number;
  /** Of the last step. */
  readonly loss: number;
  readonly output: string;
  readonly adapters?: string;
  /** Where a probe stopped the job: the step whose checkpoint was kept, and why. */
  readonly stoppedEarly?: { readonly keptStep: number; readonly message: string };
}

type Trainer = RpcClient<typeof TrainerService>;

/**
 * Runs the job of a file to its end, or until it is interrupted.
 * @returns the exit code
 */
export async function train(file: string, options: TrainOptions): Promise<number> {
  const path = resolve(file);
  const spec = await readJobSpecFile(path);
  await requireWritableFile(resolve(options.output), '--output');
  if (options.adaptersOutput !== undefined) {
    if (spec.adapters === undefined) {
      throw failedPrecondition(
        '--adapters-output needs a job that trains adapters; add them to the job spec',
      );
    }
    await requireWritableFile(resolve(options.adaptersOutput), '--adapters-output');
  }
  const [base, reference] = await readNamedModels(
    [spec.base, ...(spec.reference === undefined ? [] : [spec.reference])],
    options.state,
  );
  if (base === undefined) throw internal(new Error('no model was read'));
  const display = openProgressDisplay(process.stderr);
  const prepare = (state: StateFolder): Promise<PreparedJob> => storeInputs(spec, { base, reference }, state);
  let result: TrainResult | undefined;
  const work = async (
    address: string,
    prepared: PreparedJob,
    natsUrl: string | undefined,
    signal: AbortSignal,
  ): Promise<void> => {
    const { client: trainer, close } = await connect(TrainerService, {
      ...options,
      address,
      waitForReady: true,
      deadlineMs: 60_000,
    });
    try {
      const { job, loss } = await runJob(trainer, prepared.spec, display, signal);
      result = await keep(job, loss, prepared, options, natsUrl);
    } finally {
      close();
    }
  };
  const exitCode = await (
    options.address === undefined
      ? withSystem(
          {
            state: options.state,
            fresh: false,
            ports: options.port,
            only:
              spec.probe === undefined
                ? ['nats-server', 'trainer']
                : ['nats-server', 'referee', 'judge', 'reward', 'trainer'],
            command: 'train',
            notice: display.notice,
            stopNotice: 'Stopping after a checkpoint; Ctrl-C again ends at once.',
          },
          prepare,
          ({ addresses }, prepared, signal) =>
            work(addresses.trainer, prepared, `nats://${addresses.nats}`, signal),
        )
      : elsewhere(options.address, options.state, prepare, work)
  ).finally(() => {
    display.close();
  });
  if (exitCode !== 0) {
    display.notice(
      options.address === undefined
        ? 'Stopped. The same command goes on from the last checkpoint.'
        : 'No longer watching; the job goes on. The same command watches it again.',
    );
  }
  if (result !== undefined) report(result, options);
  return exitCode;
}

/** Does the work with a trainer that runs already and shares the state folder's artifact store. */
async function elsewhere(
  address: string,
  folder: string,
  prepare: (state: StateFolder) => Promise<PreparedJob>,
  work: (address: string, prepared: PreparedJob, nats: undefined, signal: AbortSignal) => Promise<void>,
): Promise<number> {
  const state = await existingStateFolder(folder);
  if (state === undefined) {
    throw failedPrecondition(
      `${folder} is not a Plumb state folder; name that of the system behind --address with --state, whose artifacts its trainer reads`,
    );
  }
  const interruption = listenForInterruption({ kill: () => {}, notice: () => {} });
  try {
    await work(address, await prepare(state), undefined, interruption.signal);
  } catch (error) {
    if (interruption.exitCode === undefined) throw error;
  } finally {
    interruption.close();
  }
  return interruption.exitCode ?? 0;
}

interface PreparedJob {
  readonly spec: JobSpec;
  readonly base: ModelVersionInit;
  readonly state: StateFolder;
}

async function storeInputs(
  file: JobSpecFile,
  models: { readonly base: NamedModel; readonly reference: NamedModel | undefined },
  state: StateFolder,
): Promise<PreparedJob> {
  const folder = state.entry('artifacts');
  const imported = async ({ bytes, model }: NamedModel): Promise<ModelVersionInit> => ({
    ...(await storeModel({ bytes, config: model.config, parameterCount: parameterCountOf(model) }, folder)),
    reasons: ['imported by plumb train'],
  });
  const base = await imported(models.base);
  const spec = create(JobSpecSchema, {
    dataSet: await storeDataSet(file.dataSet, await openFolderStore(folder)),
    base,
    ...(models.reference === undefined ? {} : { reference: await imported(models.reference) }),
    objective: file.objective,
    optimisation: file.optimisation,
    ...(file.adapters === undefined ? {} : { adapters: file.adapters }),
    ...(file.probe === undefined ? {} : { probe: file.probe }),
    seed: file.seed,
  });
  return { spec, base, state };
}

/** Creates the job or finds it again, and follows it to its end. */
async function runJob(
  trainer: Trainer,
  spec: JobSpec,
  display: ProgressDisplay,
  signal: AbortSignal,
): Promise<{ job: Job; loss: number }> {
  const { job: created, found } = await createJob(trainer, spec, signal);
  if (found) {
    const state = created.state === JobState.SUCCEEDED ? 'complete' : 'there and goes on';
    display.notice(`Job ${created.id} is already ${state}.`);
  }
  display.begin(`Training, job ${created.id}`);
  const meter = createRateMeter();
  let loss = Number.NaN;
  let margins = '';
  let anchor = '';
  let probed = '';
  let skipped = '';
  let told = false;
  const job = await followJob(
    trainer,
    created.id,
    {
      job: ({ dataSetSummary: data }) => {
        if (told || data === undefined) return;
        told = true;
        const pairs = data.pairs === 0 ? '' : ` in ${data.pairs} pairs`;
        const excluded = Object.entries(data.excluded).map(
          ([reason, count]) => `, ${count} excluded (${reason})`,
        );
        display.notice(`${data.samples} samples, ${data.used} used${pairs}${excluded.join('')}`);
      },
      point: (point) => {
        ({ loss } = point);
        const { implicitRewardMargin: margin, implicitRewardAccuracy: accuracy } = point;
        margins =
          margin === undefined || accuracy === undefined
            ? ''
            : `, margin ${margin.toFixed(3)} (${(100 * accuracy).toFixed(0)}% right)`;
        if (point.anchorDistance !== undefined) anchor = `, anchor ${point.anchorDistance.toFixed(5)}`;
        if (point.skippedSteps !== undefined && point.skippedSteps > 0) {
          skipped = `, ${point.skippedSteps} skipped (float16 overflow)`;
        }
        for (const { step, trained, heldOut, findings, error } of point.probes) {
          if (error !== undefined)
            display.notice(`The probe at step ${step} has no scores: ${error.message}`);
          for (const sentence of findings) display.notice(`Probe: ${sentence}`);
          if (trained === undefined || heldOut === undefined) continue;
          probed = `, probe ${trained.toFixed(3)} (held out ${heldOut.toFixed(3)})`;
        }
        meter.observe(point.step, performance.now());
        const perSecond = meter.perSecond();
        const left = point.totalSteps - point.step;
        display.update([
          {
            key: 'train',
            label: 'training steps',
            done: point.step,
            total: point.totalSteps,
            rate: perSecond === undefined ? '' : `${perSecond.toFixed(1)}/s`,
            left: perSecond === undefined || left === 0 ? '' : `${shortDuration(left / perSecond)} left`,
            detail: `loss ${loss.toFixed(4)}${margins}, gradient ${point.gradientNorm.toFixed(2)}${anchor}${skipped}${probed}`,
          },
        ]);
      },
    },
    signal,
  );
  if (job.state === JobState.SUCCEEDED) return { job, loss };
  if (job.error !== undefined) throw fromStatus(job.error);
  throw failedPrecondition(`job ${job.id} was cancelled; the same command starts another`);
}

/** The same spec finds the same job again, unless that one has failed or was cancelled: then it is tried anew. */
async function createJob(
  trainer: Trainer,
  spec: JobSpec,
  signal: AbortSignal,
): Promise<{ job: Job; found: boolean }> {
  const hash = createHash('sha256').update(toBinary(JobSpecSchema, spec)).digest('hex').slice(0, 32);
  for (let attempt = 0; ; attempt++) {
    const { job } = await persistently(
      () => trainer.createJob({ spec, idempotencyKey: `train.${hash}.${attempt}` }, { signal }),
      signal,
    );
    if (job === undefined) throw internal(new Error('the trainer made no job'));
    if (!hasEnded(job) || job.state === JobState.SUCCEEDED) {
      return { job, found: job.state !== JobState.PENDING };
    }
  }
}

/** Writes what the job made where the person wants it, and registers it where there is a registry. */
async function keep(
  job: Job,
  loss: number,
  { spec, base, state }: PreparedJob,
  options: TrainOptions,
  natsUrl: string | undefined,
): Promise<TrainResult> {
  const { checkpoint } = job;
  if (checkpoint === undefined) throw internal(new Error(`job ${job.id} has no checkpoint`));
  const store = await openFolderStore(state.entry('artifacts'));
  const write = async ({ uri, sha256 }: Artifact, path: string): Promise<string> => {
    await writeWhole(resolve(path), await store.get(uri, sha256));
    return resolve(path);
  };
  const output = await write(checkpoint, options.output);
  const adapters =
    job.adapters === undefined || options.adaptersOutput === undefined
      ? undefined
      : await write(job.adapters, options.adaptersOutput);
  const version = `${base.model ?? ''}@${checkpoint.sha256.slice(0, 12)}`;
  if (natsUrl !== undefined) {
    const registry = await openModelRegistry(natsUrl);
    try {
      await registry.register(base);
      await registry.register({
        ...base,
        version,
        weights: checkpoint,
        state: ModelState.CANDIDATE,
        parentVersion: base.version ?? '',
        reasons: [`trained by ${spec.objective?.algorithm ?? ''}, job ${job.id}`],
      });
    } finally {
      await registry.close();
    }
  }
  return {
    job: job.id,
    version,
    sha256: checkpoint.sha256,
    steps: job.step,
    loss,
    output,
    ...(adapters === undefined ? {} : { adapters }),
    ...(job.earlyStop === undefined
      ? {}
      : { stoppedEarly: { keptStep: job.earlyStop.keptStep, message: job.earlyStop.message } }),
  };
}

function report(result: TrainResult, options: TrainOptions): void {
  if (options.json === true) {
    process.stdout.write(`${JSON.stringify(result)}\n`);
    return;
  }
  const lines = [
    ` Model:    ${result.version}`,
    ` Steps:    ${result.steps}, loss of the last ${result.loss.toFixed(4)}`,
    ` Written:  ${result.output}`,
    ...(result.adapters === undefined ? [] : [` Adapters: ${result.adapters}`]),
    ...(result.stoppedEarly === undefined ? [] : [` Stopped:  early. ${result.stoppedEarly.message}`]),
  ];
  process.stdout.write(`\n${lines.join('\n')}\n`);
}
