import { invalidArgument } from '@plumb/kit/errors';
import type { ObjectiveSettings } from '@plumb/objective';
import {
  buildTrainingStep,
  Graph,
  type Tensor,
  type TrainingProgram,
  type TrainingState,
} from '@plumb/tensor-graph';
import type { Engine, TypedTensor } from '@plumb/tensor-graph/engine';
import type { AdapterSettings } from './adapters.ts';
import { openPredictionProbe, probeSeed, type ProbedPrediction } from './anchor-probe.ts';
import {
  initialiseNetworkAdapters,
  networkAdapters,
  networkAdapterTargets,
  type NetworkAdapterTarget,
} from './network-adapters.ts';
import {
  denoiserShape,
  predictWithNetwork,
  type DenoiserShape,
  type NetworkConditioning,
  type NetworkDenoiser,
} from './network-denoiser.ts';
import { objectiveGraph } from './objective-graph.ts';
import { optimiserOf, type OptimisationSettings } from './optimisation.ts';
import { noiseAndTarget } from './parameterisation.ts';
import { fillGaussian, randomGenerator, uniform } from './random.ts';
import { drawTimestep } from './timesteps.ts';
import { trainedValues } from './training.ts';
import { openTrainingLoop, type Training } from './training-loop.ts';

/** A caption as a text encoder gives it. */
export interface TextEmbedding {
  /** [tokens, width] */
  readonly embeddings: Float32Array;
  /** [tokens], 1 for a token and 0 for padding. */
  readonly mask: Float32Array;
}

/** One item of a batch for an imported denoiser. */
export interface LatentExample {
  /** Latents of the clip, or of the chosen one of a pair, as the denoiser takes them. */
  readonly latents: Float32Array;
  /** Of the rejected clip of a pair. */
  readonly rejected?: Float32Array;
  readonly text: TextEmbedding;
  readonly weight: number;
  /** Label of a labelled sample. */
  readonly accepted?: boolean;
  /** Of another prompt's caption, for the estimate of the divergence in kto. */
  readonly mismatchedText?: TextEmbedding;
}

/** Training of adapters on an imported denoiser. */
export interface NetworkTrainingOptions {
  readonly denoiser: NetworkDenoiser;
  readonly adapters: AdapterSettings;
  /** Adapters that training begins with, by `<module>.lora_A.weight` and `.lora_B.weight`; fresh ones unless given. */
  readonly start?: ReadonlyMap<string, Float32Array>;
  /** Adapters of the frozen reference, of the same settings; the denoiser without adapters unless given. */
  readonly reference?: ReadonlyMap<string, Float32Array>;
  readonly objective: ObjectiveSettings;
  readonly optimisation: OptimisationSettings;
  /** What a dropped caption is replaced by; needed when `optimisation.captionDropout` is above 0. */
  readonly emptyText?: TextEmbedding;
  /** Of times, noise, dropped captions and fresh adapters; batches have their own. */
  readonly seed: string;
  /** Examples for `anchorDistance`: as many as the denoiser has rows. */
  readonly anchorProbe?: readonly LatentExample[];
  /** State of an earlier run of the same job, to go on from. */
  readonly state?: TrainingState;
  /** The program of a step, where it was made before; that of the other options unless given. */
  readonly program?: TrainingProgram;
  /** What computes the gradients; `cpu` unless given. `cuda` has one lane. */
  readonly device?: 'cpu' | 'cuda';
}

/** What decides the program of a training step. */
export type NetworkProgramOptions = Pick<
  NetworkTrainingOptions,
  'denoiser' | 'adapters' | 'reference' | 'objective' | 'optimisation'
>;

/** Everything of a job but its examples. */
interface Job<Options extends NetworkProgramOptions = NetworkTrainingOptions> {
  readonly options: Options;
  readonly shape: DenoiserShape;
  readonly targets: readonly NetworkAdapterTarget[];
}

/**
 * Opens a training of adapters on an imported denoiser; the steps are those of `openTraining`. The denoiser's weights
 * stay frozen and where they are; a batch is cut into passes of the denoiser's rows.
 * @throws PlumbError INVALID_ARGUMENT naming the field: inputs or constants that the network does not have or lacks, targets
 *   that match no layer, a batch that is no whole number of passes (or, for kto, more than one), captions dropped without
 *   an empty one; UNIMPLEMENTED naming operator and node where the network has one without a gradient
 */
