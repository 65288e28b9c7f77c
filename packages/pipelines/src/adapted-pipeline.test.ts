import assert from 'node:assert/strict';
import { mkdtemp, readFile, rm, stat } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { dirname, join } from 'node:path';
import { after, test } from 'node:test';
import { fileURLToPath } from 'node:url';
import {
  encodePeftAdapters,
  fillGaussian,
  networkAdapters,
  networkAdapterTargets,
  parseAdapterSettings,
  randomGenerator,
} from '@plumb/diffusion';
import { openFolderStore } from '@plumb/media';
import { adaptedPipelineMediaType } from '@plumb/media/model-media-types';
import { Graph, toOnnx } from '@plumb/tensor-graph';
import { openInThread } from '@plumb/tensor-graph/engine';
import type { TypedTensor } from '@plumb/tensor-graph/engine';
import { fetchForSampling, fetchForTraining, storeAdaptedPipeline } from './adapted-pipeline.ts';
import { storePipeline } from './pipeline-artifact.ts';
import { pipelineDenoiser } from './pipeline-denoiser.ts';
import { readPipelineFolder } from './pipeline-folder.ts';

const fixture = (name: string): string => fileURLToPath(new URL(`../fixtures/${name}`, import.meta.url));
const scratch = await mkdtemp(join(tmpdir(), 'plumb-adapted-'));
after(() => rm(scratch, { recursive: true }));

const random = (label: string, length: number): Float32Array =>
  fillGaussian(new Float32Array(length), randomGenerator('adapted', label));

for (const name of ['wan', 'ltx', 'cogvideox']) {
  test(`${name}: merged adapters predict what adapters beside the weights predict`, async () => {
    const cache = join(scratch, name);
    const store = await openFolderStore(join(cache, 'artifacts'));
    const base = await readPipelineFolder(fixture(name));
    const { network } = await pipelineDenoiser(base, 2);
    const settings = parseAdapterSettings({ rank: 2, alpha: 3, targets: ['*.attn1.to_*', '*.ff*.net.2'] });
    const targets = networkAdapterTargets(network.linearLayers, settings);
    const values = new Map(
      targets.flatMap(({ a, b }) =>
        [a, b].map(({ name: key, shape }): [string, Float32Array] => [
          key,
          random(
            key,
            shape.reduce((x, y) => x * y, 1),
          ).map((value) => value / 4),
        ]),
      ),
    );
    const stored = await storeAdaptedPipeline(
      await storePipeline(base, 'float32', store),
      encodePeftAdapters(targets, settings, values),
      store,
    );
    const version = { ...stored.manifest, mediaType: adaptedPipelineMediaType };
    const merged = await fetchForSampling(version, store, cache);
    // Its large files are those of the base, not copies.
    const fetched = await fetchForTraining(version, store, cache);
    const inode = async (path: string): Promise<number> =>
      (await stat(join(path, 'vae/model.onnx.data'))).ino;
    assert.equal(await inode(merged.path), await inode(fetched.folder.path));

    const graph = new Graph();
    const inputs = Object.fromEntries(
      network.inputs.map(({ name: input, dtype, shape }) => [input, graph.input(input, dtype, shape)]),
    );
    const { adapt } = networkAdapters(targets, settings, ({ name: key, shape }) =>
      graph.constant(values.get(key) ?? new Float32Array(), shape),
    );
    const [prediction] = Object.values(network.apply(graph, inputs, { adapt }));
    assert.ok(prediction !== undefined);
    graph.output('prediction', prediction);
    const feeds: Record<string, TypedTensor> = {
      ...base.plan.constants(2),
      ...Object.fromEntries(
        network.inputs
          .filter(({ name: input }) => base.plan.constants(2)[input] === undefined)
          .map(({ name: input, dtype, shape }): [string, TypedTensor] => {
            const data = random(
              input,
              shape.reduce((x, y) => x * y, 1),
            );
            return [
              input,
              dtype === 'int64'
                ? { dtype, shape, data: BigInt64Array.from(data, () => 500n) }
                : { dtype, shape, data: input.endsWith('mask') ? data.fill(1) : data },
            ];
          }),
      ),
    };
    const engine = openInThread({ intraOpThreads: 1 });
    const run = async (
      id: string,
      model: Uint8Array,
      path: string,
      output: string,
    ): Promise<Float32Array> => {
      await engine.load(id, model, { weightsFolder: dirname(path) });
      const data = (await engine.run(id, feeds, [output]))[output]?.data;
      assert.ok(data instanceof Float32Array);
      return data;
    };
    const beside = await run('beside', toOnnx(graph), base.denoiser.path, 'prediction');
    const { path, output } = merged.denoiser;
    const within = await run('within', await readFile(path), path, output.name);
    const before = await run('before', await readFile(base.denoiser.path), base.denoiser.path, output.name);
    await engine.close();
    const distance = (a: Float32Array, b: Float32Array): number =>
      Math.sqrt(a.reduce((sum, value, i) => sum + (value - (b[i] ?? Number.NaN)) ** 2, 0));
    const change = distance(within, before);
    assert.ok(change > 0.01, `the adapters change the prediction by ${change}`);
    const error = distance(within, beside) / change;
    assert.ok(error < 1e-4, `they differ by ${error} of the change`);
  });
}

test('adapters of another model are refused with the layer', async () => {
  const cache = join(scratch, 'foreign');
  const store = await openFolderStore(join(cache, 'artifacts'));
  const base = await readPipelineFolder(fixture('wan'));
  const other = await pipelineDenoiser(await readPipelineFolder(fixture('ltx')), 1);
  const settings = parseAdapterSettings({ rank: 1, targets: ['transformer_blocks.0.attn1.to_q'] });
  const targets = networkAdapterTargets(other.network.linearLayers, settings);
  const values = new Map(
    targets.flatMap(({ a, b }) =>
      [a, b].map(({ name, shape }): [string, Float32Array] => [
        name,
        new Float32Array(shape.reduce((x, y) => x * y, 1)),
      ]),
    ),
  );
  const { manifest } = await storeAdaptedPipeline(
    await storePipeline(base, 'float32', store),
    encodePeftAdapters(targets, settings, values),
    store,
  );
  await assert.rejects(fetchForSampling({ ...manifest, mediaType: adaptedPipelineMediaType }, store, cache), {
    code: 'INVALID_ARGUMENT',
    message: /adapters: are on transformer_blocks\.0\.attn1\.to_q, but the denoiser has no linear layer/,
  });
});
