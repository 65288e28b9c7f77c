import {
  denoise,
  noiseAndTarget,
  parameterSpecs,
  parseAdapterSettings,
  preconditioning,
  REFERENCE_PREFIX,
  signalAndNoise,
  trainingGraph,
  videoModelConfigSchema,
  type Parameterisation,
  type VideoModelConfig,
} from '@plumb/diffusion';
import {
  dpoLoss,
  forwardProjectionLoss,
  ktoLoss,
  parseObjectiveSettings,
  type Objective,
  type ObjectiveSettings,
  type Predictions,
} from '@plumb/objective';
import {
  add,
  buildTrainingStep,
  cast,
  Graph,
  gradients,
  initialTrainingState,
  mul,
  reduceSum,
  toOnnx,
  type Tensor,
} from '@plumb/tensor-graph';
import type { Engine, TypedTensor } from '@plumb/tensor-graph/engine';
import type { CaseFiles, LossCase, ModelCase, OperatorCase, ParityCase, PathCase } from './case-files.ts';
import { compare, float32, numbersOf, type Comparison } from './comparison.ts';
import { measureDenoiser } from './denoisers.ts';
import { CaseInputs, operatorBuilders } from './operators.ts';
import { TRAINING_LIMIT } from './relative-error.ts';
import { measureTrainer } from './trainers.ts';

/** What a case showed. */
export interface Measurement {
  readonly comparisons: readonly Comparison[];
  /** Operators of the graph that the case differentiated. */
  readonly differentiated: ReadonlySet<string>;
}

/** Runs a case and compares every tensor that PyTorch computed for it. */
export async function measureCase(engine: Engine, files: CaseFiles, one: ParityCase): Promise<Measurement> {
  switch (one.kind) {
    case 'operators':
      return measureOperator(engine, files, one);
    case 'losses':
      return measureLoss(engine, files, one);
    case 'paths':
      return measurePath(files, one);
    case 'models':
      return measureModel(engine, files, one);
    case 'denoisers':
      return { comparisons: await measureDenoiser(engine, files, one), differentiated: new Set() };
    case 'trainers':
      return { comparisons: await measureTrainer(engine, files, one), differentiated: new Set() };
  }
}

/** Names of the node operators that `loss` depends on, which `gradients` therefore goes through. */
function operatorsBehind(loss: Tensor): Set<string> {
  const seen = new Set<Tensor>();
  const operators = new Set<string>();
  const pending = [loss];
  for (let tensor = pending.pop(); tensor !== undefined; tensor = pending.pop()) {
    if (seen.has(tensor) || tensor.source.kind !== 'node') continue;
    seen.add(tensor);
    operators.add(tensor.source.node.operator);
    for (const input of tensor.source.node.inputs) if (input !== undefined) pending.push(input);
  }
  return operators;
}

async function run(
  engine: Engine,
  graph: Graph,
  feeds: ReadonlyMap<string, TypedTensor>,
): Promise<Record<string, TypedTensor>> {
  await engine.load('case', toOnnx(graph));
  const results = await engine.run('case', Object.fromEntries(feeds));
  await engine.unload('case');
  return results;
}

