import assert from 'node:assert/strict';
import { readFile } from 'node:fs/promises';
import { fileURLToPath } from 'node:url';
import { test } from 'node:test';
import { openInThread } from '@plumb/tensor-graph/engine';
import { readSafetensors } from '@plumb/tensor-graph/safetensors';
import { openPipeline } from './pipeline.ts';
import { readPipelineFolder } from './pipeline-folder.ts';

const fixture = (name: string): string => fileURLToPath(new URL(`../fixtures/${name}`, import.meta.url));

/** ||a - b|| / ||b|| over all elements. */
function relativeError(a: Float32Array, b: Float32Array): number {
  assert.equal(a.length, b.length);
  let off = 0;
  let size = 0;
  for (let i = 0; i < b.length; i++) {
    off += ((a[i] ?? NaN) - (b[i] ?? NaN)) ** 2;
    size += (b[i] ?? NaN) ** 2;
  }
  return Math.sqrt(off / size);
}

for (const name of ['wan', 'ltx', 'cogvideox']) {
  test(`${name}: from text to frames as diffusers samples it`, async () => {
    const folder = await readPipelineFolder(fixture(name));
    const { tensors, metadata } = readSafetensors(await readFile(fixture(`${name}.safetensors`)));
    const floats = (key: string): Float32Array => {
      const data = tensors.get(key)?.data;
      assert.ok(data instanceof Float32Array);
      return data;
    };
    const prompts = JSON.parse(metadata['prompts'] ?? '') as string[];
    const noise = floats('noise');
    const size = noise.length / prompts.length;
    const noises = prompts.map((_, clip) => noise.slice(clip * size, (clip + 1) * size));
    assert.deepEqual(
      prompts.map((prompt) => folder.tokenise(prompt).ids),
      JSON.parse(metadata['ids'] ?? ''),
    );
    const { steps, guidance } = folder.settings;
    const engine = openInThread({ intraOpThreads: 1 });
    const wanted = floats('latents');
    const frames = floats('frames');
    for (const guidancePasses of ['batched', 'split'] as const) {
      const pipeline = openPipeline(engine, folder, { batch: 2, guidancePasses });
      const latents = await pipeline.denoise(prompts, noises, { steps, guidance, shift: 1 });
      for (const [clip, values] of latents.entries()) {
        const error = relativeError(values, wanted.subarray(clip * size, (clip + 1) * size));
        assert.ok(error < 1e-4, `latents of clip ${clip}: relative error ${error}`);
      }
      const [first] = latents;
      assert.ok(first);
      const decoded = await pipeline.decode(first);
      // Frames of diffusers are [frames, 3, height, width] in 0 to 1.
      const plane = decoded.height * decoded.width;
      const arranged = new Float32Array(decoded.data.length);
      for (let channel = 0; channel < 3; channel++) {
        for (let frame = 0; frame < decoded.frames; frame++) {
          for (let i = 0; i < plane; i++) {
            const value = decoded.data[(channel * decoded.frames + frame) * plane + i] ?? 0;
            arranged[(frame * 3 + channel) * plane + i] = Math.min(Math.max(value / 2 + 0.5, 0), 1);
          }
        }
      }
      const error = relativeError(arranged, frames.subarray(0, arranged.length));
      assert.ok(error < 1e-4, `frames: relative error ${error}`);
      await pipeline.close();
    }
    await engine.close();
  });
}

/** Largest number of weights' bytes that two components have together. */
async function pairBudget(): Promise<number> {
  const { textEncoder, denoiser, decoder } = await readPipelineFolder(fixture('wan'));
  const sizes = [textEncoder, denoiser, decoder].map(({ weightBytes }) => weightBytes);
  return Math.max(...sizes) + Math.min(...sizes);
}

const requests = [
  { caption: 'a red ball rolls off the table', seed: 3n },
  { caption: 'the blue block falls', seed: 4n },
];
const settings = { steps: 3, guidance: 2, shift: 1 };

test('a clip depends on its prompt and seed, not on its companions, on budgets or on the engine', async () => {
  const folder = await readPipelineFolder(fixture('wan'));
  const engine = openInThread({ intraOpThreads: 1 });
  const pipeline = openPipeline(engine, folder, { batch: 2 });
  const together = await pipeline.sampleEach(requests, settings);
  assert.deepEqual(await pipeline.sampleEach(requests.slice(1), settings), together.slice(1));
  assert.notDeepEqual(together[0], together[1]);

  const tight = openPipeline(engine, folder, { batch: 2, memoryBudgetBytes: await pairBudget() });
  assert.deepEqual(await tight.sampleEach(requests, settings), together);
  assert.ok(tight.components.loaded.length < 3, 'all three components are not loaded at once');
  assert.deepEqual(
    await Promise.all([
      tight.sampleEach(requests.slice(0, 1), settings),
      tight.sampleEach(requests.slice(1), settings),
    ]),
    together.map((clip) => [clip]),
  );
  const [clip] = together;
  assert.ok(clip !== undefined && 'data' in clip);
  const { frames, width, height, fps } = clip;
  assert.deepEqual({ frames, width, height, fps }, { frames: 5, width: 32, height: 16, fps: 16 });
  assert.deepEqual(clip.latents?.shape, [4, 2, 2, 4]);
  await engine.close();
});

test('a component that is over the budget on its own is named', async () => {
  const folder = await readPipelineFolder(fixture('wan'));
  const engine = openInThread({ intraOpThreads: 1 });
  assert.throws(() => openPipeline(engine, folder, { batch: 1, memoryBudgetBytes: 30_000 }), {
    code: 'RESOURCE_EXHAUSTED',
    message: /transformer\/model\.onnx has \d+ bytes/,
  });
  await engine.close();
});

test('settings and shifts that the scheduler does not take are refused', async () => {
  const folder = await readPipelineFolder(fixture('cogvideox'));
  const engine = openInThread({ intraOpThreads: 1 });
  const pipeline = openPipeline(engine, folder, { batch: 1 });
  await assert.rejects(pipeline.sampleEach(requests, { ...settings, steps: 0 }), {
    code: 'INVALID_ARGUMENT',
  });
  await assert.rejects(pipeline.sampleEach(requests, { ...settings, shift: 3 }), {
    message: /sampler\.shift/,
  });
  await engine.close();
});
