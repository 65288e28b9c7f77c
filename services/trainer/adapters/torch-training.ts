import { spawn } from 'node:child_process';
import type { ChildProcess } from 'node:child_process';
import { once } from 'node:events';
import { access, mkdir, readdir, readFile, rename, rm, writeFile } from 'node:fs/promises';
import path from 'node:path';
import { createInterface } from 'node:readline';
import { setTimeout as delay } from 'node:timers/promises';
import { fromJsonString } from '@bufbuild/protobuf';
import { decodeTrainingState, encodeTrainingState } from '@plumb/diffusion';
import { invalidArgument, isErrorCode, isErrorReason, PlumbError } from '@plumb/kit/errors';
import { openFolderStore } from '@plumb/media';
import type { ArtifactStore } from '@plumb/media';
import { adaptedPipelineMediaType, hasLatents } from '@plumb/media/model-media-types';
import { TrainingProgressSchema } from '@plumb/proto/plumb/trainer/v1/trainer_pb.js';
import type { TrainingProgress } from '@plumb/proto/plumb/trainer/v1/trainer_pb.js';
import type { TrainingState } from '@plumb/tensor-graph';
import type { JobPlan, ModelReference } from '../domain/job-spec.ts';
import type { ManifestSample } from '../domain/labelled-samples.ts';
import type { Course, Trainee } from '../domain/trainee.ts';

/** How jobs are trained by another program than this one: trainers/torch. */
export interface TorchTraining {
  /** Its command line: PLUMB_TRAINING_COMMAND. */
  readonly command: readonly string[];
  /** Folder of the job, which all of its pods share. */
  readonly folder: string;
  /** A pipeline with weights that PyTorch reads; undefined where only the built-in model is trained. */
  readonly model: string | undefined;
  readonly artifacts: Pick<ArtifactStore, 'get'>;
}

/** Lines of standard error that an error quotes. */
const quotedLines = 20;
/** How long other pods wait for the first one's job file, in milliseconds. */
const followDeadlineMs = 600_000;
/** Time from SIGTERM to SIGKILL, in milliseconds: the program takes a checkpoint. */
const stopDeadlineMs = 40_000;

const jobPath = (folder: string): string => path.join(folder, 'job.json');
const stateFolder = (folder: string): string => path.join(folder, 'output', 'state');
const stateName = (step: number): string => `step-${String(step).padStart(8, '0')}.safetensors`;

/** The command of one pod. */
export function torchCommand({ command, folder }: Pick<TorchTraining, 'command' | 'folder'>): string[] {
  const output = path.join(folder, 'output');
  const artifacts = path.join(folder, 'artifacts');
  return [...command, '--job', jobPath(folder), '--output', output, '--artifacts', artifacts];
}

/**
 * The job as trainers/torch reads it.
 * @param model where a pipeline's PyTorch weights are
 * @throws PlumbError INVALID_ARGUMENT for what that trainer cannot do
 */
export function torchJob(jobId: string, plan: JobPlan, model: string | undefined): Record<string, unknown> {
  if (plan.probe !== undefined) {
    throw invalidArgument(
      'spec.probe',
      'cannot be run by PLUMB_TRAINING_COMMAND; leave it out, or train with the engine of the trainer',
    );
  }
  const isPipeline = hasLatents(plan.base.mediaType);
  if (isPipeline && model === undefined) {
    throw invalidArgument(
      'PLUMB_TRAINING_MODEL',
      `is missing; ${plan.base.version} is a pipeline of ONNX files: name the folder of the same pipeline with the weights of PyTorch`,
      { reason: 'CONFIGURATION_INVALID' },
    );
  }
  if (
    isPipeline &&
    (plan.base.mediaType === adaptedPipelineMediaType || plan.reference.sha256 !== plan.base.sha256)
  ) {
    throw invalidArgument(
      'spec.base',
      `${plan.base.version} has adapters, or a reference of its own, which PLUMB_TRAINING_COMMAND does not begin with; train it with the engine of the trainer`,
    );
  }
  const modelOf = ({ version, sha256 }: ModelReference) =>
    isPipeline ? { version, path: model } : { version, sha256 };
  return {
    kind: 'plumb.torch-job',
    version: 1,
    jobId,
    dataSet: { sha256: plan.dataSet.sha256 },
    base: modelOf(plan.base),
    ...(plan.reference.sha256 === plan.base.sha256 ? {} : { reference: modelOf(plan.reference) }),
    reward: plan.reward,
    objective: plan.objective,
    optimisation: plan.optimisation,
    ...(plan.adapters === undefined ? {} : { adapters: plan.adapters }),
    checkpointEverySteps: plan.checkpointEverySteps,
    ...(plan.anchorEverySteps === undefined ? {} : { anchorEverySteps: plan.anchorEverySteps }),
    ...(plan.maxAnchorDistance === undefined ? {} : { maxAnchorDistance: plan.maxAnchorDistance }),
    seed: plan.seed.toString(),
  };
}

