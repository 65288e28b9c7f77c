/** The reward optical_flow: how much moves, measured as dense optical flow between consecutive sampled frames. */

import { PlumbError, invalidArgument } from '@plumb/kit/errors';
import { frameOf } from '@plumb/media';
import type { Clip } from '@plumb/media';
import type { Engine } from '@plumb/tensor-graph/engine';
import type { DefinitionOf } from './definition.ts';
import { openFarneback } from './farneback.ts';
import { openFlowModel } from './flow-model.ts';
import { framesToScore } from './frames.ts';
import { readModel } from './read-definitions.ts';
import type { Picture } from './resample.ts';
import type { RewardModule, RewardResult, RewardValue } from './reward.ts';

/** Flow from one frame to the next, in pixels: x and y of every pixel, [height, width, 2]. */
export type FlowEstimator = (from: Picture, to: Picture) => Promise<Float32Array>;

type Definition = DefinitionOf<'optical-flow'>;

/**
 * Mean length of the flow over all pixels and pairs of frames, in pixels a frame. Details: `moving_share`, the share of
 * pixels whose flow is longer than `movingAbove`, and `largest`, the longest of all.
 *
 * @param folder where the paths of the definition start
 * @param openEngine opens an engine; called only when the estimator is an ONNX model
 */
export async function openOpticalFlow(
  definition: Definition,
  folder: string,
  openEngine: () => Promise<Engine>,
): Promise<RewardModule> {
  const { estimator } = definition;
  let engine: Engine | undefined;
  let estimate: FlowEstimator;
  if (estimator.method === 'farneback') {
    estimate = await openFarneback(estimator);
  } else {
    engine = await openEngine();
    const { bytes, weightsFolder } = await readModel(folder, estimator);
    await engine.load('flow', bytes, {
      device: estimator.device ?? 'cpu',
      ...(weightsFolder === undefined ? {} : { weightsFolder }),
    });
    estimate = openFlowModel(engine, 'flow', estimator);
  }

  async function measure(clip: Clip): Promise<RewardValue> {
    const indices = framesToScore(definition, clip);
    if (indices.length < 2) {
      throw invalidArgument(
        'clip.frames',
        `gives ${indices.length} frame to reward '${definition.name}'; flow needs 2 or more`,
      );
    }
    const pictures = indices.map((index) => ({
      width: clip.width,
      height: clip.height,
      data: frameOf(clip, index),
    }));
    let [sum, moving, largest] = [0, 0, 0];
    for (const [index, to] of pictures.slice(1).entries()) {
      const flow = await estimate(pictures[index] ?? to, to);
      for (let at = 0; at < flow.length; at += 2) {
        const length = Math.hypot(flow[at] ?? 0, flow[at + 1] ?? 0);
        sum += length;
        if (length > definition.movingAbove) moving += 1;
        if (length > largest) largest = length;
      }
    }
    const count = (pictures.length - 1) * clip.width * clip.height;
    return { value: sum / count, details: { moving_share: moving / count, largest } };
  }

  return {
    async score(inputs) {
      const results: RewardResult[] = [];
      // One after the other: an estimator uses a whole core, or all of them, for a pair of frames.
      for (const { clip } of inputs) {
        try {
          results.push({ score: await measure(clip) });
        } catch (error) {
          results.push({ error: PlumbError.from(error) });
        }
      }
      return results;
    },
    async close() {
      await engine?.close();
    },
  };
}
