import { PlumbError } from '@plumb/kit/errors';
import type * as ort from 'onnxruntime-node';
import { sizeOf } from '../graph.ts';
import type { PreparedSpec, TrainingProgram } from '../training/program.ts';
import { metricName, sumInput, sumOutput } from '../training/program.ts';
import { openSession } from './session.ts';
import type { TypedTensor } from './typed-tensor.ts';
import { allocate, toRuntime } from './typed-tensor.ts';

/**
 * Memory that a lane works on. All of it may be shared with the thread that owns the training: it reads parameters and
 * feeds in place, and leaves gradient sums where the update reads them.
 */
export interface LaneMemory {
  /** Parameters and what is prepared from them, twice: steps read one and write the other in turns. */
  readonly parameters: readonly [Float32Array, Float32Array];
  /** Gradient sums of all of these, twice, for the same reason. */
  readonly sums: readonly [Float32Array, Float32Array];
}

/** A lane: one session of the gradient model, on one thread. */
export interface Lane {
  /**
   * Adds up the gradients of some micro-batches.
   * @param side which copy of the parameters to read
   * @param feeds tensors of each micro-batch by name
   * @returns the metrics of each micro-batch, in the program's order, and which of the two sums holds the result
   */
  accumulate(
    side: 0 | 1,
    feeds: readonly Readonly<Record<string, TypedTensor>>[],
  ): Promise<{ metrics: number[][]; sum: 0 | 1 }>;
  close(): Promise<void>;
}

/** The parameters, then what is prepared from them: the layout of a lane's memory. */
export function laneTensors(program: TrainingProgram): readonly PreparedSpec[] {
  return [...program.parameters, ...(program.preparation?.tensors ?? [])];
}

/** Cuts one array into the arrays of some tensors, which lie in it one after the other. */
export function cut(tensors: readonly PreparedSpec[], array: Float32Array): Map<string, TypedTensor> {
  const parts = new Map<string, TypedTensor>();
  let offset = 0;
  for (const { name, shape } of tensors) {
    const end = offset + sizeOf(shape);
    parts.set(name, { dtype: 'float32', shape, data: array.subarray(offset, end) });
    offset = end;
  }
  return parts;
}

/** Opens a lane in the calling thread. */
export async function openLane(
  name: string,
  program: TrainingProgram,
  memory: LaneMemory,
  intraOpThreads: number,
  device: 'cpu' | 'cuda' = 'cpu',
): Promise<Lane> {
  const session = await openSession(name, program.gradientModel, {
    intraOpThreads,
    device,
    ...(program.weightsFolder === undefined ? {} : { weightsFolder: program.weightsFolder }),
  });
  // Parameters that the loss does not reach, or reaches through preparation only, are not in the model.
  const known = new Set([...session.inputs, ...session.outputs].map((spec) => spec.name));
  const layout = laneTensors(program);
  const prepare = (
    array: Float32Array,
    labelOf: (parameter: string) => string,
  ): Record<string, ort.Tensor> => {
    const prepared: Record<string, ort.Tensor> = {};
    for (const [parameter, tensor] of cut(layout, array)) {
      const label = labelOf(parameter);
      if (known.has(label)) prepared[label] = toRuntime(parameter, tensor);
    }
    return prepared;
  };
  const parameters = memory.parameters.map((array) => prepare(array, (parameter) => parameter));
  const sumsIn = memory.sums.map((array) => prepare(array, sumInput));
  const sumsOut = memory.sums.map((array) => prepare(array, sumOutput));
  const metrics = program.metrics.map((metric): [string, Float32Array] => [
    metricName(metric),
    new Float32Array(1),
  ]);
  const metricFetches = Object.fromEntries(
    metrics.map(([output, data]) => [output, toRuntime(output, { dtype: 'float32', shape: [], data })]),
  );

  return {
    async accumulate(side, feeds) {
      let sum: 0 | 1 = 0;
      memory.sums[0].fill(0);
      const collected: number[][] = [];
      for (const feed of feeds) {
        const given: Record<string, ort.Tensor> = {};
        for (const [input, tensor] of Object.entries(feed))
          given[input] = toRuntime(`feeds.${input}`, tensor);
        const next: 0 | 1 = sum === 0 ? 1 : 0;
        await session.runPrepared(
          { ...parameters[side], ...sumsIn[sum], ...given },
          { ...sumsOut[next], ...metricFetches },
        );
        sum = next;
        collected.push(metrics.map(([, data]) => data[0] ?? Number.NaN));
      }
      return { metrics: collected, sum };
    },
    close: () => session.close(),
  };
}

/** Memory for a lane; shared when other threads are to see it. */
export function allocateFloats(length: number, shared: boolean): Float32Array {
  const array = allocate('float32', length, shared);
  if (array instanceof Float32Array) return array;
  throw PlumbError.from(new TypeError('float32 memory is not a Float32Array'));
}