export async function openNetworkTraining(
  engine: Engine,
  options: NetworkTrainingOptions,
): Promise<Training<LatentExample>> {
  const { denoiser, optimisation, seed, anchorProbe, device } = options;
  const job = jobOf(options);
  checkEmptyText(options);
  return openTrainingLoop(engine, {
    name: `${denoiser.name}-${seed}`,
    program: options.program ?? networkProgram(job),
    start: options.start ?? initialiseNetworkAdapters(job.targets, seed),
    ...(device === undefined ? {} : { device }),
    optimisation,
    feeds: (examples, step) =>
      networkFeeds(job, examples, { seed, step, captionDropout: optimisation.captionDropout }),
    ...(options.state === undefined ? {} : { state: options.state }),
    ...(anchorProbe === undefined
      ? {}
      : {
          anchorProbe: (id: string) =>
            openPredictionProbe(
              engine,
              id,
              probedPrediction(job, anchorProbe, 'reference'),
              probedPrediction(job, anchorProbe, 'policy'),
            ),
        }),
  });
}

/**
 * The program of one training step: what `openNetworkTraining` runs. Making it finds everything that keeps a denoiser from
 * being trained, before there is an engine or data.
 * @throws PlumbError as `openNetworkTraining`
 */
export function networkTrainingProgram(options: NetworkProgramOptions): TrainingProgram {
  return networkProgram(jobOf(options));
}

/** The adapters that a state stands for: their moving average, or themselves where there is none. */
export function trainedNetworkAdapters(
  targets: readonly NetworkAdapterTarget[],
  optimisation: OptimisationSettings,
  state: TrainingState,
): Map<string, Float32Array> {
  return trainedValues(
    targets.flatMap(({ a, b }) => [a.name, b.name]),
    optimisation,
    state,
  );
}

function jobOf<Options extends NetworkProgramOptions>(options: Options): Job<Options> {
  const { denoiser, adapters } = options;
  const targets = networkAdapterTargets(denoiser.network.linearLayers, adapters);
  const job = { options, shape: denoiserShape(denoiser), targets };
  checkBatch(job);
  return job;
}

function checkBatch({ options, shape: { rows } }: Job<NetworkProgramOptions>): void {
  const { objective, optimisation } = options;
  const { batchSize } = optimisation;
  if (batchSize % rows !== 0 || (objective.algorithm === 'kto' && batchSize !== rows)) {
    throw invalidArgument(
      'optimisation.batchSize',
      objective.algorithm === 'kto'
        ? `is ${batchSize}, but kto estimates its reference point from one pass, and the denoiser was imported for ${rows} rows; make them equal`
        : `is ${batchSize}, which is no multiple of the ${rows} rows that the denoiser was imported for`,
    );
  }
}

function checkEmptyText({ optimisation: { captionDropout }, emptyText }: NetworkTrainingOptions): void {
  if (captionDropout > 0 && emptyText === undefined) {
    throw invalidArgument(
      'optimisation.captionDropout',
      `is ${captionDropout}, but there is no embedding of the empty caption (emptyText); give it, or set 0`,
    );
  }
}

/** The inputs of a graph that a pass reads besides the clips. */
function passInputs(
  graph: Graph,
  { options: { denoiser }, shape }: Job<NetworkProgramOptions>,
): {
  readonly noised: (clip: Tensor) => { noised: Tensor; target: Tensor };
  readonly timestep: Tensor;
  readonly text: (prefix: '' | 'mismatched') => NetworkConditioning;
} {
  const { rows, latents, tokens, width, wholeTimesteps } = shape;
  const level = (name: string): Tensor => graph.input(name, 'float32', [rows, ...latents.map(() => 1)]);
  const [signal, noiseLevel] = [level('signal'), level('noiseLevel')];
  const noise = graph.input('noise', 'float32', [rows, ...latents]);
  return {
    noised: (clip) => noiseAndTarget(denoiser.parameterisation, clip, noise, signal, noiseLevel),
    timestep: graph.input('timestep', wholeTimesteps ? 'int64' : 'float32', [rows]),
    text: (prefix) => ({
      text: graph.input(prefix === '' ? 'text' : 'mismatchedText', 'float32', [rows, tokens, width]),
      mask:
        denoiser.inputs.textMask === undefined
          ? undefined
          : graph.input(prefix === '' ? 'textMask' : 'mismatchedTextMask', 'float32', [rows, tokens]),
    }),
  };
}