/**
 * A trainee whose steps another program takes. Everything else stays: its data are checked here, and what it ends with is stored
 * here, from the checkpoints that the program writes.
 * @throws PlumbError as `torchJob`
 */
export function torchTrainee(jobId: string, plan: JobPlan, trainee: Trainee, torch: TorchTraining): Trainee {
  const { maxTextTokens } = trainee;
  const job = {
    ...torchJob(jobId, plan, torch.model),
    ...(maxTextTokens === undefined ? {} : { maxTextTokens }),
  };
  return {
    ...trainee,
    trainedBy: torch.command,
    async store(state) {
      const stored = await trainee.store(state);
      // Copies that nobody reads any more; the progress stays for people.
      await rm(path.join(torch.folder, 'artifacts'), { recursive: true, force: true });
      return stored;
    },
    async prepare(options) {
      const prepared = await trainee.prepare(options);
      await copyArtifacts(plan, options.samples, torch, options.signal);
      return {
        weightSpread: prepared.weightSpread,
        open: (_engine, state) => openCourse(job, state, torch, options.signal),
      };
    },
  };
}

/** What the program reads, from wherever the store is to the job's folder. */
async function copyArtifacts(
  plan: JobPlan,
  samples: readonly ManifestSample[],
  { artifacts, folder }: TorchTraining,
  signal: AbortSignal,
): Promise<void> {
  const isPipeline = hasLatents(plan.base.mediaType);
  const target = await openFolderStore(path.join(folder, 'artifacts'));
  const wanted = [
    plan.dataSet,
    ...(isPipeline ? [] : [plan.base, plan.reference]),
    ...samples.map(({ video, latents }) => (isPipeline ? (latents ?? video) : video)),
  ];
  for (const { uri, sha256 } of new Map(wanted.map((one) => [one.sha256, one])).values()) {
    signal.throwIfAborted();
    await target.put(await artifacts.get(uri, sha256), { mediaType: 'application/octet-stream' });
  }
}

/** Starts the program in the first pod. It goes on from the state, whatever an earlier life left in the folder. */
async function openCourse(
  job: Record<string, unknown>,
  state: TrainingState | undefined,
  torch: TorchTraining,
  signal: AbortSignal,
): Promise<Course> {
  const { folder } = torch;
  const states = stateFolder(folder);
  await rm(states, { recursive: true, force: true });
  await rm(path.join(folder, 'output', 'manifest.json'), { force: true });
  await mkdir(states, { recursive: true });
  if (state !== undefined)
    await writeFile(path.join(states, stateName(state.step)), encodeTrainingState(state));
  // Last, and whole at once: the other pods begin when it is there.
  await writeFile(`${jobPath(folder)}.new`, JSON.stringify(job));
  await rename(`${jobPath(folder)}.new`, jobPath(folder));

  const points = follow(startProgram(torchCommand(torch), signal));
  let step = state?.step ?? 0;
  let newest: TrainingProgress | undefined;
  return {
    get step() {
      return step;
    },
    async advance() {
      for (;;) {
        const { value: point, done } = await points.next();
        if (signal.aborted) await ending(points);
        signal.throwIfAborted();
        if (done === true) throw failed(`the program ended after step ${step}, before the last`, []);
        // A program that was started again repeats what came after its checkpoint.
        if (point.step <= step) continue;
        step = point.step;
        newest = point;
        return metricsOf(point);
      }
    },
    anchorDistance() {
      if (newest?.anchorDistance === undefined)
        throw new TypeError('the program measured no anchor distance');
      return Promise.resolve(newest.anchorDistance);
    },
    async state() {
      if (signal.aborted) await ending(points);
      // The checkpoint of this step, or the one before it, from which a job that is stopped goes on.
      const steps = (await readdir(states)).map((name) =>
        Number(/^step-(\d+)\./.exec(name)?.[1] ?? Number.NaN),
      );
      const found = Math.max(...steps.filter((one) => one <= step));
      if (!Number.isFinite(found)) throw failed(`there is no checkpoint of step ${step} or before`, []);
      return decodeTrainingState(
        await readFile(path.join(states, stateName(found))),
        `the checkpoint of step ${found}`,
      );
    },
  };
}

/** Waits for the end of a program that was told to stop, which is no failure. */
async function ending(points: AsyncGenerator<TrainingProgress, void, undefined>): Promise<void> {
  try {
    while ((await points.next()).done !== true);
  } catch (error) {
    if (PlumbError.from(error).reason !== 'PROCESS_FAILED') throw error;
  }
}

