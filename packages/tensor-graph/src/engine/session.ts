import { invalidArgument, PlumbError } from '@plumb/kit/errors';
import * as ort from 'onnxruntime-node';
import { describeShape } from '../errors.ts';
import type { DType } from '../graph.ts';
import { sizeOf } from '../graph.ts';
import type { TypedTensor } from './typed-tensor.ts';
import { allocate, dtypeOfRuntime, toRuntime } from './typed-tensor.ts';

/** How the runtime executes models. */
export interface SessionOptions {
  /** Threads that one operator may use; all processors unless given. */
  readonly intraOpThreads?: number;
  /** How far the runtime rewrites the graph; `all` unless given. */
  readonly graphOptimizationLevel?: 'disabled' | 'basic' | 'extended' | 'all';
}

/** What a model needs besides its bytes. */
export interface ModelOptions {
  /** What runs the model: `cuda` needs a GPU and the runtime's libraries for it; `cpu` unless given. */
  readonly device?: 'cpu' | 'cuda';
  /** Absolute path of the folder that its external weights lie in; they are mapped into memory, not read. */
  readonly weightsFolder?: string;
}

/** A named value of a model. An extent of -1 is free: models from elsewhere may have some, ours never do. */
export interface ValueSpec {
  readonly name: string;
  readonly dtype: DType;
  readonly shape: readonly number[];
}

/** A loaded model, in this thread. Runs block the thread that owns it. */
export interface Session {
  readonly inputs: readonly ValueSpec[];
  readonly outputs: readonly ValueSpec[];
  /**
   * @param feeds one tensor for each input
   * @param outputs which outputs are wanted; all unless given
   * @returns fresh arrays, owned by the caller
   */
  run(
    feeds: Readonly<Record<string, TypedTensor>>,
    outputs?: readonly string[],
  ): Promise<Record<string, TypedTensor>>;
  /** Runs on memory that the caller prepared with `toRuntime`; nothing is checked, nothing allocated. */
  runPrepared(
    feeds: Readonly<Record<string, ort.Tensor>>,
    fetches: Readonly<Record<string, ort.Tensor>>,
  ): Promise<void>;
  close(): Promise<void>;
}

/** How the runtime says that it has no kernel for the types of a node. */
const MISSING_KERNEL = /Could not find an implementation for (\w+)\(\d+\) node with name '([^']*)'/;

/**
 * Loads a model in the calling thread.
 * @param name what to call the model in errors
 * @throws PlumbError UNIMPLEMENTED naming operator and node when the runtime has no kernel for its types; DATA_LOSS, reason
 *   MODEL_CORRUPT, when it cannot load the model otherwise
 */