async function measureOperator(engine: Engine, files: CaseFiles, one: OperatorCase): Promise<Measurement> {
  const build = operatorBuilders[one.operator];
  if (build === undefined)
    throw new TypeError(`no builder for operator ${one.operator}; add it to operators.ts`);
  const graph = new Graph();
  const feeds = new Map(
    one.inputs.map((name) => [name, files.tensor('operators', one.name, `input.${name}`)]),
  );
  const inputs = new Map(
    [...feeds].map(([name, { dtype, shape }]) => [name, graph.input(name, dtype, shape)] as const),
  );
  const made = build(new CaseInputs(inputs), one.options);
  const outputs = Array.isArray(made) ? (made as readonly Tensor[]) : [made as Tensor];
  if (outputs.length !== one.outputs) throw new TypeError(`${one.name} made ${outputs.length} results`);
  const expected = new Map<string, TypedTensor>();
  let loss: Tensor | undefined;
  for (const [place, output] of outputs.entries()) {
    const role = `output.${place}`;
    expected.set(role, files.tensor('operators', one.name, role));
    graph.output(role, cast(output, 'float32'));
    if (one.differentiated.length === 0) continue;
    const { data, shape } = files.tensor('operators', one.name, `projection.${place}`);
    const part = reduceSum(mul(output, graph.constant(data, shape)));
    loss = loss === undefined ? part : add(loss, part);
  }
  if (loss !== undefined) {
    const found = gradients(
      loss,
      one.differentiated.map((name) => inputs.get(name) as Tensor),
    );
    for (const [place, name] of one.differentiated.entries()) {
      const role = `gradient.${name}`;
      expected.set(role, files.tensor('operators', one.name, role));
      graph.output(role, found[place] as Tensor);
    }
  }
  const results = await run(engine, graph, feeds);
  return {
    comparisons: [...expected].map(([role, tensor]) => {
      const group = `operators, ${role.startsWith('output') ? 'results' : 'gradients'}`;
      return compare(group, role, results[role], tensor);
    }),
    differentiated: loss === undefined ? new Set() : operatorsBehind(loss),
  };
}

async function measureLoss(engine: Engine, files: CaseFiles, one: LossCase): Promise<Measurement> {
  const graph = new Graph();
  const feeds = new Map<string, TypedTensor>();
  const input = (name: string): Tensor => {
    const tensor = files.tensor('losses', one.name, `input.${name}`);
    feeds.set(name, tensor);
    return graph.input(name, tensor.dtype, tensor.shape);
  };
  const sets = new Map<string, Predictions>(
    one.groups.map((group) => [
      group,
      {
        target: input(`${group}.target`),
        policy: input(`${group}.policy`),
        reference: input(`${group}.reference`),
      },
    ]),
  );
  const extras = new Map(one.extras.map((name) => [name, input(name)]));
  const objective = lossOf(parseObjectiveSettings(one.settings), sets, extras);
  const policies = [...sets.values()].map(({ policy }) => policy);
  const slopes = gradients(objective.loss, policies);
  outputObjective(graph, objective, one.metrics);
  for (const [place, group] of one.groups.entries()) {
    graph.output(`gradient.${group}.policy`, slopes[place] as Tensor);
  }
  const used = new Set(graph.inputs.filter((tensor) => isLive(graph, tensor)).map(nameOf));
  const results = await run(engine, graph, new Map([...feeds].filter(([name]) => used.has(name))));
  return {
    comparisons: [
      ...['loss', ...one.metrics.map((name) => `metric.${name}`)].map((role) =>
        compare('losses, values', role, results[role], files.tensor('losses', one.name, role)),
      ),
      ...one.groups.map((group) => {
        const role = `gradient.${group}.policy`;
        return compare('losses, gradients', role, results[role], files.tensor('losses', one.name, role));
      }),
    ],
    differentiated: operatorsBehind(objective.loss),
  };
}

function lossOf(
  settings: ObjectiveSettings,
  sets: ReadonlyMap<string, Predictions>,
  extras: ReadonlyMap<string, Tensor>,
): Objective {
  const predictions = (group: string): Predictions => required(sets, group);
  const weights = required(extras, 'weights');
  switch (settings.algorithm) {
    case 'sft':
    case 'filtered-sft':
    case 'rwr':
      return forwardProjectionLoss(settings, { ...predictions('own'), weights });
    case 'dpo':
      return dpoLoss(settings, { chosen: predictions('chosen'), rejected: predictions('rejected'), weights });
    case 'kto': {
      const mismatched = sets.get('mismatched');
      return ktoLoss(settings, {
        ...predictions('own'),
        accepted: required(extras, 'accepted'),
        weights,
        ...(mismatched === undefined ? {} : { mismatched }),
      });
    }
  }
}

function outputObjective(graph: Graph, { loss, metrics }: Objective, wanted: readonly string[]): void {
  graph.output('loss', loss);
  for (const name of wanted) {
    const metric = metrics[name];
    if (metric === undefined) throw new TypeError(`the objective reports no ${name}`);
    graph.output(`metric.${name}`, metric);
  }
}

