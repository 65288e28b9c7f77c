/** A CLIP-shaped model with random weights, as large as a benchmark wants, and its reward definition. */

import { createHash } from 'node:crypto';
import { writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { randomGenerator } from '@plumb/diffusion';
import {
  add,
  gather,
  Graph,
  layerNorm,
  linear,
  matMul,
  mul,
  reduceMean,
  reshape,
  silu,
  softmax,
  split,
  swapLastAxes,
  toOnnx,
  transpose,
} from '@plumb/tensor-graph';
import type { Tensor } from '@plumb/tensor-graph';

/** Size of a vision transformer. */
export interface TowerSize {
  readonly side: number;
  readonly patch: number;
  readonly width: number;
  readonly heads: number;
  readonly layers: number;
  /** Frames of a pass. */
  readonly framesPerPass: number;
  /** Frames of a clip that are looked at. */
  readonly framesPerClip: number;
}

const embedding = 128;
const words = ['[PAD]', '[UNK]', 'a', 'red', 'ball', 'falls'];

/** The vision tower as ONNX: pixel_values [frames, 3, side, side] to image_embeds [frames, 128]. */
export function visionTower(size: TowerSize): Uint8Array {
  const { side, patch, width, heads, layers, framesPerPass: frames } = size;
  const graph = new Graph();
  const weights = new Map<string, Float32Array>();
  const weight = weightsOf(graph, weights);
  const tokens = (side / patch) ** 2;
  const across = side / patch;
  const pixels = graph.input('pixel_values', 'float32', [frames, 3, side, side]);
  const cut = transpose(reshape(pixels, [frames, 3, across, patch, across, patch]), [0, 2, 4, 1, 3, 5]);
  let x = linear(
    reshape(cut, [frames, tokens, 3 * patch * patch]),
    weight('patches', [3 * patch * patch, width]),
  );
  x = add(x, weight('positions', [tokens, width]));
  for (let layer = 0; layer < layers; layer += 1) {
    const normed = layerNorm(x, undefined, undefined);
    const qkv = linear(normed, weight(`qkv${layer}`, [width, 3 * width]));
    const [q, k, v] = split(qkv, 2, [width, width, width]).map((part) =>
      transpose(reshape(part, [frames, tokens, heads, width / heads]), [0, 2, 1, 3]),
    ) as [Tensor, Tensor, Tensor];
    const attention = softmax(matMul(mul(q, 1 / Math.sqrt(width / heads)), swapLastAxes(k)));
    const mixed = reshape(transpose(matMul(attention, v), [0, 2, 1, 3]), [frames, tokens, width]);
    x = add(x, linear(mixed, weight(`out${layer}`, [width, width])));
    const hidden = silu(linear(layerNorm(x, undefined, undefined), weight(`up${layer}`, [width, 4 * width])));
    x = add(x, linear(hidden, weight(`down${layer}`, [4 * width, width])));
  }
  const pooled = reduceMean(layerNorm(x, undefined, undefined), { axes: [1] });
  graph.output('image_embeds', linear(pooled, weight('head', [width, embedding])));
  return toOnnx(graph, { initialisers: weights });
}

function textTower(): Uint8Array {
  const graph = new Graph();
  const weights = new Map<string, Float32Array>();
  const ids = graph.input('input_ids', 'int64', [1, 8]);
  const table = weightsOf(graph, weights)('words', [words.length, embedding]);
  graph.output('text_embeds', reduceMean(gather(table, ids), { axes: [1] }));
  return toOnnx(graph, { initialisers: weights });
}

function weightsOf(graph: Graph, weights: Map<string, Float32Array>) {
  return (name: string, shape: readonly number[]): Tensor => {
    const random = randomGenerator('bench', name);
    const count = shape.reduce((product, extent) => product * extent, 1);
    const scale = 1 / Math.sqrt(shape[0] ?? 1);
    weights.set(
      name,
      Float32Array.from({ length: count }, () => ((random.next() >>> 0) / 2 ** 31 - 1) * scale),
    );
    return graph.parameter(name, shape);
  };
}

/** Writes towers, tokeniser and definition of a reward `bench_clip` into a folder. */
export async function writeBenchReward(folder: string, size: TowerSize, vision: Uint8Array): Promise<void> {
  const tokenizer = Buffer.from(
    JSON.stringify({
      version: '1.0',
      truncation: null,
      padding: null,
      added_tokens: [],
      normalizer: { type: 'Lowercase' },
      pre_tokenizer: { type: 'Whitespace' },
      post_processor: null,
      decoder: null,
      model: {
        type: 'WordLevel',
        vocab: Object.fromEntries(words.map((word, id) => [word, id])),
        unk_token: '[UNK]',
      },
    }),
  );
  const text = textTower();
  const file = async (name: string, bytes: Uint8Array): Promise<string> => {
    await writeFile(join(folder, name), bytes);
    return `{ file: ${name}, sha256: ${createHash('sha256').update(bytes).digest('hex')}`;
  };
  const [visionFile, textFile, tokenizerFile] = [
    await file('vision.onnx', vision),
    await file('text.onnx', text),
    await file('tokenizer.json', tokenizer),
  ];
  await writeFile(
    join(folder, 'bench_clip.yaml'),
    `format: 1
name: bench_clip
version: '1'
description: A model with random weights, for benchmarks.
kind: clip-score
model:
  vision: ${visionFile} }
  text: ${textFile} }
tokenizer: ${tokenizerFile}, maxLength: 8, padId: 0 }
image:
  resize: { mode: exact, width: ${size.side}, height: ${size.side} }
  crop: { width: ${size.side}, height: ${size.side} }
  interpolation: bicubic
  mean: [0.5, 0.5, 0.5]
  std: [0.5, 0.5, 0.5]
frames: { count: ${size.framesPerClip} }
logitScale: 100
framesPerPass: ${size.framesPerPass}
`,
  );
}
