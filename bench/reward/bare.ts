/** A bare loop of ONNX Runtime over full batches, a process of its own: what the reward service is compared with. */

import { readFileSync } from 'node:fs';
import { openSession } from '@plumb/tensor-graph/engine';

/** What to do. */
export interface BareJob {
  readonly model: string;
  readonly threads: number;
  /** Shape of the model's input. */
  readonly shape: readonly [number, number, number, number];
  readonly seconds: number;
}

process.once('message', (first: BareJob) => {
  void (async () => {
    const session = await openSession('vision', readFileSync(first.model), { intraOpThreads: first.threads });
    const data = new Float32Array(first.shape.reduce((product, extent) => product * extent, 1)).fill(0.5);
    const feeds = { pixel_values: { dtype: 'float32' as const, shape: first.shape, data } };
    const measure = async ({ seconds }: BareJob): Promise<void> => {
      const begin = performance.now();
      let passes = 0;
      for (; performance.now() - begin < seconds * 1000; passes += 1) await session.run(feeds);
      process.send?.({ passesPerSecond: (1000 * passes) / (performance.now() - begin) });
    };
    process.on('message', (job: BareJob) => void measure(job));
    await measure(first);
  })();
});