function metricsOf(point: TrainingProgress): Awaited<ReturnType<Course['advance']>> {
  const named = {
    anchor_distance: point.anchorDistance,
    implicit_reward_margin: point.implicitRewardMargin,
    implicit_reward_accuracy: point.implicitRewardAccuracy,
    sft_error: point.sftError,
  };
  const present = Object.entries(named).filter((entry): entry is [string, number] => entry[1] !== undefined);
  return { ...Object.fromEntries(present), loss: point.loss, gradientNorm: point.gradientNorm };
}

function startProgram([program = '', ...words]: readonly string[], signal: AbortSignal): ChildProcess {
  const child = spawn(program, words, { stdio: ['ignore', 'pipe', 'pipe'] });
  const stop = (): void => {
    child.kill('SIGTERM');
    setTimeout(() => child.kill('SIGKILL'), stopDeadlineMs).unref();
  };
  signal.addEventListener('abort', stop, { once: true });
  child.once('close', () => {
    signal.removeEventListener('abort', stop);
  });
  return child;
}

/**
 * The points that a program prints, until it ends.
 * @throws PlumbError the program's own, which it prints as JSON on standard error; UNAVAILABLE (PROCESS_FAILED) for any other end
 */
async function* follow(child: ChildProcess): AsyncGenerator<TrainingProgress, void, undefined> {
  const errors: string[] = [];
  const own: PlumbError[] = [];
  if (child.stdout === null || child.stderr === null) throw new TypeError('the program has pipes');
  createInterface({ input: child.stderr }).on('line', (line) => {
    process.stderr.write(`${line}\n`);
    // torchrun says much more after it.
    own.push(...ownErrors(line));
    errors.push(line);
    if (errors.length > quotedLines) errors.shift();
  });
  const ended = once(child, 'close') as Promise<[number | null, NodeJS.Signals | null]>;
  // Somebody waits for it below, after the last line.
  ended.catch(() => undefined);
  for await (const line of createInterface({ input: child.stdout })) {
    if (line.startsWith('{')) yield fromJsonString(TrainingProgressSchema, line);
  }
  const [code, killed] = await ended.catch((cause: unknown) => {
    throw invalidArgument('PLUMB_TRAINING_COMMAND', `cannot be started: ${String(cause)}`, {
      reason: 'CONFIGURATION_INVALID',
      cause,
    });
  });
  if (code !== 0)
    throw own[0] ?? failed(`the program ended with ${killed ?? `exit code ${String(code)}`}`, errors);
}

function failed(what: string, errors: readonly string[]): PlumbError {
  return new PlumbError({
    code: 'UNAVAILABLE',
    reason: 'PROCESS_FAILED',
    message: `PLUMB_TRAINING_COMMAND: ${what}${errors.length === 0 ? '' : `: ${errors.join('\n')}`}`,
  });
}

/** The error that a line of standard error holds, if it holds one. */
function ownErrors(line: string): PlumbError[] {
  const text = /\{"error": ?\{.*\}\}/.exec(line)?.[0];
  if (text === undefined) return [];
  const { error } = JSON.parse(text) as { error: { code: string; reason: string; message: string } };
  return [
    new PlumbError({
      code: isErrorCode(error.code) ? error.code : 'FAILED_PRECONDITION',
      reason: isErrorReason(error.reason) ? error.reason : 'UNEXPECTED',
      message: error.message,
    }),
  ];
}

/**
 * Runs the program in a pod other than the first, once that has written the job.
 * @returns the program's exit code
 * @throws PlumbError DEADLINE_EXCEEDED when the job does not come
 */
export async function followFirstPod(
  torch: Pick<TorchTraining, 'command' | 'folder'>,
  signal: AbortSignal,
): Promise<number> {
  const giveUp = Date.now() + followDeadlineMs;
  for (;;) {
    signal.throwIfAborted();
    const isThere = await access(jobPath(torch.folder)).then(
      () => true,
      () => false,
    );
    if (isThere) break;
    if (Date.now() > giveUp) {
      throw new PlumbError({
        code: 'DEADLINE_EXCEEDED',
        reason: 'DEADLINE_EXCEEDED',
        message: `PLUMB_TRAINING_FOLDER: ${jobPath(torch.folder)} did not appear in ${followDeadlineMs / 60_000} minutes; is the folder shared with the first pod?`,
      });
    }
    await delay(1000, undefined, { signal });
  }
  const child = startProgram(torchCommand(torch), signal);
  child.stdout?.resume();
  child.stderr?.pipe(process.stderr);
  const [code] = (await once(child, 'close')) as [number | null];
  return code ?? 1;
}
