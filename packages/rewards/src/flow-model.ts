/** Optical flow from an ONNX model in the manner of RAFT: two frames in, flow out. */

import { dataLoss } from '@plumb/kit/errors';
import type { Engine, TypedTensor } from '@plumb/tensor-graph/engine';
import type { DefinitionOf } from './definition.ts';
import { asFloat32 } from './float16.ts';
import type { FlowEstimator } from './optical-flow.ts';
import { resample } from './resample.ts';
import type { Picture } from './resample.ts';

type Settings = Extract<DefinitionOf<'optical-flow'>['estimator'], { method: 'onnx' }>;

/** An estimator over a model that the engine has loaded under a name. */
export function openFlowModel(engine: Engine, name: string, settings: Settings): FlowEstimator {
  const { first, second, output, multipleOf, smallestSide } = settings;
  const { black, white } = settings.pixels;

  /** The frame as the model wants it: enlarged where it is too small, and its edges repeated up to whole multiples. */
  function tensorOf(picture: Picture): TypedTensor {
    const [width, height] = [filled(picture.width), filled(picture.height)];
    const data = new Float32Array(3 * width * height);
    for (let y = 0; y < height; y += 1) {
      const fromY = Math.min(y, picture.height - 1);
      for (let x = 0; x < width; x += 1) {
        const at = (fromY * picture.width + Math.min(x, picture.width - 1)) * 3;
        for (let channel = 0; channel < 3; channel += 1) {
          const level = (picture.data[at + channel] ?? 0) / 255;
          data[(channel * height + y) * width + x] = black + (white - black) * level;
        }
      }
    }
    return { dtype: 'float32', shape: [1, 3, height, width], data };
  }

  function filled(side: number): number {
    return Math.ceil(side / multipleOf) * multipleOf;
  }

  return async (from, to) => {
    const factor = Math.max(1, smallestSide / Math.min(from.width, from.height));
    const [width, height] = [Math.round(from.width * factor), Math.round(from.height * factor)];
    const enlarged = [from, to].map((frame) => resample(frame, width, height, 'bilinear')) as [
      Picture,
      Picture,
    ];
    const result = await engine.run(
      name,
      { [first]: tensorOf(enlarged[0]), [second]: tensorOf(enlarged[1]) },
      [output],
    );
    const tensor = result[output];
    const expected = [1, 2, filled(height), filled(width)];
    const flow = asFloat32(tensor);
    if (flow === undefined || tensor?.shape.join() !== expected.join()) {
      throw dataLoss(
        `output ${output} of the flow model is ${tensor?.dtype ?? 'missing'} [${tensor?.shape.join(', ') ?? ''}]; ` +
          `flow is float32 or float16 [${expected.join(', ')}]`,
        { reason: 'MODEL_CORRUPT' },
      );
    }
    return atFrameSize(flow, from, { width, height }, filled(width), filled(height));
  };
}

/**
 * The flow at each pixel of the frame itself: what the model saw beyond its edges is dropped, and lengths are those of the
 * frame's own pixels.
 */
function atFrameSize(
  flow: Float32Array,
  frame: Picture,
  enlarged: { readonly width: number; readonly height: number },
  rowLength: number,
  rows: number,
): Float32Array {
  const out = new Float32Array(frame.width * frame.height * 2);
  const [scaleX, scaleY] = [enlarged.width / frame.width, enlarged.height / frame.height];
  for (let y = 0; y < frame.height; y += 1) {
    const fromY = Math.min(enlarged.height - 1, Math.floor((y + 0.5) * scaleY));
    for (let x = 0; x < frame.width; x += 1) {
      const at = fromY * rowLength + Math.min(enlarged.width - 1, Math.floor((x + 0.5) * scaleX));
      const to = (y * frame.width + x) * 2;
      out[to] = (flow[at] ?? 0) / scaleX;
      out[to + 1] = (flow[rows * rowLength + at] ?? 0) / scaleY;
    }
  }
  return out;
}
