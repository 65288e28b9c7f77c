import { readFile } from 'node:fs/promises';
import { join } from 'node:path';
import {
  decodePeftAdapters,
  encodePeftAdapters,
  networkAdapters,
  networkAdapterTargets,
  noiseAndTarget,
  parseAdapterSettings,
} from '@plumb/diffusion';
import { dpoLoss, forwardProjectionLoss, parseObjectiveSettings, type Objective } from '@plumb/objective';
import { buildTrainingStep, Graph, initialTrainingState, type Tensor, toOnnx } from '@plumb/tensor-graph';
import type { Engine, TypedTensor } from '@plumb/tensor-graph/engine';
import { importOnnx, type ImportedNetwork } from '@plumb/tensor-graph/onnx-import';
import type { CaseFiles, DenoiserCase } from './case-files.ts';
import { compare, float32, type Comparison } from './comparison.ts';
import { DENOISER_LIMIT, DENOISER_TRAINING_LIMIT } from './relative-error.ts';

/** Steps of training that PyTorch's are compared with. */
const STEPS = 10;

/**
 * Compares an imported denoiser with the model that it was exported from: predictions, and losses, gradients and ten
 * training steps of adapters on it, which are read from the file that diffusers wrote and written as that file.
 */
export async function measureDenoiser(
  engine: Engine,
  files: CaseFiles,
  one: DenoiserCase,
): Promise<Comparison[]> {
  const folder = join(files.folder, 'denoisers');
  const network = await open(folder, one);
  const comparisons = await comparePredictions(engine, files, one, network);
  comparisons.push(...(await compareAdapterFile(files, one, network)));
  for (const check of one.checks)
    comparisons.push(...(await compareTraining(engine, files, one, network, check)));
  return comparisons;
}

function open(folder: string, one: DenoiserCase): Promise<ImportedNetwork> {
  return importOnnx(join(folder, one.file), {
    rootModule: 'model',
    ...(one.how.includes('free batch') ? { dimensions: { batch: one.microBatch } } : {}),
  });
}

/** The adapters of a case as a file for other tools. */
export async function writeAdapters(files: CaseFiles, one: DenoiserCase): Promise<Uint8Array> {
  const network = await open(join(files.folder, 'denoisers'), one);
  const values = Array.from(
    files.group('denoisers', one.name, 'adapter.'),
    ([name, { data }]) => [name, data as Float32Array] as const,
  );
  const settings = settingsOf(one);
  return encodePeftAdapters(networkAdapterTargets(network.linearLayers, settings), settings, new Map(values));
}

/** The inputs of a graph for one micro-batch. */
function inputsOf(graph: Graph, files: CaseFiles, one: DenoiserCase): (name: string) => Tensor {
  const made = new Map<string, Tensor>();
  return (name) => {
    const known = made.get(name);
    if (known !== undefined) return known;
    const { dtype, shape } = files.tensor('denoisers', one.name, `feed.${name}`);
    const tensor = graph.input(name, dtype, shape.with(0, one.microBatch));
    made.set(name, tensor);
    return tensor;
  };
}

function predict(
  network: ImportedNetwork,
  graph: Graph,
  noised: Tensor,
  input: (name: string) => Tensor,
  options?: Parameters<ImportedNetwork['apply']>[2],
): Tensor {
  const inputs = { hidden_states: noised, encoder_hidden_states: input('text'), timestep: input('timestep') };
  const [prediction] = Object.values(network.apply(graph, inputs, options));
  if (prediction === undefined) throw new TypeError('the network has no output');
  return prediction;
}

/** Rows of a tensor of a whole batch. */
function part({ dtype, shape, data }: TypedTensor, from: number, count: number): TypedTensor {
  const size = data.length / (shape[0] ?? 1);
  return { dtype, shape: shape.with(0, count), data: data.subarray(from * size, (from + count) * size) };
}

function settingsOf(one: DenoiserCase): ReturnType<typeof parseAdapterSettings> {
  return parseAdapterSettings(one.adapters);
}