/** Adapters that do not change, as constants. */
function frozenAdapters(
  graph: Graph,
  { options: { adapters }, targets }: Job<NetworkProgramOptions>,
  values: ReadonlyMap<string, Float32Array>,
): ReturnType<typeof networkAdapters>['adapt'] {
  return networkAdapters(targets, adapters, ({ name, shape }) => {
    const data = values.get(name);
    if (data === undefined)
      throw invalidArgument(`reference.${name}`, 'is missing; give adapters of the same settings');
    return graph.constant(data, shape);
  }).adapt;
}

/** Adapters that are trained, as parameters. */
function trainedAdapters(
  graph: Graph,
  { options: { adapters }, targets }: Job<NetworkProgramOptions>,
): ReturnType<typeof networkAdapters> {
  return networkAdapters(targets, adapters, ({ name, shape }) => graph.parameter(name, shape));
}

/** The program of one step. */
function networkProgram(job: Job<NetworkProgramOptions>): TrainingProgram {
  const { denoiser, objective, optimisation, reference } = job.options;
  const graph = new Graph();
  const { trainable, adapt } = trainedAdapters(graph, job);
  const anchor = reference === undefined ? undefined : frozenAdapters(graph, job, reference);
  const inputs = passInputs(graph, job);
  const rematerialise = optimisation.rematerialise === 'blocks';
  const { loss, metrics } = objectiveGraph(graph, objective, {
    shape: [job.shape.rows, ...job.shape.latents],
    noised: inputs.noised,
    conditioning: inputs.text(''),
    mismatched: () => inputs.text('mismatched'),
    policy: (noised, text) =>
      noised.map((x) =>
        predictWithNetwork(graph, denoiser, x, inputs.timestep, text, { adapt, rematerialise }),
      ),
    reference: (noised, text) =>
      noised.map((x) =>
        predictWithNetwork(
          graph,
          denoiser,
          x,
          inputs.timestep,
          text,
          anchor === undefined ? {} : { adapt: anchor },
        ),
      ),
  });
  return buildTrainingStep({
    graph,
    loss,
    metrics,
    parameters: trainable,
    optimiser: optimiserOf(optimisation),
    precision: optimisation.precision,
  });
}

/** The prediction for fixed examples, which become constants of the graph. */
function probedPrediction(
  job: Job,
  examples: readonly LatentExample[],
  side: 'policy' | 'reference',
): ProbedPrediction {
  const { denoiser, seed, reference } = job.options;
  const { rows } = job.shape;
  if (examples.length !== rows) {
    throw invalidArgument(
      'anchorProbe',
      `has ${examples.length} examples; it must have ${rows}, one for each row`,
    );
  }
  const graph = new Graph();
  const feeds = networkFeeds(job, examples, { seed: probeSeed(seed), step: 0, captionDropout: 0 });
  const fixed = (name: string): Tensor => {
    const feed = feeds[name];
    if (feed === undefined) throw new TypeError(`a batch has no ${name}`);
    return graph.constant(feed.data, feed.shape);
  };
  const { noised } = noiseAndTarget(
    denoiser.parameterisation,
    fixed('x0'),
    fixed('noise'),
    fixed('signal'),
    fixed('noiseLevel'),
  );
  const conditioning = {
    text: fixed('text'),
    mask: denoiser.inputs.textMask === undefined ? undefined : fixed('textMask'),
  };
  const adapt =
    side === 'policy'
      ? trainedAdapters(graph, job).adapt
      : reference === undefined
        ? undefined
        : frozenAdapters(graph, job, reference);
  const { folder } = denoiser.network;
  return {
    graph,
    prediction: predictWithNetwork(
      graph,
      denoiser,
      noised,
      fixed('timestep'),
      conditioning,
      adapt === undefined ? {} : { adapt },
    ),
    ...(folder === undefined ? {} : { weightsFolder: folder }),
  };
}

