import { once } from 'node:events';
import { Worker } from 'node:worker_threads';
import { internal, invalidArgument, PlumbError, unavailable } from '@plumb/kit/errors';
import type * as ort from 'onnxruntime-node';
import { describeShape } from '../errors.ts';
import { Graph, sizeOf } from '../graph.ts';
import { toOnnx } from '../onnx.ts';
import { sameShape } from '../shape.ts';
import type { LossScaling } from '../training/precision.ts';
import { nextLossScaling } from '../training/precision.ts';
import type { Preparation, PreparedSpec, StateKind, TrainingProgram } from '../training/program.ts';
import { buildUpdate, LOSS_SCALE, preparedGradient, stateKinds, sumInput } from '../training/program.ts';
import type { TrainingState } from '../training/state.ts';
import { checkState, stateField } from '../training/state.ts';
import { fromWireError } from './error-wire.ts';
import type { Lane, LaneMemory } from './lane.ts';
import { allocateFloats, cut, laneTensors, openLane } from './lane.ts';
import type { LaneReply, LaneRequest, LaneThreadData } from './lane-thread.ts';
import type { ModelOptions, Session, SessionOptions } from './session.ts';
import { openSession } from './session.ts';
import type { TypedTensor } from './typed-tensor.ts';
import { allocate, toRuntime } from './typed-tensor.ts';

/** Scalars of one step. */
export interface StepScalars {
  /** Size of the step, above or equal to 0. */
  readonly learningRate: number;
  /** Share of the old moving average that stays, in [0, 1]; needed when the program keeps one. */
  readonly emaDecay?: number;
}

/** How training uses the machine. */
export interface TrainingSessionOptions {
  /**
   * Threads that each work on their own micro-batches; 1 unless given. The result of a step depends on this number in
   * its last bits, so a resumed run keeps it.
   */
  readonly lanes?: number;
  /** Threads of one operator in the update, and in the gradients when there is one lane; `lanes` unless given. */
  readonly intraOpThreads?: number;
  /** What computes the gradients; `cpu` unless given. `cuda` has one lane. */
  readonly device?: 'cpu' | 'cuda';
}

/** Training in progress. Parameters and optimiser state stay in memory that each step reads and writes in place. */
export interface TrainingSession {
  /**
   * One optimiser step.
   *
   * @param feeds a batch: each feed has the shape that the program was built for, or k times as many samples on axis 0,
   *   with one k for all that have more. The batch is then worked on as k micro-batches, whose gradients and metrics
   *   are averaged.
   * @returns `loss`, `gradientNorm` (before clipping) and the program's metrics; of float16 programs also `lossScale`, of
   *   the next step, and `skippedSteps`, so far. A step is skipped when its gradient overflows: weights and moments stay,
   *   and `gradientNorm` is not finite
   * @throws PlumbError INVALID_ARGUMENT for a missing, unknown or misshapen feed; the state is unchanged then
   */
  step(feeds: Readonly<Record<string, TypedTensor>>, scalars: StepScalars): Promise<Record<string, number>>;
  /** The parameters as they are now, by name; the next step changes them in place. */
  parameters(): ReadonlyMap<string, TypedTensor>;
  /** A copy of parameters and optimiser state. */
  state(): TrainingState;
  /** Goes on from another state; steps that follow are bit-identical to those of the session that it came from. */
  restore(state: TrainingState): void;
  close(): Promise<void>;
}

/** Everything that is double-buffered, in one array a kind and side. */
type Buffers = Record<StateKind, readonly [Float32Array, Float32Array]>;

/**
 * Opens a training session in the calling thread. Lanes beyond one are worker threads of it.
 * @throws PlumbError UNIMPLEMENTED naming precision, operator and node when the runtime cannot compute in the program's
 *   precision
 */
