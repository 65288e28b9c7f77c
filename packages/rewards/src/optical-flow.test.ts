import assert from 'node:assert/strict';
import { createHash } from 'node:crypto';
import { mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { test } from 'node:test';
import type { Clip } from '@plumb/media';
import { Graph, add, concat, mul, reduceMean, slice, toOnnx } from '@plumb/tensor-graph';
import { openInThread } from '@plumb/tensor-graph/engine';
import fc from 'fast-check';
import { parseRewardDefinition } from './definition.ts';
import type { DefinitionOf } from './definition.ts';
import { openOpticalFlow } from './optical-flow.ts';
import type { RewardModule, RewardValue } from './reward.ts';

const side = 64;
const none = (): Promise<never> => Promise.reject(new Error('no file is read'));

function definitionOf(estimator: Readonly<Record<string, unknown>>): DefinitionOf<'optical-flow'> {
  const shared = { format: 1, name: 'optical_flow', version: '1', description: 'test' };
  return parseRewardDefinition(
    { ...shared, kind: 'optical-flow', estimator },
    'test',
  ) as DefinitionOf<'optical-flow'>;
}

/** A smooth texture that moves by (dx, dy) pixels a frame. */
function moving(dx: number, dy: number, frames = 3): Clip {
  const data = new Uint8Array(frames * side * side * 3);
  for (let frame = 0; frame < frames; frame += 1) {
    for (let y = 0; y < side; y += 1) {
      for (let x = 0; x < side; x += 1) {
        const [u, v] = [x - frame * dx, y - frame * dy];
        const level = 128 + 50 * Math.sin(u / 4) * Math.cos(v / 5) + 40 * Math.sin((u + 2 * v) / 9);
        data.fill(level, ((frame * side + y) * side + x) * 3, ((frame * side + y) * side + x) * 3 + 3);
      }
    }
  }
  return { frames, width: side, height: side, fps: 8, data };
}

async function valueOf(reward: RewardModule, clip: Clip): Promise<RewardValue> {
  const [result] = await reward.score([{ clip, prompt: '' }]);
  assert.ok(result !== undefined);
  if ('error' in result) throw result.error;
  return result.score;
}

test('Farneback finds how far a texture moves', async () => {
  const reward = await openOpticalFlow(definitionOf({ method: 'farneback' }), '', none);
  const still = await valueOf(reward, moving(0, 0));
  assert.ok(still.value < 0.02 && still.details?.['moving_share'] === 0, `${still.value}`);
  await fc.assert(
    fc.asyncProperty(fc.integer({ min: -3, max: 3 }), fc.integer({ min: -3, max: 3 }), async (dx, dy) => {
      const { value } = await valueOf(reward, moving(dx, dy));
      const length = Math.hypot(dx, dy);
      // Edges see only a part of what moves.
      assert.ok(Math.abs(value - length) < 0.15 * length + 0.05, `${value} for ${length}`);
    }),
    { numRuns: 15 },
  );
});

test('one frame has no flow: an error, and no zero', async () => {
  const reward = await openOpticalFlow(definitionOf({ method: 'farneback' }), '', none);
  const results = await reward.score([
    { clip: moving(1, 0, 1), prompt: '' },
    { clip: moving(1, 0, 2), prompt: '' },
  ]);
  assert.ok(results[0] !== undefined && 'error' in results[0]);
  assert.equal(results[0].error.code, 'INVALID_ARGUMENT');
  assert.ok(results[1] !== undefined && 'score' in results[1]);
});

test('an ONNX model is given both frames, enlarged and filled up, and its flow is scaled back', async (t) => {
  // x of the flow is three times the mean of the first frame, y four times that of the second, in enlarged pixels.
  const [height, width] = [128, 176];
  const graph = new Graph();
  const flows = ['image1', 'image2'].map((name, index) => {
    const mean = reduceMean(graph.input(name, 'float32', [1, 3, height, width]), {
      axes: [1, 2, 3],
      keepDims: true,
    });
    return add(graph.filled(0, [1, 1, height, width]), mul(mean, index === 0 ? 3 : 4));
  });
  graph.output('flow', slice(concat(flows, 1), 1, 0, 2));
  const folder = await mkdtemp(join(tmpdir(), 'plumb-flow-'));
  t.after(() => rm(folder, { recursive: true }));
  const bytes = toOnnx(graph);
  await writeFile(join(folder, 'flow.onnx'), bytes);
  const sha256 = createHash('sha256').update(bytes).digest('hex');
  const definition = definitionOf({ method: 'onnx', file: 'flow.onnx', sha256 });
  const reward = await openOpticalFlow(definition, folder, async () => openInThread({ intraOpThreads: 1 }));
  // 64x86 becomes 128x172, of which 172 is filled up to 176; white is 1.
  const clip: Clip = {
    frames: 2,
    width: 86,
    height: 64,
    fps: 8,
    data: new Uint8Array(2 * 86 * 64 * 3).fill(255),
  };
  const { value, details } = await valueOf(reward, clip);
  await reward.close();
  // 5 enlarged pixels are 2.5 of the clip's own.
  assert.ok(Math.abs(value - 2.5) < 1e-6, `${value}`);
  assert.deepEqual(details?.['moving_share'], 1);
});