/**
 * Inputs of one step. Times, noise and dropped captions follow from (seed, step) alone, so that a resumed job draws what
 * the interrupted one would have drawn. Both clips of a pair share time and noise.
 */
function networkFeeds(
  { options, shape }: Job,
  examples: readonly LatentExample[],
  {
    seed,
    step,
    captionDropout,
  }: { readonly seed: string; readonly step: number; readonly captionDropout: number },
): Record<string, TypedTensor> {
  const { denoiser, optimisation, emptyText } = options;
  const batch = examples.length;
  const random = randomGenerator(seed, 'step', step);
  const rows = (
    field: string,
    rowShape: readonly number[],
    pick: (example: LatentExample, row: number) => Float32Array | undefined,
  ): TypedTensor => {
    const size = rowShape.reduce((a, b) => a * b, 1);
    const data = new Float32Array(batch * size);
    for (const [row, example] of examples.entries()) {
      const values = pick(example, row);
      if (values?.length !== size) {
        throw new TypeError(
          `item ${row} of the batch has ${values?.length ?? 'no'} values of ${field}; it must have ${size}`,
        );
      }
      data.set(values, row * size);
    }
    return { dtype: 'float32', shape: [batch, ...rowShape], data };
  };
  const signal = new Float32Array(batch);
  const noiseLevel = new Float32Array(batch);
  const timesteps: number[] = [];
  const texts = examples.map((example, row) => {
    const level = denoiser.noiseLevel(drawTimestep(optimisation.timesteps, random));
    signal[row] = level.signal;
    noiseLevel[row] = level.noise;
    timesteps.push(level.timestep);
    // Drawn for every row, so that the share dropped does not shift later draws.
    const dropped = uniform(random) < captionDropout;
    return dropped && emptyText !== undefined ? emptyText : example.text;
  });
  const ones = shape.latents.map(() => 1);
  const textShape = [shape.tokens, shape.width];
  const feeds: Record<string, TypedTensor> = {
    x0: rows('latents', shape.latents, ({ latents }) => latents),
    noise: {
      dtype: 'float32',
      shape: [batch, ...shape.latents],
      data: fillGaussian(new Float32Array(batch * shape.latents.reduce((a, b) => a * b, 1)), random),
    },
    signal: { dtype: 'float32', shape: [batch, ...ones], data: signal },
    noiseLevel: { dtype: 'float32', shape: [batch, ...ones], data: noiseLevel },
    timestep: shape.wholeTimesteps
      ? {
          dtype: 'int64',
          shape: [batch],
          data: BigInt64Array.from(timesteps, (value) => BigInt(Math.round(value))),
        }
      : { dtype: 'float32', shape: [batch], data: Float32Array.from(timesteps) },
    text: rows('text', textShape, (_, row) => texts[row]?.embeddings),
    weights: { dtype: 'float32', shape: [batch], data: Float32Array.from(examples, ({ weight }) => weight) },
  };
  const masked = denoiser.inputs.textMask !== undefined;
  if (masked) feeds['textMask'] = rows('text mask', [shape.tokens], (_, row) => texts[row]?.mask);
  const [first] = examples;
  if (first?.rejected !== undefined)
    feeds['rejected'] = rows('rejected', shape.latents, ({ rejected }) => rejected);
  if (first?.accepted !== undefined) {
    feeds['accepted'] = {
      dtype: 'float32',
      shape: [batch],
      data: Float32Array.from(examples, ({ accepted }) => (accepted === true ? 1 : 0)),
    };
  }
  if (first?.mismatchedText !== undefined) {
    feeds['mismatchedText'] = rows(
      'mismatched text',
      textShape,
      (example) => example.mismatchedText?.embeddings,
    );
    if (masked) {
      feeds['mismatchedTextMask'] = rows(
        'mismatched mask',
        [shape.tokens],
        (example) => example.mismatchedText?.mask,
      );
    }
  }
  return feeds;
}
