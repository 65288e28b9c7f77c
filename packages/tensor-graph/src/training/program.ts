import { internal, invalidArgument } from '@plumb/kit/errors';
import { describeShape, graphError } from '../errors.ts';
import type { DType, Graph, Tensor, TensorData } from '../graph.ts';
import { isFloat, sizeOf } from '../graph.ts';
import { gradients } from '../gradients.ts';
import type { OnnxOptions } from '../onnx.ts';
import { liveInputs, toOnnx, weightsFolder } from '../onnx.ts';
import { add, addAll, mul } from '../operators/elementwise.ts';
import { cast, reshape } from '../operators/layout.ts';
import { gemm } from '../operators/matrix.ts';
import type { AdamWOptions, ParameterOptions } from './optimiser.ts';
import { adamW, checkAdamW, clipFactor, ema, globalNorm } from './optimiser.ts';
import type { Precision } from './precision.ts';
import { inPrecision } from './precision.ts';
import { findPrepared, gradientsOfPrepared } from './prepared.ts';

/** A parameter to train. */
export interface TrainableParameter extends ParameterOptions {
  /** Made by `graph.parameter`. */
  readonly tensor: Tensor;
}

/** AdamW, gradient clipping and averaging of weights. */
export interface OptimiserOptions extends AdamWOptions {
  /** Largest global norm of the gradient; no clipping unless given. */
  readonly clipNorm?: number;
  /** Whether an exponential moving average of the parameters is kept; false unless given. */
  readonly ema?: boolean;
}

/** What `buildTrainingStep` needs. */
export interface TrainingStepOptions {
  readonly graph: Graph;
  /** float32, one element: the mean over the samples of the micro-batch that the graph is built for. */
  readonly loss: Tensor;
  /** All parameters of the graph unless given. The others must be frozen. */
  readonly parameters?: readonly TrainableParameter[];
  /** Float scalars to report, averaged over micro-batches like the loss. Not `loss` or `gradientNorm`, which are always there. */
  readonly metrics?: Readonly<Record<string, Tensor>>;
  readonly optimiser?: OptimiserOptions;
  /** What the micro-batches compute in; float32 unless given. The runtime must have products of that type. */
  readonly precision?: Precision;
  /** Values of inputs that do not change during training, by name: reference weights, weights that are not trained. */
  readonly frozen?: ReadonlyMap<string, TensorData>;
}

/** A parameter of a program, without its tensor. */
export interface ParameterSpec extends Required<ParameterOptions> {
  readonly name: string;
  readonly shape: readonly number[];
}

/** An input of the micro-batch. */
export interface FeedSpec {
  readonly name: string;
  readonly dtype: DType;
  readonly shape: readonly number[];
}

/** A tensor that is computed from the parameters once a step. */
export interface PreparedSpec {
  readonly name: string;
  readonly shape: readonly number[];
}

/** Models that run once a step, around its micro-batches. */
export interface Preparation {
  /** Makes the prepared tensors from the parameters. */
  readonly model: Uint8Array;
  /**
   * Makes gradients of parameters, named by `preparedGradient`, from gradients of prepared tensors, named by `sumInput`;
   * absent where `reaches` is empty.
   */
  readonly gradientModel?: Uint8Array;
  readonly tensors: readonly PreparedSpec[];
  /** Parameters that have gradients from it. */
  readonly reaches: readonly string[];
}

/**
 * A training step as plain data: it can be cloned to another thread or process. The gradient model computes loss,
 * metrics and gradients of one micro-batch and adds the gradients to sums it is given; `buildUpdate` makes the model
 * of the optimiser, which is run once a step. What follows from the parameters alone is prepared before the first
 * micro-batch, and its gradients are carried on to the parameters after the last.
 */
