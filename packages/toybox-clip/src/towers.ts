/** The two towers of toybox-clip, as graphs: a vision transformer over one frame and a text transformer over a caption. */

import {
  add,
  div,
  gather,
  gelu,
  layerNorm,
  linear,
  matMul,
  mul,
  reduceMean,
  reduceSum,
  reshape,
  slice,
  softmax,
  split,
  sqrt,
  square,
  swapLastAxes,
  transpose,
} from '@plumb/tensor-graph';
import type { Tensor } from '@plumb/tensor-graph';
import { vocabularySize } from './tokenizer.ts';

/** Sizes of the model. One width serves both towers and the space in which they meet. */
export const size = {
  /** Side of a frame, in pixels. */
  picture: 24,
  /** Side of a patch, in pixels. */
  patch: 4,
  width: 64,
  heads: 4,
  visionDepth: 2,
  textDepth: 1,
  /** Tokens of a caption: eight words at most, begin and end, and padding. */
  textLength: 12,
} as const;

const patches = (size.picture / size.patch) ** 2;
const patchValues = 3 * size.patch ** 2;

/** Mean and standard deviation of pixels at 0..1, the same for all channels: the background is light. */
export const pixels = { mean: 0.8, std: 0.3 } as const;

/** One weight: its shape, and the standard deviation of its first values (0 is all zero). */
export interface WeightSpec {
  readonly name: string;
  readonly shape: readonly number[];
  readonly initialStd: number;
  /** Added to the first values; 1 for scales. */
  readonly initialMean: number;
}

function spec(name: string, shape: readonly number[], initialStd: number, initialMean = 0): WeightSpec {
  return { name, shape, initialStd, initialMean };
}

function linearSpecs(name: string, inputs: number, outputs: number): WeightSpec[] {
  return [
    spec(`${name}.weight`, [inputs, outputs], 1 / Math.sqrt(inputs)),
    spec(`${name}.bias`, [outputs], 0),
  ];
}

function normSpecs(name: string): WeightSpec[] {
  return [spec(`${name}.scale`, [size.width], 0, 1), spec(`${name}.bias`, [size.width], 0)];
}

function blockSpecs(name: string): WeightSpec[] {
  const { width } = size;
  return [
    ...normSpecs(`${name}.norm1`),
    ...linearSpecs(`${name}.qkv`, width, 3 * width),
    ...linearSpecs(`${name}.out`, width, width),
    ...normSpecs(`${name}.norm2`),
    ...linearSpecs(`${name}.mlp.0`, width, 4 * width),
    ...linearSpecs(`${name}.mlp.1`, 4 * width, width),
  ];
}

/** Weights of the vision tower, the projection last. */
export const visionSpecs: readonly WeightSpec[] = [
  ...linearSpecs('vision.patch', patchValues, size.width),
  spec('vision.position', [patches, size.width], 0.3),
  ...Array.from({ length: size.visionDepth }, (_, block) => blockSpecs(`vision.blocks.${block}`)).flat(),
  ...normSpecs('vision.norm'),
  ...linearSpecs('vision.projection', size.width, size.width),
];

/** Weights of the text tower. */
export const textSpecs: readonly WeightSpec[] = [
  spec('text.tokens', [vocabularySize, size.width], 0.5),
  spec('text.position', [size.textLength, size.width], 0.3),
  ...Array.from({ length: size.textDepth }, (_, block) => blockSpecs(`text.blocks.${block}`)).flat(),
  ...normSpecs('text.norm'),
  ...linearSpecs('text.projection', size.width, size.width),
];

/** Gives the weight of a name. */
export type Weights = (name: string) => Tensor;

function dense(weights: Weights, name: string, x: Tensor): Tensor {
  return linear(x, weights(`${name}.weight`), weights(`${name}.bias`));
}

function norm(weights: Weights, name: string, x: Tensor): Tensor {
  return layerNorm(x, weights(`${name}.scale`), weights(`${name}.bias`), { epsilon: 1e-5 });
}

/** A pre-norm transformer block with attention of every token to every token. */
function block(weights: Weights, name: string, x: Tensor): Tensor {
  const [batch, tokens, width] = x.shape as [number, number, number];
  const headWidth = width / size.heads;
  const qkv = reshape(dense(weights, `${name}.qkv`, norm(weights, `${name}.norm1`, x)), [
    batch,
    tokens,
    3,
    size.heads,
    headWidth,
  ]);
  const [q, k, v] = split(transpose(qkv, [2, 0, 3, 1, 4]), 0, [1, 1, 1]).map((part) =>
    reshape(part, [batch, size.heads, tokens, headWidth]),
  ) as [Tensor, Tensor, Tensor];
  const attention = softmax(mul(matMul(q, swapLastAxes(k)), 1 / Math.sqrt(headWidth)), 3);
  const mixed = reshape(transpose(matMul(attention, v), [0, 2, 1, 3]), [batch, tokens, width]);
  const attended = add(x, dense(weights, `${name}.out`, mixed));
  const hidden = gelu(dense(weights, `${name}.mlp.0`, norm(weights, `${name}.norm2`, attended)));
  return add(attended, dense(weights, `${name}.mlp.1`, hidden));
}

/**
 * Embeddings of frames (ViT, Dosovitskiy et al., arXiv 2010.11929, with the mean over patches in place of a class token).
 * @param frames [n, 3, 24, 24], normalised with `pixels`
 * @returns [n, width], of any length
 */
export function embedFrames(weights: Weights, frames: Tensor): Tensor {
  const n = frames.shape[0] ?? 0;
  const side = size.picture / size.patch;
  const cut = transpose(reshape(frames, [n, 3, side, size.patch, side, size.patch]), [0, 2, 4, 1, 3, 5]);
  let x = add(
    dense(weights, 'vision.patch', reshape(cut, [n, patches, patchValues])),
    weights('vision.position'),
  );
  for (let index = 0; index < size.visionDepth; index += 1) x = block(weights, `vision.blocks.${index}`, x);
  return dense(weights, 'vision.projection', reduceMean(norm(weights, 'vision.norm', x), { axes: [1] }));
}

/**
 * Embeddings of captions, taken at the first token.
 * @param tokens int32 [n, textLength]
 * @returns [n, width], of any length
 */
export function embedTexts(weights: Weights, tokens: Tensor): Tensor {
  const n = tokens.shape[0] ?? 0;
  let x = add(gather(weights('text.tokens'), tokens, 0), weights('text.position'));
  for (let index = 0; index < size.textDepth; index += 1) x = block(weights, `text.blocks.${index}`, x);
  const first = reshape(slice(norm(weights, 'text.norm', x), 1, 0, 1), [n, size.width]);
  return dense(weights, 'text.projection', first);
}

/** Vectors of length 1 over the last axis. */
export function unit(x: Tensor): Tensor {
  return div(x, sqrt(add(reduceSum(square(x), { axes: [-1], keepDims: true }), 1e-8)));
}