export async function openTrainingSession(
  name: string,
  program: TrainingProgram,
  initial: TrainingState,
  options: TrainingSessionOptions = {},
): Promise<TrainingSession> {
  const lanes = options.lanes ?? 1;
  if (!Number.isInteger(lanes) || lanes < 1)
    throw invalidArgument('lanes', `${lanes} must be a positive integer`);
  const { device = 'cpu' } = options;
  if (device === 'cuda' && lanes > 1)
    throw invalidArgument('lanes', `is ${lanes}; a GPU works on one micro-batch at a time, use 1`);
  checkState(program, initial);
  const intraOpThreads = options.intraOpThreads ?? lanes;
  const lengthOf = (tensors: readonly PreparedSpec[]): number =>
    tensors.reduce((sum, { shape }) => sum + sizeOf(shape), 0);
  const total = lengthOf(program.parameters);
  const laneTotal = lengthOf(laneTensors(program));
  const pair = (shared: boolean, length = total): [Float32Array, Float32Array] => [
    allocateFloats(length, shared),
    allocateFloats(length, shared),
  ];
  const kinds = stateKinds(program);
  const buffers: Buffers = {
    parameter: pair(lanes > 1, laneTotal),
    firstMoment: pair(false),
    secondMoment: pair(false),
    ema: kinds.includes('ema') ? pair(false) : [new Float32Array(0), new Float32Array(0)],
  };
  const memories: LaneMemory[] = Array.from({ length: lanes }, () => ({
    parameters: buffers.parameter,
    sums: pair(lanes > 1, laneTotal),
  }));

  const modelOptions = program.weightsFolder === undefined ? {} : { weightsFolder: program.weightsFolder };
  const graph = new Graph();
  buildUpdate(program, graph, lanes);
  const opened: { close(): Promise<void> }[] = [];
  const keep = <T extends { close(): Promise<void> }>(thing: T): T => {
    opened.push(thing);
    return thing;
  };
  try {
    const update = keep(
      await openSession(`${name}/update`, toOnnx(graph, { name: 'update' }), { intraOpThreads }),
    );
    const workers: Lane[] = [];
    for (const memory of memories) {
      workers.push(
        keep(
          lanes === 1
            ? await openLane(name, program, memory, intraOpThreads, device)
            : await openLaneThread({ name, program, memory }),
        ),
      );
    }
    const preparation =
      program.preparation === undefined
        ? undefined
        : await openPreparation(
            name,
            program,
            program.preparation,
            memories,
            { intraOpThreads, ...modelOptions },
            keep,
          );
    return new DoubleBufferedSession(program, buffers, memories, workers, update, preparation, initial);
  } catch (error) {
    await Promise.allSettled(opened.map((thing) => thing.close()));
    throw withPrecision(program, error);
  }
}

/** Says that it is the precision that the runtime lacks a kernel for. */
function withPrecision({ precision }: TrainingProgram, error: unknown): unknown {
  if (precision === 'float32' || !(error instanceof PlumbError) || error.code !== 'UNIMPLEMENTED')
    return error;
  const { operator = '', node = '' } = error.metadata;
  return new PlumbError({
    code: 'UNIMPLEMENTED',
    reason: 'METHOD_UNIMPLEMENTED',
    message:
      `optimisation.precision: ${precision} cannot be used here: ONNX Runtime has no ${operator} of ${precision} on the ` +
      `CPU (node ${node}); use float32`,
    metadata: { ...error.metadata, precision },
    cause: error,
  });
}