export interface TrainingProgram {
  readonly gradientModel: Uint8Array;
  /** Absolute path of the folder that external weights of its models lie in. */
  readonly weightsFolder?: string;
  readonly preparation?: Preparation;
  readonly parameters: readonly ParameterSpec[];
  readonly feeds: readonly FeedSpec[];
  /** Names of scalar outputs, `loss` first. */
  readonly metrics: readonly string[];
  readonly optimiser: OptimiserOptions;
  /** What the gradient model computes in. In float16 it takes the loss scale as one more input. */
  readonly precision: Precision;
}

/** Input of a float16 gradient model: what the loss is multiplied by. */
export const LOSS_SCALE = 'lossScale';

/** Names of values in the models of a program; those of the second kind are of prepared tensors as well. */
export const sumInput = (parameter: string): string => `sum.in/${parameter}`;
/** @see sumInput */
export const sumOutput = (parameter: string): string => `sum.out/${parameter}`;
/** The part of a parameter's gradient that comes through prepared tensors. */
export const preparedGradient = (parameter: string): string => `prepared.gradient/${parameter}`;
const metricOutput = (metric: string): string => `metric/${metric}`;
/** @see sumInput */
export const metricName = metricOutput;

/**
 * Differentiates a loss and packs forward and backward pass into a program that an engine can train.
 *
 * Adds outputs to the graph; call it last.
 *
 * @throws PlumbError INVALID_ARGUMENT for a loss or metric that is not a float scalar, a parameter that is not one of
 *   the graph's or is given twice, or one that is neither trained nor frozen; UNIMPLEMENTED for an operator without gradient
 */
export function buildTrainingStep(options: TrainingStepOptions): TrainingProgram {
  const { graph, loss } = options;
  const optimiser = options.optimiser ?? {};
  checkAdamW(optimiser);
  if (optimiser.clipNorm !== undefined && !(optimiser.clipNorm > 0)) {
    throw invalidArgument(
      'optimiser.clipNorm',
      `${optimiser.clipNorm} must be above 0; leave it out for no clipping`,
    );
  }
  const trained = options.parameters ?? graph.parameters.map((tensor) => ({ tensor }));
  const parameters = trained.map(specOf);
  const names = new Set(parameters.map(({ name }) => name));
  if (names.size !== parameters.length) throw invalidArgument('parameters', 'name a tensor twice');
  if (names.size === 0) throw invalidArgument('parameters', 'are none; there is nothing to train');

  const metrics: Record<string, Tensor> = { loss, ...options.metrics };
  for (const [name, tensor] of Object.entries(metrics)) {
    if (!isFloat(tensor.dtype) || sizeOf(tensor.shape) !== 1) {
      throw graphError(
        'buildTrainingStep',
        name,
        `is ${tensor.dtype} ${describeShape(tensor.shape)}; a loss or metric is a float scalar`,
      );
    }
    graph.output(metricOutput(name), reshape(cast(tensor, 'float32'), []));
  }
  const tensors = trained.map(({ tensor }) => tensor);
  const fixed = new Set(options.frozen?.keys());
  const prepared = findPrepared(graph, Object.values(metrics), tensors, fixed);
  const given = new Map(prepared.tensors.map((tensor, index) => [tensor, `prepared/${index}`]));
  const wanted = new Map([
    ...parameters.map(({ name }, index) => [name, tensors[index]] as const),
    ...[...given].map(([tensor, name]) => [name, tensor] as const),
  ]);
  const direct = [...wanted.values()].flatMap((tensor) => tensor ?? []);
  const precision = options.precision ?? 'float32';
  const scaled =
    precision === 'float16' ? mul(cast(loss, 'float32'), graph.input(LOSS_SCALE, 'float32', [])) : loss;
  const found = gradients(scaled, direct, { without: prepared.nodes });
  const sums = new Set<string>();
  for (const [index, name] of [...wanted.keys()].entries()) {
    const gradient = found[index];
    // A parameter that is only read in preparation has its gradient from there.
    if (gradient === undefined || gradient.source.kind === 'constant') continue;
    sums.add(name);
    graph.output(
      sumOutput(name),
      accumulated(graph.input(sumInput(name), 'float32', gradient.shape), gradient),
    );
  }

  const outputs = [...Object.keys(metrics).map(metricOutput), ...[...sums].map(sumOutput)];
  const initialisers = options.frozen === undefined ? {} : { initialisers: options.frozen };
  const written = { outputs, given, ...initialisers };
  const inputs = new Set([...sums].map(sumInput));
  const feeds: FeedSpec[] = [];
  for (const { source, dtype, shape } of liveInputs(graph, written)) {
    if (source.kind !== 'input' || names.has(source.name) || inputs.has(source.name)) continue;
    if (source.name === LOSS_SCALE) continue;
    if (source.trainable) {
      throw invalidArgument(
        `parameters.${source.name}`,
        'is neither trained nor frozen; list it in parameters or give its values in frozen',
      );
    }
    feeds.push({ name: source.name, dtype, shape });
  }
  const folder = weightsFolder(graph, { outputs });
  return {
    gradientModel:
      precision === 'float32'
        ? toOnnx(graph, { ...written, name: 'gradient' })
        : toOnnx(inPrecision(graph, outputs, given, precision), {
            outputs,
            ...initialisers,
            name: 'gradient',
          }),
    ...(folder === undefined ? {} : { weightsFolder: folder }),
    ...(given.size === 0 ? {} : { preparation: buildPreparation(graph, given, wanted, sums, initialisers) }),
    parameters,
    feeds,
    metrics: Object.keys(metrics),
    optimiser,
    precision,
  };
}

