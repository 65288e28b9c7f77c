/**
 * One training step of the toybox model beside PyTorch's, and how its time grows. Every measurement takes turns with
 * what it is compared with, so that load on the machine meets both.
 */
import { mkdtemp, readFile, rm } from 'node:fs/promises';
import { availableParallelism, tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { parseArgs } from 'node:util';
import {
  decodeModel,
  initialiseModel,
  parseOptimisationSettings,
  tokenGrid,
  type OptimisationSettings,
  type VideoModel,
  type VideoModelConfig,
} from '@plumb/diffusion';
import { openLineProcess, type LineProcess } from '../line-process.ts';
import { printBench } from '../print-bench.ts';
import {
  growthExponent,
  median,
  writeTrainingInputs,
  type StepReport,
  type TrainingProcessSettings,
} from '../training-comparison.ts';

const { values: options } = parseArgs({
  options: {
    json: { type: 'boolean', default: false },
    model: { type: 'string', default: 'models/toybox/model.safetensors' },
    /** A Python that has parity/requirements.txt. */
    python: { type: 'string', default: process.env['PLUMB_PYTHON'] ?? 'python3' },
    batch: { type: 'string', default: '32' },
    /** Steps that are measured. */
    rounds: { type: 'string', default: '9' },
    threads: { type: 'string', default: String(availableParallelism()) },
    /** Leaves out how time grows with batch, tokens and width, and what rematerialisation saves. */
    'no-growth': { type: 'boolean', default: false },
    /** Leaves out PyTorch's compiled bfloat16, which needs a C++ compiler. */
    'no-compiled': { type: 'boolean', default: false },
  },
});

/** Whole numbers of the command line. */
function count(name: 'batch' | 'rounds' | 'threads'): number {
  const value = Number(options[name]);
  if (!Number.isInteger(value) || value < 1) {
    throw new RangeError(`--${name} ${options[name]} must be a positive integer`);
  }
  return value;
}
const threads = count('threads');
const rounds = count('rounds');
const WARM_UP = 2;
/** Largest relative difference of the losses of the same step. */
const SAME_WORK = 1e-3;

const folder = await mkdtemp(join(tmpdir(), 'plumb-bench-'));
type Trainer = LineProcess<StepReport>;

function optimisationOf(
  batchSize: number,
  rematerialise: OptimisationSettings['rematerialise'] = 'none',
): OptimisationSettings {
  return parseOptimisationSettings({
    steps: 1000,
    batchSize,
    learningRate: 1e-4,
    emaDecay: 0.98,
    rematerialise,
  });
}

async function openOurs(
  name: string,
  model: VideoModel,
  optimisation: OptimisationSettings,
): Promise<Trainer> {
  const paths = await writeTrainingInputs(folder, name, model, optimisation);
  const script = fileURLToPath(new URL('../training-process.ts', import.meta.url));
  const settings: TrainingProcessSettings = { threads, optimisation };
  return openLineProcess<StepReport>(`training ${name}`, process.execPath, [
    script,
    ...paths,
    JSON.stringify(settings),
  ]);
}

async function openPyTorch(mode: string, model: VideoModel, batch: number): Promise<Trainer> {
  const optimisation = optimisationOf(batch);
  const paths = await writeTrainingInputs(folder, mode, model, optimisation);
  const script = fileURLToPath(new URL('../../parity/training_process.py', import.meta.url));
  const { learningRate, weightDecay, clipNorm, emaDecay } = optimisation;
  const settings = {
    learningRate,
    weightDecay,
    clipNorm,
    emaDecay,
    beta1: 0.9,
    beta2: 0.98,
    epsilon: 1e-8,
    relativeRate: 15,
  };
  try {
    return await openLineProcess<StepReport>(`PyTorch ${mode}`, options.python, [
      '-B',
      script,
      ...paths,
      mode,
      String(threads),
      JSON.stringify(settings),
    ]);
  } catch (error) {
    throw new Error(
      `bench trainer compares with PyTorch, and ${options.python} cannot run it (${error instanceof Error ? error.message : String(error)}). ` +
        'Make a Python that has it (python3 -m venv torch && torch/bin/pip install -r parity/requirements.txt) and name ' +
        'it: --python torch/bin/python, or PLUMB_PYTHON in the environment',
      { cause: error },
    );
  }
}

/** Steps of several trainers in turns, after some that are not counted. */
async function takeTurns(trainers: readonly Trainer[], turns: number): Promise<StepReport[][]> {
  const reports: StepReport[][] = trainers.map(() => []);
  for (let turn = 0; turn < WARM_UP + turns; turn++) {
    for (const [index, trainer] of trainers.entries()) reports[index]?.push(await trainer.ask('step'));
  }
  return reports;
}

const times = (reports: readonly StepReport[] | undefined, kind: 'seconds' | 'cpuSeconds'): number[] =>
  (reports ?? []).slice(WARM_UP).map((report) => report[kind]);
const peak = (reports: readonly StepReport[] | undefined): number => reports?.at(-1)?.peakBytes ?? Number.NaN;

/** The median of ratios of steps that were neighbours in time. */
function ratio(ours: readonly StepReport[] | undefined, theirs: readonly StepReport[] | undefined): number {
  const other = times(theirs, 'seconds');
  return median(times(ours, 'seconds').map((seconds, turn) => seconds / (other[turn] ?? Number.NaN)));
}

/** Both must have done the same: the losses of every step agree, which they do not when any part differs. */
function checkSameWork(
  ours: readonly StepReport[] | undefined,
  theirs: readonly StepReport[] | undefined,
): void {
  for (const [step, { loss }] of (ours ?? []).entries()) {
    const other = theirs?.[step]?.loss ?? Number.NaN;
    if (!(Math.abs(loss - other) <= SAME_WORK * Math.abs(other))) {
      throw new Error(`step ${step} is not the same work: one loss is ${loss}, the other ${other}`);
    }
  }
}

async function compareWithPyTorch(
  model: VideoModel,
): Promise<{ ratios: Record<string, number>; figures: Record<string, number> }> {
  const batch = count('batch');
  const trainers: Trainer[] = [];
  try {
    trainers.push(await openPyTorch('eager', model, batch));
    trainers.push(await openOurs('toybox', model, optimisationOf(batch)));
    if (!options['no-compiled']) trainers.push(await openPyTorch('bf16-compiled', model, batch));
    const [eager, ours, compiled] = await takeTurns(trainers, rounds);
    checkSameWork(ours, eager);
    const milliseconds = (reports: typeof ours): number => 1000 * median(times(reports, 'seconds'));
    const cpu = (reports: typeof ours): number => 1000 * median(times(reports, 'cpuSeconds'));
    return {
      ratios: {
        step_vs_pytorch: ratio(ours, eager),
        step_cpu_vs_pytorch: cpu(ours) / cpu(eager),
        memory_vs_pytorch: peak(ours) / peak(eager),
        ...(compiled === undefined ? {} : { step_vs_pytorch_bf16_compiled: ratio(ours, compiled) }),
      },
      figures: {
        threads,
        batch,
        step_ms: milliseconds(ours),
        step_cpu_ms: cpu(ours),
        peak_mib: peak(ours) / 2 ** 20,
        pytorch_step_ms: milliseconds(eager),
        pytorch_step_cpu_ms: cpu(eager),
        pytorch_peak_mib: peak(eager) / 2 ** 20,
        ...(compiled === undefined ? {} : { pytorch_bf16_compiled_step_ms: milliseconds(compiled) }),
      },
    };
  } finally {
    await Promise.all(trainers.map((trainer) => trainer.close()));
  }
}

/** Milliseconds of a step at several sizes, taken in turns, and the exponent with which time grows. */
async function growth(
  axis: string,
  sizes: readonly { readonly size: number; readonly model: VideoModel; readonly batch: number }[],
): Promise<Record<string, number>> {
  const trainers: Trainer[] = [];
  try {
    for (const { size, model, batch } of sizes) {
      trainers.push(await openOurs(`${axis}-${size}`, model, optimisationOf(batch)));
    }
    const reports = await takeTurns(trainers, 3);
    const points = sizes.map(({ size }, index) => [size, median(times(reports[index], 'seconds'))] as const);
    return {
      [`growth_${axis}_exponent`]: growthExponent(points),
      ...Object.fromEntries(points.map(([size, seconds]) => [`step_ms_at_${axis}_${size}`, 1000 * seconds])),
    };
  } finally {
    await Promise.all(trainers.map((trainer) => trainer.close()));
  }
}

const like = ({ config }: VideoModel, change: Partial<VideoModelConfig>): VideoModel =>
  initialiseModel({ ...config, ...change }, 'bench');
const longer = (model: VideoModel, factor: number): VideoModel =>
  like(model, { video: { ...model.config.video, frames: model.config.video.frames * factor } });

/** What recomputing blocks costs and saves, on clips of four times the frames: the longer, the more is kept otherwise. */
async function compareRematerialisation(
  model: VideoModel,
): Promise<{ ratios: Record<string, number>; figures: Record<string, number> }> {
  const trainers: Trainer[] = [];
  try {
    for (const rematerialise of ['none', 'blocks'] as const) {
      trainers.push(
        await openOurs(`rematerialise-${rematerialise}`, longer(model, 4), optimisationOf(8, rematerialise)),
      );
    }
    const [kept, recomputed] = await takeTurns(trainers, 3);
    checkSameWork(recomputed, kept);
    return {
      ratios: {
        rematerialised_step: ratio(recomputed, kept),
        rematerialised_memory: peak(recomputed) / peak(kept),
      },
      figures: {
        long_clips_peak_mib: peak(kept) / 2 ** 20,
        long_clips_rematerialised_peak_mib: peak(recomputed) / 2 ** 20,
      },
    };
  } finally {
    await Promise.all(trainers.map((trainer) => trainer.close()));
  }
}

async function measureGrowth(model: VideoModel): Promise<Record<string, number>> {
  const tokensOf = ({ config: of }: VideoModel): number => tokenGrid(of).reduce((a, b) => a * b, 1);
  const lengths = [1, 2, 4].map((factor) => longer(model, factor));
  const widths = [1, 2, 4].map((factor) => like(model, { hiddenSize: model.config.hiddenSize * factor }));
  return {
    ...(await growth(
      'batch',
      [8, 16, 32, 64].map((batch) => ({ size: batch, model, batch })),
    )),
    ...(await growth(
      'tokens',
      lengths.map((one) => ({ size: tokensOf(one), model: one, batch: 8 })),
    )),
    ...(await growth(
      'width',
      widths.map((one) => ({ size: one.config.hiddenSize, model: one, batch: 8 })),
    )),
  };
}

try {
  const model = decodeModel(await readFile(options.model), options.model);
  const parts = [await compareWithPyTorch(model)];
  if (!options['no-growth']) {
    parts.push(await compareRematerialisation(model), { ratios: {}, figures: await measureGrowth(model) });
  }
  printBench(
    {
      bench: 'trainer',
      ratios: Object.assign({}, ...parts.map(({ ratios }) => ratios)),
      figures: Object.assign({}, ...parts.map(({ figures }) => figures)),
    },
    options.json,
  );
} finally {
  await rm(folder, { recursive: true, force: true });
}
