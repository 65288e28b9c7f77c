import { PlumbError } from '@plumb/kit/errors';
import type * as ort from 'onnxruntime-node';
import { sizeOf } from '../graph.ts';
import type { TrainingProgram } from '../training/program.ts';
import { metricName, sumInput, sumOutput } from '../training/program.ts';
import { openSession } from './session.ts';
import type { TypedTensor } from './typed-tensor.ts';
import { allocate, toRuntime } from './typed-tensor.ts';

/**
 * Memory that a lane works on. All of it may be shared with the thread that owns the training: it reads parameters and
 * feeds in place, and leaves gradient sums where the update reads them.
 */
export interface LaneMemory {
  /** Parameters, twice: steps read one and write the other in turns. */
  readonly parameters: readonly [Float32Array, Float32Array];
  /** Gradient sums, twice, for the same reason. Laid out like the parameters. */
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

/** Cuts one array into the arrays of the parameters, in the program's order. */
export function cut(program: TrainingProgram, array: Float32Array): Map<string, TypedTensor> {
  const parts = new Map<string, TypedTensor>();
  let offset = 0;
  for (const { name, shape } of program.parameters) {
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
): Promise<Lane> {
  const session = await openSession(name, program.gradientModel, { intraOpThreads });
  // Parameters that the loss does not reach are no inputs of the model.
  const inputs = new Set(session.inputs.map((spec) => spec.name));
  const prepare = (array: Float32Array, label: (parameter: string) => string): Record<string, ort.Tensor> => {
    const prepared: Record<string, ort.Tensor> = {};
    for (const [parameter, tensor] of cut(program, array))
      prepared[label(parameter)] = toRuntime(parameter, tensor);
    return prepared;
  };
  const present = (tensors: Record<string, ort.Tensor>): Record<string, ort.Tensor> =>
    Object.fromEntries(Object.entries(tensors).filter(([input]) => inputs.has(input)));
  const parameters = memory.parameters.map((array) => present(prepare(array, (parameter) => parameter)));
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