/** Adds a gradient to a sum; a matrix product does it on the way. */
function accumulated(sum: Tensor, gradient: Tensor): Tensor {
  if (gradient.source.kind === 'node' && gradient.source.node.operator === 'Reshape') {
    const [inner] = gradient.source.node.inputs;
    if (inner?.source.kind === 'node' && inner.source.node.operator === 'Gemm') {
      return reshape(accumulated(reshape(sum, inner.shape), inner), sum.shape);
    }
  }
  if (gradient.source.kind === 'node' && gradient.source.node.operator === 'Gemm') {
    const { inputs, attributes } = gradient.source.node;
    const [a, b, c] = inputs;
    if (a !== undefined && b !== undefined && c === undefined) {
      return gemm(a, b, sum, {
        transposeA: attributes['transA'] === 1n,
        transposeB: attributes['transB'] === 1n,
      });
    }
  }
  return add(sum, gradient);
}

/**
 * @param given prepared tensors with their names
 * @param parameters trained parameters, among others, by name
 * @param sums names of what has a gradient from the micro-batches
 */
function buildPreparation(
  graph: Graph,
  given: ReadonlyMap<Tensor, string>,
  parameters: ReadonlyMap<string, Tensor | undefined>,
  sums: ReadonlySet<string>,
  initialisers: Pick<OnnxOptions, 'initialisers'>,
): Preparation {
  const differentiated = [...given].filter(([, name]) => sums.has(name));
  const trained = [...parameters].flatMap(([name, tensor]) =>
    tensor === undefined || given.has(tensor) ? [] : [{ name, tensor }],
  );
  const found = gradientsOfPrepared(
    differentiated.map(([tensor]) => tensor),
    differentiated.map(([, name]) => inputNamed(graph, sumInput(name))),
    trained.map(({ tensor }) => tensor),
  );
  const reaches: string[] = [];
  for (const [index, { name }] of trained.entries()) {
    const gradient = found[index];
    if (gradient === undefined) continue;
    reaches.push(name);
    graph.output(preparedGradient(name), gradient);
  }
  for (const [tensor, name] of given) graph.output(name, tensor);
  return {
    model: toOnnx(graph, { outputs: [...given.values()], ...initialisers, name: 'prepare' }),
    ...(reaches.length === 0
      ? {}
      : {
          gradientModel: toOnnx(graph, {
            outputs: reaches.map(preparedGradient),
            ...initialisers,
            name: 'prepare gradient',
          }),
        }),
    tensors: [...given].map(([{ shape }, name]) => ({ name, shape })),
    reaches,
  };
}