async function comparePredictions(
  engine: Engine,
  files: CaseFiles,
  one: DenoiserCase,
  network: ImportedNetwork,
): Promise<Comparison[]> {
  const graph = new Graph();
  const input = inputsOf(graph, files, one);
  const targets = networkAdapterTargets(network.linearLayers, settingsOf(one));
  const { adapt } = networkAdapters(targets, settingsOf(one), ({ name, shape }) =>
    graph.parameter(name, shape),
  );
  graph.output('base', predict(network, graph, input('x0'), input));
  graph.output('adapted', predict(network, graph, input('x0'), input, { adapt }));
  const model = toOnnx(graph);
  await engine.load(one.name, model, network.folder === undefined ? {} : { weightsFolder: network.folder });
  const adapters = files.group('denoisers', one.name, 'adapter.');
  const batch = files.tensor('denoisers', one.name, 'feed.x0').shape[0] ?? 0;
  const comparisons: Comparison[] = [];
  for (let from = 0; from < batch; from += one.microBatch) {
    const rows = (role: string): TypedTensor =>
      part(files.tensor('denoisers', one.name, role), from, one.microBatch);
    const results = await engine.run(one.name, {
      x0: rows('feed.x0'),
      text: rows('feed.text'),
      timestep: rows('feed.timestep'),
      ...Object.fromEntries(adapters),
    });
    for (const role of ['base', 'adapted']) {
      const expected = rows(`prediction.${role}`);
      comparisons.push(
        compare('denoisers, predictions', `prediction.${role}`, results[role], expected, DENOISER_LIMIT),
      );
    }
  }
  await engine.unload(one.name);
  return comparisons;
}

/** Reads the file of diffusers, and writes what was read as it was. */
async function compareAdapterFile(
  files: CaseFiles,
  one: DenoiserCase,
  network: ImportedNetwork,
): Promise<Comparison[]> {
  const { rank, alpha, parameters } = decodePeftAdapters(
    await readFile(join(files.folder, 'denoisers', one.adaptersFile)),
    one.adaptersFile,
  );
  const settings = settingsOf(one);
  if (rank !== settings.rank || alpha !== settings.alpha) {
    throw new TypeError(`${one.adaptersFile} has rank ${rank} and alpha ${alpha}`);
  }
  const targets = networkAdapterTargets(network.linearLayers, settings);
  const again = decodePeftAdapters(encodePeftAdapters(targets, settings, parameters), 'written again');
  const factor = (name: string): number => (name.includes('lora_B') ? rank / settings.alpha : 1);
  return Array.from(files.group('denoisers', one.name, 'adapter.'), ([name, expected]) => [
    compare(
      'denoisers, adapter files',
      `adapter.${name}`,
      matrixOf(parameters.get(name), expected),
      expected,
      0,
    ),
    compare(
      'denoisers, adapter files',
      `adapter.${name}, written`,
      // The factor alpha / rank is in the written B.
      matrixOf(
        again.parameters.get(name)?.map((value) => value * factor(name)),
        expected,
      ),
      expected,
      0,
    ),
  ]).flat();
}

function matrixOf(data: Float32Array | undefined, { shape }: TypedTensor): TypedTensor | undefined {
  return data === undefined ? undefined : float32(shape, data);
}

function objectiveOf(
  one: DenoiserCase,
  settings: DenoiserCase['checks'][number]['settings'],
  input: (name: string) => Tensor,
  predictions: (noised: Tensor) => { policy: Tensor; reference: Tensor },
): Objective {
  const parsed = parseObjectiveSettings(settings);
  const of = (clip: Tensor): { target: Tensor; policy: Tensor; reference: Tensor } => {
    const { noised, target } = noiseAndTarget(
      one.parameterisation,
      clip,
      input('noise'),
      input('signal'),
      input('noiseLevel'),
    );
    return { target, ...predictions(noised) };
  };
  if (parsed.algorithm === 'dpo') {
    return dpoLoss(parsed, {
      chosen: of(input('x0')),
      rejected: of(input('rejected')),
      weights: input('weights'),
    });
  }
  if (parsed.algorithm === 'rwr') {
    return forwardProjectionLoss(parsed, { ...of(input('x0')), weights: input('weights') });
  }
  throw new TypeError(`no case is made of ${parsed.algorithm}`);
}