class DoubleBufferedSession implements TrainingSession {
  readonly #program: TrainingProgram;
  readonly #buffers: Buffers;
  readonly #lanes: readonly Lane[];
  readonly #update: Session;
  readonly #preparation: PreparationRuns | undefined;
  readonly #kinds: readonly StateKind[];
  /** Update inputs and outputs that read side 0 and write side 1, and the other way round. */
  readonly #stateFeeds: readonly Record<string, ort.Tensor>[];
  readonly #stateFetches: readonly Record<string, ort.Tensor>[];
  /** For each lane, update inputs that read its first or second sum. */
  readonly #sumFeeds: readonly (readonly Record<string, ort.Tensor>[])[];
  readonly #scalars = {
    step: new Float64Array(1),
    learningRate: new Float32Array(1),
    gradientScale: new Float32Array(1),
    emaDecay: new Float32Array(1),
  };
  readonly #norm = new Float32Array(1);
  readonly #scalarFeeds: Record<string, ort.Tensor>;
  readonly #staging = new Map<string, TypedTensor>();
  #side: 0 | 1 = 0;
  #step = 0;
  /** Of float16 programs. */
  #lossScaling: LossScaling | undefined;
  #busy = false;

  constructor(
    program: TrainingProgram,
    buffers: Buffers,
    memories: readonly LaneMemory[],
    lanes: readonly Lane[],
    update: Session,
    preparation: PreparationRuns | undefined,
    initial: TrainingState,
  ) {
    this.#program = program;
    this.#buffers = buffers;
    this.#lanes = lanes;
    this.#update = update;
    this.#preparation = preparation;
    this.#kinds = stateKinds(program);
    const prepare = (array: Float32Array, prefix: string): Record<string, ort.Tensor> =>
      Object.fromEntries(
        [...cut(program.parameters, array)].map(([name, tensor]) => [
          `${prefix}/${name}`,
          toRuntime(name, tensor),
        ]),
      );
    const all = (side: 0 | 1, direction: 'in' | 'out'): Record<string, ort.Tensor> =>
      Object.assign({}, ...this.#kinds.map((kind) => prepare(buffers[kind][side], `${kind}.${direction}`)));
    this.#stateFeeds = [all(0, 'in'), all(1, 'in')];
    this.#stateFetches = [all(1, 'out'), all(0, 'out')];
    this.#sumFeeds = memories.map(({ sums }, lane) => sums.map((sum) => prepare(sum, `lane${lane}`)));
    const { step, learningRate, gradientScale, emaDecay } = this.#scalars;
    this.#scalarFeeds = {
      step: toRuntime('step', { dtype: 'float64', shape: [], data: step }),
      learningRate: toRuntime('learningRate', { dtype: 'float32', shape: [], data: learningRate }),
      gradientScale: toRuntime('gradientScale', { dtype: 'float32', shape: [], data: gradientScale }),
      ...(program.optimiser.ema === true
        ? { emaDecay: toRuntime('emaDecay', { dtype: 'float32', shape: [], data: emaDecay }) }
        : {}),
    };
    this.restore(initial);
  }

  async step(
    feeds: Readonly<Record<string, TypedTensor>>,
    scalars: StepScalars,
  ): Promise<Record<string, number>> {
    if (this.#busy) throw invalidArgument('step', 'is called while another step runs; await each step');
    this.#busy = true;
    try {
      return await this.#stepAlone(feeds, scalars);
    } finally {
      this.#busy = false;
    }
  }

  async #stepAlone(
    feeds: Readonly<Record<string, TypedTensor>>,
    { learningRate, emaDecay }: StepScalars,
  ): Promise<Record<string, number>> {
    if (!(learningRate >= 0)) throw invalidArgument('learningRate', `${learningRate} must not be negative`);
    if (this.#program.optimiser.ema === true && !(emaDecay !== undefined && emaDecay >= 0 && emaDecay <= 1)) {
      throw invalidArgument(
        'emaDecay',
        `${emaDecay} must be in [0, 1], as the program keeps a moving average`,
      );
    }
    const micro = this.#microBatches(feeds);
    await this.#preparation?.prepare(this.#side);
    // Lane k takes a fixed run of micro-batches, so that sums are added in the same order each time.
    const share = Math.ceil(micro.length / this.#lanes.length);
    const outcomes = await Promise.allSettled(
      this.#lanes.map((lane, index) =>
        lane.accumulate(this.#side, micro.slice(index * share, (index + 1) * share)),
      ),
    );
    const results = outcomes.map((outcome) => {
      if (outcome.status === 'rejected') throw PlumbError.from(outcome.reason);
      return outcome.value;
    });

    // Steps that were skipped do not count for the bias correction.
    this.#scalars.step[0] = this.#step - (this.#lossScaling?.skippedSteps ?? 0) + 1;
    this.#scalars.learningRate[0] = learningRate;
    this.#scalars.gradientScale[0] = 1 / (micro.length * (this.#lossScaling?.scale ?? 1));
    this.#scalars.emaDecay[0] = emaDecay ?? 0;
    const sums = results.map(({ sum }, lane) => this.#sumFeeds[lane]?.[sum]);
    const reached = await this.#preparation?.carryOn(
      this.#side,
      results.map(({ sum }) => sum),
    );
    await this.#update.runPrepared(
      Object.assign({}, this.#stateFeeds[this.#side], ...sums, reached, this.#scalarFeeds),
      {
        ...this.#stateFetches[this.#side],
        gradientNorm: this.#normFetch,
      },
    );
    const gradientNorm = this.#norm[0] ?? Number.NaN;
    const skipped = this.#lossScaling !== undefined && !Number.isFinite(gradientNorm);
    if (this.#lossScaling !== undefined) this.#lossScaling = nextLossScaling(this.#lossScaling, skipped);
    // What a skipped step wrote is on the other side, where nothing reads it.
    if (!skipped) this.#side = this.#side === 0 ? 1 : 0;
    this.#step += 1;

    const rows = results.flatMap(({ metrics }) => metrics);
    const report: Record<string, number> = {};
    for (const [index, metric] of this.#program.metrics.entries()) {
      report[metric] = rows.reduce((sum, row) => sum + (row[index] ?? Number.NaN), 0) / rows.length;
    }
    report['gradientNorm'] = gradientNorm;
    if (this.#lossScaling !== undefined) {
      report['lossScale'] = this.#lossScaling.scale;
      report['skippedSteps'] = this.#lossScaling.skippedSteps;
    }
    return report;
  }

  get #normFetch(): ort.Tensor {
    return toRuntime('gradientNorm', { dtype: 'float32', shape: [], data: this.#norm });
  }

  /** Checks feeds and cuts them into micro-batches. */
  #microBatches(feeds: Readonly<Record<string, TypedTensor>>): Record<string, TypedTensor>[] {
    for (const name of Object.keys(feeds)) {
      if (!this.#program.feeds.some((spec) => spec.name === name)) {
        throw invalidArgument(`feeds.${name}`, 'is no input of the training program');
      }
    }
    let count = 1;
    let reason = '';
    const factors = new Map<string, number>();
    for (const { name, dtype, shape } of this.#program.feeds) {
      const feed = feeds[name];
      if (feed === undefined) throw invalidArgument(`feeds.${name}`, 'is missing');
      const size = shape[0] ?? 0;
      const factor = sameShape(feed.shape, shape) ? 1 : (feed.shape[0] ?? 0) / size;
      const rest = feed.shape.length === shape.length && sameShape(feed.shape.slice(1), shape.slice(1));
      if (feed.dtype !== dtype || !rest || !Number.isInteger(factor) || factor < 1) {
        throw invalidArgument(
          `feeds.${name}`,
          `is ${feed.dtype} ${describeShape(feed.shape)}; it must be ${dtype} ${describeShape(shape)}, ` +
            'or a whole number of times as long on axis 0',
          { reason: 'SHAPE_MISMATCH' },
        );
      }
      if (factor > 1 && count > 1 && factor !== count) {
        throw invalidArgument(
          `feeds.${name}`,
          `has ${factor} micro-batches, but ${reason} has ${count}; all feeds must hold one batch`,
          { reason: 'SHAPE_MISMATCH' },
        );
      }
      if (factor > 1) {
        count = factor;
        reason = name;
      }
      factors.set(name, factor);
    }

    const micro: Record<string, TypedTensor>[] = Array.from({ length: count }, () => ({}));
    for (const { name, dtype, shape } of this.#program.feeds) {
      const feed = feeds[name];
      if (feed === undefined) continue;
      const { data } = this.#stage(name, feed);
      const size = sizeOf(shape);
      for (const [index, batch] of micro.entries()) {
        const start = factors.get(name) === 1 ? 0 : index * size;
        batch[name] = { dtype, shape, data: data.subarray(start, start + size) };
      }
    }
    if (this.#lossScaling !== undefined) {
      const data = Float32Array.of(this.#lossScaling.scale);
      for (const batch of micro) batch[LOSS_SCALE] = { dtype: 'float32', shape: [], data };
    }
    return micro;
  }

  /** Feeds for other threads are copied once into memory that all threads see. */
  #stage(name: string, feed: TypedTensor): TypedTensor {
    if (this.#lanes.length === 1 || feed.data.buffer instanceof SharedArrayBuffer) return feed;
    let staged = this.#staging.get(name);
    if (staged === undefined || staged.data.length !== feed.data.length) {
      staged = { ...feed, data: allocate(feed.dtype, feed.data.length, true) };
      this.#staging.set(name, staged);
    }
    (staged.data.set as (source: TypedTensor['data']) => void)(feed.data);
    return staged;
  }

  parameters(): ReadonlyMap<string, TypedTensor> {
    return cut(this.#program.parameters, this.#buffers.parameter[this.#side]);
  }

  state(): TrainingState {
    const copy = (kind: StateKind): Record<string, Float32Array> =>
      this.#kinds.includes(kind)
        ? Object.fromEntries(
            [...cut(this.#program.parameters, this.#buffers[kind][this.#side])].map(([name, { data }]) => [
              name,
              Float32Array.from(data as Float32Array),
            ]),
          )
        : {};
    return {
      step: this.#step,
      parameters: copy('parameter'),
      firstMoment: copy('firstMoment'),
      secondMoment: copy('secondMoment'),
      ema: copy('ema'),
      ...(this.#lossScaling === undefined ? {} : { lossScaling: this.#lossScaling }),
    };
  }

  restore(state: TrainingState): void {
    checkState(this.#program, state);
    this.#step = state.step;
    this.#lossScaling = state.lossScaling;
    for (const kind of this.#kinds) {
      for (const [name, { data }] of cut(this.#program.parameters, this.#buffers[kind][this.#side])) {
        const values = state[stateField[kind]][name];
        if (values !== undefined) (data as Float32Array).set(values);
      }
    }
  }

  async close(): Promise<void> {
    const things = [...this.#lanes, this.#update, ...(this.#preparation?.sessions ?? [])];
    await Promise.all(things.map((thing) => thing.close()));
  }
}

/** What runs once a step, around the micro-batches. */
interface PreparationRuns {
  readonly sessions: readonly Session[];
  /** Computes the prepared tensors from the parameters of a side, beside them. */
  prepare(side: 0 | 1): Promise<void>;
  /**
   * Carries the gradients of prepared tensors on to the parameters.
   * @param sums which of its two sums each lane ended with
   * @returns inputs of the update
   */
  carryOn(side: 0 | 1, sums: readonly (0 | 1)[]): Promise<Record<string, ort.Tensor>>;
}

async function openPreparation(
  name: string,
  program: TrainingProgram,
  { model, gradientModel, tensors, reaches }: Preparation,
  memories: readonly LaneMemory[],
  options: SessionOptions & ModelOptions,
  keep: (session: Session) => Session,
): Promise<PreparationRuns> {
  const forward = keep(await openSession(`${name}/prepare`, model, options));
  const backward =
    gradientModel === undefined
      ? undefined
      : keep(await openSession(`${name}/prepare gradient`, gradientModel, options));
  const offset = program.parameters.reduce((sum, { shape }) => sum + sizeOf(shape), 0);
  const named = (
    specs: readonly PreparedSpec[],
    array: Float32Array,
    label: (tensor: string) => string,
    session: Session | undefined,
  ): Record<string, ort.Tensor> => {
    if (session === undefined) return {};
    const present = new Set([...session.inputs, ...session.outputs].map((spec) => spec.name));
    const labelled = [...cut(specs, array)].map(([key, tensor]) => [label(key), tensor] as const);
    return Object.fromEntries(
      labelled.filter(([key]) => present.has(key)).map(([key, tensor]) => [key, toRuntime(key, tensor)]),
    );
  };
  const same = (key: string): string => key;
  const [first] = memories;
  if (first === undefined) throw internal(new Error('a training session has no lanes'));
  const parameters = first.parameters.map((array) => ({
    forward: named(program.parameters, array, same, forward),
    backward: named(program.parameters, array, same, backward),
    prepared: named(tensors, array.subarray(offset), same, forward),
  }));
  const total = new Float32Array(tensors.reduce((sum, { shape }) => sum + sizeOf(shape), 0));
  const incoming = named(tensors, total, sumInput, backward);
  const reached = program.parameters.filter((spec) => reaches.includes(spec.name));
  const outgoing = named(
    reached,
    new Float32Array(reached.reduce((sum, { shape }) => sum + sizeOf(shape), 0)),
    preparedGradient,
    backward,
  );
  return {
    sessions: backward === undefined ? [forward] : [forward, backward],
    async prepare(side) {
      const { forward: feeds, prepared } = parameters[side] ?? {};
      await forward.runPrepared(feeds ?? {}, prepared ?? {});
    },
    async carryOn(side, sums) {
      if (backward === undefined) return {};
      total.fill(0);
      for (const [lane, memory] of memories.entries()) {
        const part = memory.sums[sums[lane] ?? 0].subarray(offset);
        for (let i = 0; i < total.length; i++) total[i] = (total[i] ?? 0) + (part[i] ?? 0);
      }
      await backward.runPrepared({ ...parameters[side]?.backward, ...incoming }, outgoing);
      return outgoing;
    },
  };
}

/** Opens a lane in a worker thread. */
async function openLaneThread(data: LaneThreadData): Promise<Lane> {
  const worker = new Worker(new URL('lane-thread.ts', import.meta.url), { workerData: data, stdin: false });
  let waiting: { resolve(reply: LaneReply): void; reject(error: unknown): void } | undefined;
  let failure: PlumbError | undefined;
  const settle = (): typeof waiting => {
    const current = waiting;
    waiting = undefined;
    return current;
  };
  const fail = (error: PlumbError): void => {
    failure ??= error;
    settle()?.reject(failure);
  };
  worker.on('message', (reply: LaneReply) => {
    if (reply.kind === 'error') settle()?.reject(fromWireError(reply.error));
    else settle()?.resolve(reply);
  });
  worker.on('error', (cause) => {
    fail(internal(cause, { reason: 'ENGINE_FAILED' }));
  });
  worker.on('exit', (code) => {
    fail(
      unavailable(`a training lane of '${data.name}' ended with code ${code}`, { reason: 'ENGINE_FAILED' }),
    );
  });
  const next = (): Promise<LaneReply> =>
    new Promise((resolve, reject) => {
      if (failure === undefined) waiting = { resolve, reject };
      else reject(failure);
    });
  const ask = (request: LaneRequest): Promise<LaneReply> => {
    const reply = next();
    // oxlint-disable-next-line unicorn/require-post-message-target-origin -- that is for windows
    worker.postMessage(request);
    return reply;
  };
  try {
    await next();
  } catch (error) {
    await worker.terminate();
    throw error;
  }
  return {
    async accumulate(side, feeds) {
      const reply = await ask({ kind: 'accumulate', side, feeds });
      if (reply.kind !== 'accumulated') throw internal(new Error(`a lane answered ${reply.kind}`));
      return reply;
    },
    async close() {
      if (failure !== undefined) return;
      const exited = once(worker, 'exit');
      await ask({ kind: 'close' });
      await exited;
    },
  };
}