function inputNamed(graph: Graph, name: string): Tensor {
  const input = graph.inputs.find(({ source }) => source.kind === 'input' && source.name === name);
  if (input === undefined) throw internal(new Error(`the training graph has no input ${name}`));
  return input;
}

function specOf({ tensor, learningRateScale, weightDecay }: TrainableParameter): ParameterSpec {
  if (tensor.source.kind !== 'input' || !tensor.source.trainable || tensor.dtype !== 'float32') {
    throw invalidArgument('parameters', 'must be float32 tensors made by graph.parameter');
  }
  return {
    name: tensor.source.name,
    shape: tensor.shape,
    learningRateScale: learningRateScale ?? 1,
    weightDecay: weightDecay ?? true,
  };
}

/** The arrays of training state that the update model reads and writes, by the prefix of their names. */
export type StateKind = 'parameter' | 'firstMoment' | 'secondMoment' | 'ema';

/** The kinds of state that a program keeps. */
export function stateKinds(program: TrainingProgram): StateKind[] {
  return program.optimiser.ema === true
    ? ['parameter', 'firstMoment', 'secondMoment', 'ema']
    : ['parameter', 'firstMoment', 'secondMoment'];
}

/**
 * The update model: adds up the lanes' gradient sums, scales and clips them, applies AdamW and the moving average.
 *
 * Inputs `lane<k>/<name>`, `prepared.gradient/<name>` where preparation reaches, `<kind>.in/<name>`, `step` (float64), `learningRate`, `gradientScale`, `emaDecay`; outputs
 * `<kind>.out/<name>` and `gradientNorm` (before clipping).
 *
 * @param lanes how many gradient sums there are for each parameter
 */
export function buildUpdate(program: TrainingProgram, graph: Graph, lanes: number): void {
  const { optimiser } = program;
  const step = graph.input('step', 'float64', []);
  const learningRate = graph.input('learningRate', 'float32', []);
  const gradientScale = graph.input('gradientScale', 'float32', []);
  const sums = program.parameters.map(({ name, shape }) => {
    const parts = Array.from({ length: lanes }, (_, lane) =>
      graph.input(`lane${lane}/${name}`, 'float32', shape),
    );
    if (program.preparation?.reaches.includes(name) === true) {
      parts.push(graph.input(preparedGradient(name), 'float32', shape));
    }
    return addAll(parts);
  });
  const norm = mul(globalNorm(sums), gradientScale);
  graph.output('gradientNorm', norm);
  const factor =
    optimiser.clipNorm === undefined
      ? gradientScale
      : mul(gradientScale, clipFactor(norm, optimiser.clipNorm));
  const update = adamW({ step, learningRate }, optimiser);
  const emaDecay = optimiser.ema === true ? graph.input('emaDecay', 'float32', []) : undefined;
  for (const [index, spec] of program.parameters.entries()) {
    const sum = sums[index];
    if (sum === undefined) continue;
    const state = (kind: StateKind): Tensor => graph.input(`${kind}.in/${spec.name}`, 'float32', spec.shape);
    const next = update(
      {
        parameter: state('parameter'),
        gradient: mul(sum, factor),
        firstMoment: state('firstMoment'),
        secondMoment: state('secondMoment'),
      },
      spec,
    );
    graph.output(`parameter.out/${spec.name}`, next.parameter);
    graph.output(`firstMoment.out/${spec.name}`, next.firstMoment);
    graph.output(`secondMoment.out/${spec.name}`, next.secondMoment);
    if (emaDecay !== undefined) {
      graph.output(`ema.out/${spec.name}`, ema(state('ema'), next.parameter, emaDecay));
    }
  }
}