/** Ten steps from the adapters of the case; the first gives losses and gradients. */
async function compareTraining(
  engine: Engine,
  files: CaseFiles,
  one: DenoiserCase,
  network: ImportedNetwork,
  { settings, metrics }: DenoiserCase['checks'][number],
): Promise<Comparison[]> {
  const graph = new Graph();
  const input = inputsOf(graph, files, one);
  const adapterSettings = settingsOf(one);
  const targets = networkAdapterTargets(network.linearLayers, adapterSettings);
  const { trainable, adapt } = networkAdapters(targets, adapterSettings, ({ name, shape }) =>
    graph.parameter(name, shape),
  );
  const objective = objectiveOf(one, settings, input, (noised) => ({
    policy: predict(network, graph, noised, input, {
      adapt,
      // The case of Wan keeps everything.
      ...(one.blocks.length === 0 ? {} : { rematerialise: one.blocks }),
    }),
    reference: predict(network, graph, noised, input),
  }));
  const program = buildTrainingStep({
    graph,
    loss: objective.loss,
    metrics: Object.fromEntries(metrics.map((name) => [name, objective.metrics[name] ?? objective.loss])),
    parameters: trainable,
    optimiser: one.optimiser,
  });
  const start = files.group('denoisers', one.name, 'adapter.');
  const initial = Object.fromEntries([...start].map(([name, { data }]) => [name, data as Float32Array]));
  const id = await engine.openTraining(one.name, program, initialTrainingState(program, initial), {
    lanes: 1,
  });
  const feeds = Object.fromEntries(
    program.feeds.map(({ name }) => [name, files.tensor('denoisers', one.name, `feed.${name}`)]),
  );
  const algorithm = settings.algorithm;
  const comparisons: Comparison[] = [];
  const check = (group: string, role: string, data: Float32Array | undefined, limit: number): void => {
    const expected = files.tensor('denoisers', one.name, `${algorithm}.${role}`);
    const name = `${algorithm}.${role}`;
    comparisons.push(compare(`denoisers, ${group}`, name, matrixOf(data, expected), expected, limit));
  };
  const losses: number[] = [];
  const norms: number[] = [];
  for (let step = 0; step < STEPS; step++) {
    const report = await engine.trainStep(id, feeds, { learningRate: one.learningRate });
    const { loss = Number.NaN, gradientNorm = Number.NaN } = report;
    losses.push(loss);
    norms.push(gradientNorm);
    if (step > 0) continue;
    check('losses and metrics', 'loss', Float32Array.of(loss), DENOISER_LIMIT);
    for (const metric of metrics) {
      check(
        'losses and metrics',
        `metric.${metric}`,
        Float32Array.of(report[metric] ?? Number.NaN),
        DENOISER_LIMIT,
      );
    }
    const { firstMoment } = await engine.readTraining(id);
    // The first moment of the first step is the clipped gradient, but for a factor.
    const factor = Math.max(1, (gradientNorm + 1e-6) / one.optimiser.clipNorm) / (1 - one.optimiser.beta1);
    for (const [name, values] of Object.entries(firstMoment)) {
      check(
        'gradients of adapters',
        `gradient.${name}`,
        values.map((value) => value * factor),
        DENOISER_LIMIT,
      );
    }
  }
  const { parameters } = await engine.readTraining(id);
  await engine.closeTraining(id);
  check('ten steps, losses', 'losses', Float32Array.from(losses), DENOISER_TRAINING_LIMIT);
  check('ten steps, gradient norms', 'gradientNorms', Float32Array.from(norms), DENOISER_TRAINING_LIMIT);
  for (const [name, values] of Object.entries(parameters)) {
    check('ten steps, adapters', `trained.${name}`, values, DENOISER_TRAINING_LIMIT);
    const change = values.map((value, place) => value - (initial[name]?.[place] ?? Number.NaN));
    check('ten steps, change of adapters', `change.${name}`, change, DENOISER_TRAINING_LIMIT);
  }
  return comparisons;
}
