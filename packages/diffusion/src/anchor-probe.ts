import { Graph, reduceMean, square, sub, toOnnx, type Tensor } from '@plumb/tensor-graph';
import type { Engine, TypedTensor } from '@plumb/tensor-graph/engine';
import type { AdapterSettings } from './adapters.ts';
import type { VideoModelConfig } from './config.ts';
import type { VideoModel } from './model-file.ts';
import { noiseAndTarget } from './parameterisation.ts';
import { weightOf } from './sampling-graph.ts';
import { trainingFeeds, type TrainingExample } from './training-batch.ts';
import { policyWeights } from './training-graph.ts';
import type { TimestepDistribution } from './timesteps.ts';
import { denoise } from './video-dit.ts';

/** Measures how far a training has moved from its reference, on clips, noise and times that stay the same. */
export interface AnchorProbe {
  /** Mean over clips of ||policy - reference||^2 (mean over elements), with the weights of the last step. */
  distance(): Promise<number>;
  close(): Promise<void>;
}

/** A prediction for fixed inputs, on a graph of its own. */
export interface ProbedPrediction {
  readonly graph: Graph;
  readonly prediction: Tensor;
  /** Frozen weights among the graph's inputs. */
  readonly initialisers?: ReadonlyMap<string, Float32Array>;
  /** Folder of the graph's external weights. */
  readonly weightsFolder?: string;
}

/**
 * Opens a probe. The reference predicts once, here, and its weights are not kept; a measurement is one forward pass in
 * the engine, on the weights that the training holds there.
 * @param training id that the engine gave
 * @param reference has no inputs but initialisers
 * @param policy its other inputs are parameters of the training
 */
export async function openPredictionProbe(
  engine: Engine,
  training: string,
  reference: ProbedPrediction,
  policy: ProbedPrediction,
): Promise<AnchorProbe> {
  const name = `${training}/anchor`;
  const load = ({ graph, initialisers, weightsFolder }: ProbedPrediction): Promise<void> =>
    engine.load(
      name,
      toOnnx(graph, initialisers === undefined ? {} : { initialisers }),
      weightsFolder === undefined ? {} : { weightsFolder },
    );
  reference.graph.output('prediction', reference.prediction);
  await load(reference);
  const { prediction: expected } = await engine.run(name, {});
  if (!(expected?.data instanceof Float32Array)) throw new TypeError('the reference gave no prediction');

  const anchor = policy.graph.constant(expected.data, expected.shape);
  policy.graph.output('distance', reduceMean(square(sub(policy.prediction, anchor))));
  await load(policy);
  return {
    async distance() {
      const { distance } = await engine.measureTraining(training, {}, name);
      const value = distance?.data[0];
      if (typeof value !== 'number') throw new TypeError('the probe gave no distance');
      return value;
    },
    close: () => engine.unload(name),
  };
}

/**
 * Opens a probe on a training of a video model.
 * @param options the examples are noised at times of the distribution, by a seed of their own
 */
export function openAnchorProbe(
  engine: Engine,
  training: string,
  options: {
    readonly model: VideoModel;
    readonly reference: VideoModel;
    readonly adapters: AdapterSettings | undefined;
    readonly examples: readonly TrainingExample[];
    readonly timesteps: TimestepDistribution;
    readonly seed: string;
  },
): Promise<AnchorProbe> {
  const { model, reference, adapters, examples, timesteps } = options;
  const { config } = model;
  const feeds = trainingFeeds(config, examples, {
    seed: probeSeed(options.seed),
    step: 0,
    timesteps,
    captionDropout: 0,
  });
  return openPredictionProbe(
    engine,
    training,
    { ...predictionGraph(config, undefined, feeds), initialisers: reference.parameters },
    {
      ...predictionGraph(config, adapters, feeds),
      ...(adapters === undefined ? {} : { initialisers: model.parameters }),
    },
  );
}

/** The seed of a probe's times and noise. */
export function probeSeed(seed: string): string {
  return `${seed} anchor probe`;
}

/** The policy's prediction for fixed inputs, which become constants of the graph. */
function predictionGraph(
  config: VideoModelConfig,
  adapters: AdapterSettings | undefined,
  feeds: Readonly<Record<string, TypedTensor>>,
): { graph: Graph; prediction: Tensor } {
  const graph = new Graph();
  const { weights } = policyWeights(graph, config, adapters);
  const fixed = (name: string): Tensor => {
    const feed = feeds[name];
    if (feed === undefined) throw new TypeError(`a batch has no ${name}`);
    return graph.constant(feed.data, feed.shape);
  };
  const { noised } = noiseAndTarget(
    config.parameterisation,
    fixed('x0'),
    fixed('noise'),
    fixed('signal'),
    fixed('noiseLevel'),
  );
  const prediction = denoise(config, (weight) => weightOf(weights, weight), {
    noised,
    tokens: fixed('tokens'),
    time: fixed('time'),
    skip: fixed('skip'),
    in: fixed('in'),
    out: fixed('out'),
  });
  return { graph, prediction };
}