function isLive(graph: Graph, input: Tensor): boolean {
  return graph.nodes.some((node) => node.inputs.includes(input));
}

function nameOf(tensor: Tensor): string {
  if (tensor.source.kind !== 'input') throw new TypeError('the tensor is not an input');
  return tensor.source.name;
}

function required<T>(map: ReadonlyMap<string, T>, name: string): T {
  const value = map.get(name);
  if (value === undefined) throw new TypeError(`the case has no ${name}`);
  return value;
}

function measurePath(files: CaseFiles, one: PathCase): Measurement {
  const time = files.tensor('paths', one.name, 'time');
  const parameterisation = one.name as Parameterisation;
  const rows = Array.from(numbersOf(time), (t) => ({
    ...signalAndNoise(parameterisation, t),
    ...preconditioning(parameterisation, t, one.sigmaData),
  }));
  return {
    comparisons: (['signal', 'noise', 'skip', 'in', 'out'] as const).map((role) => {
      const values = Float32Array.from(rows, (row) => row[role]);
      return compare('paths', role, float32(time.shape, values), files.tensor('paths', one.name, role));
    }),
    differentiated: new Set(),
  };
}

function measureModel(engine: Engine, files: CaseFiles, one: ModelCase): Promise<Measurement> {
  const stored = videoModelConfigSchema.parse(files.index.shared['policy']?.config);
  const config = one.check === 'objective' ? { ...stored, parameterisation: one.parameterisation } : stored;
  switch (one.check) {
    case 'prediction':
      return measurePrediction(engine, files, one.name, config);
    case 'objective':
      return measureObjective(engine, files, one, config);
    case 'adapters':
      return measureAdapters(engine, files, one, config);
    case 'training':
      return measureTraining(engine, files, one, config);
  }
}

/**
 * Values of a model's weights.
 * @throws TypeError when names or shapes are not those of the model
 */
function weightsOf(files: CaseFiles, owner: string, config: VideoModelConfig): Map<string, TypedTensor> {
  const weights = files.group('models', owner, '');
  const own = parameterSpecs(config).map(({ name, shape }) => `${name} ${shape.join('x')}`);
  const theirs = Array.from(weights, ([name, { shape }]) => `${name} ${shape.join('x')}`);
  const odd = [...new Set(own).symmetricDifference(new Set(theirs))];
  if (odd.length > 0) throw new TypeError(`weights differ in name or shape: ${odd.join(', ')}`);
  return weights;
}

/** Inputs of the training graph for one batch; what depends on time alone is computed here. */
function feedsOf(files: CaseFiles, owner: string, config: VideoModelConfig): Map<string, TypedTensor> {
  const feeds = files.group('models', owner, '');
  const time = required(feeds, 'time');
  const batch = time.shape[0] ?? 0;
  const rows = Array.from(numbersOf(time), (t) => {
    const { signal, noise } = signalAndNoise(config.parameterisation, t);
    return { signal, noiseLevel: noise, ...preconditioning(config.parameterisation, t, config.sigmaData) };
  });
  feeds.set('time', float32([batch, 1], time.data as Float32Array));
  for (const name of ['signal', 'noiseLevel', 'skip', 'in', 'out'] as const) {
    feeds.set(
      name,
      float32(
        [batch, 1, 1, 1, 1],
        Float32Array.from(rows, (row) => row[name]),
      ),
    );
  }
  return feeds;
}

/** Feeds that the graph reads, with weights for the inputs that are weights. */
function liveFeeds(
  graph: Graph,
  ...sources: readonly ReadonlyMap<string, TypedTensor>[]
): Map<string, TypedTensor> {
  return new Map(
    graph.inputs
      .filter((input) => isLive(graph, input))
      .map(nameOf)
      .map((name) => [name, required(sources.find((source) => source.has(name)) ?? new Map(), name)]),
  );
}