export async function openSession(
  name: string,
  model: Uint8Array,
  options: SessionOptions & ModelOptions = {},
): Promise<Session> {
  let session: ort.InferenceSession;
  try {
    session = await ort.InferenceSession.create(model, {
      executionProviders: [options.device ?? 'cpu'],
      graphOptimizationLevel: options.graphOptimizationLevel ?? 'all',
      logSeverityLevel: 3,
      ...(options.intraOpThreads === undefined ? {} : { intraOpNumThreads: options.intraOpThreads }),
      extra: {
        session: {
          // Threads that wait for the next run turn for up to a tenth of a second otherwise, on processors that lanes of a
          // training, other sessions and other services need.
          force_spinning_stop: '1',
          ...(options.weightsFolder === undefined
            ? {}
            : {
                model_external_initializers_file_folder_path: options.weightsFolder,
                // Weights stay shared with every other session that maps the file: no copies in another layout.
                disable_prepacking: '1',
              }),
        },
      },
    });
  } catch (error) {
    const missing = MISSING_KERNEL.exec(describe(error));
    if (missing !== null) {
      const [, operator = '', node = ''] = missing;
      throw new PlumbError({
        code: 'UNIMPLEMENTED',
        reason: 'METHOD_UNIMPLEMENTED',
        message: `model '${name}' cannot run here: ONNX Runtime has no ${operator} for the types of node ${node} on the CPU`,
        metadata: { model: name, operator, node },
        cause: error,
      });
    }
    throw new PlumbError({
      code: 'DATA_LOSS',
      reason: 'MODEL_CORRUPT',
      message: `model '${name}' cannot be loaded (${model.length} bytes): ${describe(error)}`,
      metadata: { model: name },
      cause: error,
    });
  }
  const inputs = session.inputMetadata.map(specOf);
  const outputs = session.outputMetadata.map(specOf);

  const run: Session['run'] = async (feeds, wanted) => {
    const prepared: Record<string, ort.Tensor> = {};
    for (const spec of inputs) {
      const feed = feeds[spec.name];
      if (feed === undefined)
        throw invalidArgument(`feeds.${spec.name}`, `is missing; model '${name}' needs it`);
      if (feed.dtype !== spec.dtype || !fits(feed.shape, spec.shape)) {
        throw invalidArgument(
          `feeds.${spec.name}`,
          `is ${feed.dtype} ${describeShape(feed.shape)}; model '${name}' takes ${spec.dtype} ${describeShape(spec.shape)}`,
          { reason: 'SHAPE_MISMATCH' },
        );
      }
      prepared[spec.name] = toRuntime(`feeds.${spec.name}`, feed);
    }
    for (const given of Object.keys(feeds)) {
      if (!inputs.some((spec) => spec.name === given)) {
        throw invalidArgument(`feeds.${given}`, `is no input of model '${name}'`);
      }
    }
    const results: Record<string, TypedTensor> = {};
    const fetches: Record<string, ort.Tensor | null> = {};
    for (const output of wanted ?? outputs.map((spec) => spec.name)) {
      const spec = outputs.find((candidate) => candidate.name === output);
      if (spec === undefined)
        throw invalidArgument('outputs', `holds '${output}', which model '${name}' does not have`);
      if (spec.shape.includes(-1)) {
        fetches[output] = null;
        continue;
      }
      const tensor = { dtype: spec.dtype, shape: spec.shape, data: allocate(spec.dtype, sizeOf(spec.shape)) };
      results[output] = tensor;
      fetches[output] = toRuntime(output, tensor);
    }
    const made = await execute(prepared, fetches);
    for (const [output, fetch] of Object.entries(fetches)) {
      const value = made[output];
      if (fetch !== null || value === undefined) continue;
      // Only the types in `allocate` are loaded, so data is one of ours.
      results[output] = {
        dtype: dtypeOfRuntime(value.type),
        shape: value.dims,
        data: value.data as TypedTensor['data'],
      };
    }
    return results;
  };
  const execute = async (
    feeds: Readonly<Record<string, ort.Tensor>>,
    fetches: Readonly<Record<string, ort.Tensor | null>>,
  ): Promise<ort.InferenceSession.ReturnType> => {
    try {
      return await session.run(feeds, fetches);
    } catch (error) {
      throw new PlumbError({
        code: 'INTERNAL',
        reason: 'ENGINE_FAILED',
        message: `model '${name}' failed: ${describe(error)}`,
        metadata: { model: name },
        cause: error,
      });
    }
  };
  const runPrepared: Session['runPrepared'] = async (feeds, fetches) => {
    await execute(feeds, fetches);
  };
  return { inputs, outputs, run, runPrepared, close: () => session.release() };
}

/** The outputs of a model without inputs; errors are the runtime's own. */
export async function evaluate(model: Uint8Array): Promise<Record<string, TypedTensor>> {
  const session = await ort.InferenceSession.create(model, {
    executionProviders: ['cpu'],
    graphOptimizationLevel: 'disabled',
    logSeverityLevel: 3,
    intraOpNumThreads: 1,
  });
  try {
    const values = await session.run({});
    return Object.fromEntries(
      Object.entries(values).map(([output, value]) => [
        output,
        {
          dtype: dtypeOfRuntime(value.type),
          shape: value.dims,
          data: value.data as TypedTensor['data'],
        },
      ]),
    );
  } finally {
    await session.release();
  }
}

function specOf(metadata: ort.InferenceSession.ValueMetadata): ValueSpec {
  if (!metadata.isTensor) throw invalidArgument(`model.${metadata.name}`, 'is no tensor');
  const shape = metadata.shape.map((extent) => (typeof extent === 'number' ? extent : -1));
  return { name: metadata.name, dtype: dtypeOfRuntime(metadata.type), shape };
}

/** Whether a shape is of a form that may have free extents. */
function fits(shape: readonly number[], form: readonly number[]): boolean {
  return (
    shape.length === form.length && form.every((extent, axis) => extent === -1 || extent === shape[axis])
  );
}

function describe(error: unknown): string {
  return error instanceof Error ? error.message : String(error);
}
