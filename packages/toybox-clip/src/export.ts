/** Trained towers as ONNX models, with the weights in them. */

import { Graph, toOnnx } from '@plumb/tensor-graph';
import { embedFrames, embedTexts, size, textSpecs, visionSpecs } from './towers.ts';
import type { WeightSpec, Weights } from './towers.ts';
import type { WeightValues } from './train.ts';

/** Frames of one pass of the exported vision tower. */
export const framesPerPass = 16;

function exported(
  specs: readonly WeightSpec[],
  values: WeightValues,
  name: string,
  build: (graph: Graph, weights: Weights) => void,
): Uint8Array {
  const graph = new Graph();
  const tensors = new Map(specs.map((one) => [one.name, graph.parameter(one.name, one.shape)]));
  build(graph, (weight) => {
    const tensor = tensors.get(weight);
    if (tensor === undefined) throw new TypeError(`${name} has no weight ${weight}`);
    return tensor;
  });
  const initialisers = new Map([...values].filter(([weight]) => tensors.has(weight)));
  return toOnnx(graph, { initialisers, name });
}

/** `pixel_values` [framesPerPass, 3, 24, 24] to `image_embeds` [framesPerPass, width]. */
export function visionOnnx(values: WeightValues): Uint8Array {
  return exported(visionSpecs, values, 'toybox-clip-vision', (graph, weights) => {
    const frames = graph.input('pixel_values', 'float32', [framesPerPass, 3, size.picture, size.picture]);
    graph.output('image_embeds', embedFrames(weights, frames));
  });
}

/** `input_ids` int32 [1, textLength] to `text_embeds` [1, width]. */
export function textOnnx(values: WeightValues): Uint8Array {
  return exported(textSpecs, values, 'toybox-clip-text', (graph, weights) => {
    graph.output('text_embeds', embedTexts(weights, graph.input('input_ids', 'int32', [1, size.textLength])));
  });
}