async function measurePrediction(
  engine: Engine,
  files: CaseFiles,
  name: string,
  config: VideoModelConfig,
): Promise<Measurement> {
  const weights = weightsOf(files, 'policy', config);
  const feeds = feedsOf(files, 'feeds.0', config);
  const graph = new Graph();
  const parameters = new Map(
    [...weights].map(([key, { shape }]) => [key, graph.parameter(key, shape)] as const),
  );
  const input = (key: string): Tensor => {
    const { dtype, shape } = required(feeds, key);
    return graph.input(key, dtype, shape);
  };
  const { noised } = noiseAndTarget(
    config.parameterisation,
    input('x0'),
    input('noise'),
    input('signal'),
    input('noiseLevel'),
  );
  const prediction = denoise(config, (key) => required(parameters, key), {
    noised,
    time: input('time'),
    skip: input('skip'),
    in: input('in'),
    out: input('out'),
    tokens: input('tokens'),
  });
  const { data, shape } = files.tensor('models', name, 'projection');
  const loss = reduceSum(mul(prediction, graph.constant(data, shape)));
  graph.output('prediction', prediction);
  outputGradients(graph, loss, parameters);
  const results = await run(engine, graph, liveFeeds(graph, weights, feeds));
  return {
    comparisons: [
      compare(
        'video DiT, prediction',
        'prediction',
        results['prediction'],
        files.tensor('models', name, 'prediction'),
      ),
      ...compareGradients('video DiT, gradients of all weights', files, name, results),
    ],
    differentiated: operatorsBehind(loss),
  };
}

function outputGradients(graph: Graph, loss: Tensor, parameters: ReadonlyMap<string, Tensor>): void {
  const found = gradients(loss, [...parameters.values()]);
  for (const [place, name] of [...parameters.keys()].entries()) {
    graph.output(`gradient.${name}`, found[place] as Tensor);
  }
}

function compareGradients(
  group: string,
  files: CaseFiles,
  owner: string,
  results: Readonly<Record<string, TypedTensor>>,
): Comparison[] {
  return Array.from(files.group('models', owner, 'gradient.'), ([name, expected]) =>
    compare(group, `gradient.${name}`, results[`gradient.${name}`], expected),
  );
}

async function measureObjective(
  engine: Engine,
  files: CaseFiles,
  one: Extract<ModelCase, { check: 'objective' }>,
  config: VideoModelConfig,
): Promise<Measurement> {
  const weights = weightsOf(files, 'policy', config);
  const reference = new Map(
    [...weightsOf(files, 'reference', config)].map(
      ([name, tensor]) => [`${REFERENCE_PREFIX}${name}`, tensor] as const,
    ),
  );
  const feeds = feedsOf(files, 'feeds.0', config);
  const batch = required(feeds, 'time').shape[0] ?? 0;
  const built = trainingGraph(config, parseObjectiveSettings(one.settings), batch);
  const { graph, loss } = built;
  outputObjective(graph, built, one.metrics);
  outputGradients(graph, loss, new Map(built.parameters.map((tensor) => [nameOf(tensor), tensor])));
  const results = await run(engine, graph, liveFeeds(graph, weights, reference, feeds));
  return {
    comparisons: [
      ...['loss', ...one.metrics.map((name) => `metric.${name}`)].map((role) =>
        compare('objectives on the DiT, values', role, results[role], files.tensor('models', one.name, role)),
      ),
      ...compareGradients('objectives on the DiT, gradients', files, one.name, results),
    ],
    differentiated: operatorsBehind(loss),
  };
}

/** As `measureObjective`, with the base frozen: gradients of the adapters alone. */
async function measureAdapters(
  engine: Engine,
  files: CaseFiles,
  one: Extract<ModelCase, { check: 'adapters' }>,
  config: VideoModelConfig,
): Promise<Measurement> {
  const base = weightsOf(files, 'policy', config);
  const reference = new Map(
    [...weightsOf(files, 'reference', config)].map(
      ([name, tensor]) => [`${REFERENCE_PREFIX}${name}`, tensor] as const,
    ),
  );
  const adapters = files.group('models', one.name, 'adapter.');
  const feeds = feedsOf(files, 'feeds.0', config);
  const batch = required(feeds, 'time').shape[0] ?? 0;
  const built = trainingGraph(config, parseObjectiveSettings(one.settings), batch, {
    settings: parseAdapterSettings(one.adapters),
    referenceIsBase: one.referenceIsBase,
  });
  const { graph, loss } = built;
  if (built.usesReference === one.referenceIsBase) throw new TypeError(`${one.name} has the wrong reference`);
  outputObjective(graph, built, one.metrics);
  outputGradients(graph, loss, new Map(built.parameters.map((tensor) => [nameOf(tensor), tensor])));
  const results = await run(engine, graph, liveFeeds(graph, adapters, base, reference, feeds));
  return {
    comparisons: [
      ...['loss', ...one.metrics.map((name) => `metric.${name}`)].map((role) =>
        compare('adapters on the DiT, values', role, results[role], files.tensor('models', one.name, role)),
      ),
      ...compareGradients('adapters on the DiT, gradients', files, one.name, results),
    ],
    differentiated: operatorsBehind(loss),
  };
}

