import type { Graph } from '@plumb/tensor-graph';
import { toOnnx } from '@plumb/tensor-graph';
import { openInThread } from '@plumb/tensor-graph/engine';

/** For tests: loads a float32 graph once and evaluates its outputs on plain arrays. */
export async function compile(
  graph: Graph,
): Promise<(feeds: Record<string, readonly number[]>) => Promise<Record<string, number[]>>> {
  const engine = openInThread({ intraOpThreads: 1 });
  await engine.load('graph', toOnnx(graph));
  const inputs = graph.inputs.flatMap(({ source, shape }) =>
    source.kind === 'input' ? [{ name: source.name, shape }] : [],
  );
  return async (feeds) => {
    const tensors = inputs.flatMap(({ name, shape }) => {
      const data = feeds[name];
      return data === undefined
        ? []
        : [[name, { dtype: 'float32' as const, shape, data: Float32Array.from(data) }] as const];
    });
    const values = await engine.run('graph', Object.fromEntries(tensors));
    return Object.fromEntries(
      Object.entries(values).map(([name, { data }]) => [name, Array.from(data as ArrayLike<number>, Number)]),
    );
  };
}
