import type { Graph } from '@plumb/tensor-graph';
import { toOnnx } from '@plumb/tensor-graph';
import * as ort from 'onnxruntime-node';

/** For tests: loads a float32 graph once and evaluates its outputs on plain arrays. */
export async function compile(
  graph: Graph,
): Promise<(feeds: Record<string, readonly number[]>) => Promise<Record<string, number[]>>> {
  const session = await ort.InferenceSession.create(toOnnx(graph), {
    intraOpNumThreads: 1,
    logSeverityLevel: 3,
  });
  const shapes = new Map(
    graph.inputs.map((tensor) => [
      tensor.source.kind === 'input' ? tensor.source.name : '',
      [...tensor.shape],
    ]),
  );
  return async (feeds) => {
    const values = await session.run(
      Object.fromEntries(
        session.inputNames.map((name) => [
          name,
          new ort.Tensor('float32', Float32Array.from(feeds[name] ?? []), shapes.get(name) ?? []),
        ]),
      ),
    );
    return Object.fromEntries(
      Object.entries(values).map(([name, tensor]) => [name, Array.from(tensor.data, Number)]),
    );
  };
}
