import { add, concat, Graph, mul, split, sub, toOnnx, type Tensor } from '@plumb/tensor-graph';
import { clipShape } from './config.ts';
import type { VideoModel } from './model-file.ts';
import { denoise, parameterSpecs } from './video-dit.ts';

/**
 * ONNX graph of the guided denoiser for a fixed batch: inputs x [batch, 3, frames, height, width], tokens int32
 * [batch, maxWords], the scalars time, skip, in, out, keep and move, and, when guided, the scalar guidance; outputs
 * `prediction` and, one step of `samplerStep` on, `next` = keep * x + move * prediction, both shaped as x. Classifier-free
 * guidance (Ho and Salimans, arXiv 2207.12598) runs both passes as one batch of twice the size: unconditional + guidance * (conditional - unconditional).
 */
export function samplingGraph(model: VideoModel, batch: number, guided: boolean): Uint8Array {
  const { config } = model;
  const graph = new Graph();
  const weights = new Map<string, Tensor>(
    parameterSpecs(config).map((spec) => [spec.name, graph.input(spec.name, 'float32', spec.shape)]),
  );
  const x = graph.input('x', 'float32', clipShape(config, batch));
  const tokens = graph.input('tokens', 'int32', [batch, config.caption.maxWords]);
  const scalar = (name: string): Tensor => graph.input(name, 'float32', [1, 1, 1, 1, 1]);
  const time = graph.input('time', 'float32', [1, 1]);
  const levels = { skip: scalar('skip'), in: scalar('in'), out: scalar('out') };
  const predict = (noised: Tensor, captions: Tensor): Tensor =>
    denoise(config, (name) => weightOf(weights, name), { noised, time, tokens: captions, ...levels });
  const finish = (prediction: Tensor): void => {
    graph.output('prediction', prediction);
    graph.output('next', add(mul(scalar('keep'), x), mul(scalar('move'), prediction)));
  };
  if (guided) {
    const guidance = scalar('guidance');
    const empty = graph.constant(new Int32Array(batch * config.caption.maxWords), tokens.shape);
    const both = predict(concat([x, x], 0), concat([tokens, empty], 0));
    const [conditional, unconditional] = split(both, 0, [batch, batch]) as [Tensor, Tensor];
    finish(add(unconditional, mul(guidance, sub(conditional, unconditional))));
  } else {
    finish(predict(x, tokens));
  }
  return toOnnx(graph, { initialisers: model.parameters, name: config.name });
}

/** The tensor of a weight; a name that the model does not have is a mistake in the program. */
export function weightOf(weights: ReadonlyMap<string, Tensor>, name: string): Tensor {
  const weight = weights.get(name);
  if (weight === undefined) throw new TypeError(`the model has no weights named ${name}`);
  return weight;
}

/** Whether sampling at this guidance needs the unconditional pass. */
export function isGuided(guidance: number): boolean {
  return guidance !== 1;
}