/** Ten steps in a training session, each batch cut into two micro-batches, where PyTorch takes it whole. */
async function measureTraining(
  engine: Engine,
  files: CaseFiles,
  one: Extract<ModelCase, { check: 'training' }>,
  config: VideoModelConfig,
): Promise<Measurement> {
  const initial = Object.fromEntries(
    [...weightsOf(files, 'policy', config)].map(([name, { data }]) => [name, data as Float32Array]),
  );
  const batches = Array.from({ length: one.feeds }, (_, place) => feedsOf(files, `feeds.${place}`, config));
  const batch = required(batches[0] ?? new Map<string, TypedTensor>(), 'time').shape[0] ?? 0;
  const { graph, loss, parameters } = trainingGraph(config, parseObjectiveSettings(one.settings), batch / 2);
  const specs = new Map(parameterSpecs(config).map((spec) => [spec.name, spec]));
  const program = buildTrainingStep({
    graph,
    loss,
    parameters: parameters.map((tensor) => {
      const { learningRateMultiplier, weightDecay } = required(specs, nameOf(tensor));
      return { tensor, learningRateScale: learningRateMultiplier, weightDecay };
    }),
    optimiser: { ...one.optimiser, ema: true },
  });
  const id = await engine.openTraining('parity', program, initialTrainingState(program, initial), {
    lanes: 1,
  });
  const reported: Record<'loss' | 'gradientNorm', number[]> = { loss: [], gradientNorm: [] };
  for (const [step, learningRate] of one.learningRates.entries()) {
    const all = batches[step % one.feeds] ?? new Map<string, TypedTensor>();
    const feeds = Object.fromEntries(program.feeds.map(({ name }) => [name, required(all, name)]));
    const emaDecay = one.emaDecays[step];
    const metrics = await engine.trainStep(id, feeds, {
      learningRate,
      ...(emaDecay === undefined ? {} : { emaDecay }),
    });
    reported.loss.push(metrics['loss'] ?? Number.NaN);
    reported.gradientNorm.push(metrics['gradientNorm'] ?? Number.NaN);
  }
  const state = await engine.readTraining(id);
  await engine.closeTraining(id);

  const comparisons = (['loss', 'gradientNorm'] as const).map((role) => {
    const values = Float32Array.from(reported[role]);
    const expected = files.tensor('models', one.name, role);
    return compare(
      'ten steps, loss and gradient norm',
      role,
      float32([values.length], values),
      expected,
      TRAINING_LIMIT,
    );
  });
  const final = (prefix: string, group: string, values: (name: string) => Float32Array | undefined): void => {
    for (const [name, expected] of files.group('models', one.name, `${prefix}.`)) {
      const data = values(name);
      const actual = data === undefined ? undefined : float32(expected.shape, data);
      comparisons.push(compare(`ten steps, ${group}`, `${prefix}.${name}`, actual, expected, TRAINING_LIMIT));
    }
  };
  final('parameter', 'weights', (name) => state.parameters[name]);
  final('change', 'change of the weights', (name) =>
    state.parameters[name]?.map((value, place) => value - (initial[name]?.[place] ?? Number.NaN)),
  );
  final('firstMoment', 'first moments', (name) => state.firstMoment[name]);
  final('secondMoment', 'second moments', (name) => state.secondMoment[name]);
  final('ema', 'moving average', (name) => state.ema[name]);
  return { comparisons, differentiated: operatorsBehind(loss) };
}
