/** What toybox-clip is trained on, as graphs: the contrastive loss of CLIP, and the preference loss of PickScore. */

import {
  Graph,
  add,
  exp,
  logSoftmax,
  matMul,
  minimum,
  mul,
  neg,
  reduceMean,
  reduceSum,
  reshape,
  sigmoid,
  softplus,
  sub,
  swapLastAxes,
  cast,
  greater,
} from '@plumb/tensor-graph';
import type { Tensor } from '@plumb/tensor-graph';
import { framesPerClip } from './clip-pixels.ts';
import { embedFrames, embedTexts, size, textSpecs, unit, visionSpecs } from './towers.ts';
import type { WeightSpec, Weights } from './towers.ts';

/** Logarithm of the scale of cosines, learned beside the towers; at most log 100, as in CLIP. */
export const scaleSpec: WeightSpec = {
  name: 'logitScale',
  shape: [1],
  initialStd: 0,
  initialMean: Math.log(10),
};

/** A loss with what is trained and reported. */
export interface LossGraph {
  readonly graph: Graph;
  readonly loss: Tensor;
  readonly metrics: Readonly<Record<string, Tensor>>;
}

function weightsOf(graph: Graph): Weights {
  const tensors = new Map(
    [...visionSpecs, ...textSpecs, scaleSpec].map(({ name, shape }) => [name, graph.parameter(name, shape)]),
  );
  return (name) => {
    const tensor = tensors.get(name);
    if (tensor === undefined) throw new TypeError(`toybox-clip has no weight ${name}`);
    return tensor;
  };
}

/** Mean over a clip's frames of their unit embeddings: its product with a unit text embedding is the mean cosine. */
function embedClips(weights: Weights, frames: Tensor, clips: number): Tensor {
  return reduceMean(reshape(unit(embedFrames(weights, frames)), [clips, framesPerClip, size.width]), {
    axes: [1],
  });
}

function frameInput(graph: Graph, name: string, clips: number): Tensor {
  return graph.input(name, 'float32', [clips * framesPerClip, 3, size.picture, size.picture]);
}

/** Scale of cosines, [1]. */
function scaleOf(weights: Weights): Tensor {
  return exp(minimum(weights(scaleSpec.name), Math.log(100)));
}

/**
 * The symmetric contrastive loss (Radford et al., arXiv 2103.00020): each clip of the batch finds its caption among all of
 * the batch, and each caption its clip. Inputs `frames` and `tokens`, one row a clip; no caption may be there twice.
 */
export function contrastiveGraph(batch: number): LossGraph {
  const graph = new Graph();
  const weights = weightsOf(graph);
  const clips = embedClips(weights, frameInput(graph, 'frames', batch), batch);
  const texts = unit(embedTexts(weights, graph.input('tokens', 'int32', [batch, size.textLength])));
  const logits = mul(scaleOf(weights), matMul(clips, swapLastAxes(texts)));
  const diagonal = new Float32Array(batch * batch);
  for (let row = 0; row < batch; row += 1) diagonal[row * (batch + 1)] = 1 / batch;
  const matching = graph.constant(diagonal, [batch, batch]);
  const entropy = (axis: number): Tensor => neg(reduceSum(mul(matching, logSoftmax(logits, axis))));
  const loss = mul(add(entropy(1), entropy(0)), 0.5);
  return { graph, loss, metrics: { scale: reduceMean(scaleOf(weights)) } };
}

/**
 * The preference loss (Kirstain et al., arXiv 2305.01569): of two clips for one caption, the accepted one shall have the
 * higher scaled cosine. Inputs `accepted`, `rejected` and `tokens`, one row a pair. The scale is `steepness`.
 */
export function preferenceGraph(batch: number, steepness: number): LossGraph {
  const graph = new Graph();
  const weights = weightsOf(graph);
  const texts = unit(embedTexts(weights, graph.input('tokens', 'int32', [batch, size.textLength])));
  const cosine = (name: string): Tensor =>
    reduceSum(mul(embedClips(weights, frameInput(graph, name, batch), batch), texts), { axes: [1] });
  const margin = mul(sub(cosine('accepted'), cosine('rejected')), steepness);
  const loss = reduceMean(softplus(neg(margin)));
  const accuracy = reduceMean(cast(greater(margin, 0), 'float32'));
  return { graph, loss, metrics: { accuracy, confidence: reduceMean(sigmoid(margin)) } };
}
