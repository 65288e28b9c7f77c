import type { VideoModelConfig } from './config.ts';
import { initialiseModel, type VideoModel } from './model-file.ts';
import { fillGaussian, randomGenerator } from './random.ts';
import { parameterSpecs } from './video-dit.ts';

/** A model of a few thousand weights with the shape of a real one. */
export const smallConfig: VideoModelConfig = {
  format: 1,
  name: 'small',
  architecture: 'video-dit',
  video: { frames: 4, height: 8, width: 8, fps: 4 },
  pixels: { mean: 0.8, scale: 3 },
  patch: { frames: 2, height: 4, width: 4 },
  hiddenSize: 16,
  depth: 2,
  heads: 2,
  mlpRatio: 2,
  caption: { vocabulary: ['ball', 'blue', 'falls', 'red', 'the'], maxWords: 4, wordWidth: 8 },
  parameterisation: 'flow',
  sigmaData: 0.5,
};

/** Random weights everywhere: fresh ones begin with gates of 0, behind which nothing would be tested. */
export function smallModel(seed: string, config: VideoModelConfig = smallConfig): VideoModel {
  const parameters = new Map(initialiseModel(config, seed).parameters);
  for (const spec of parameterSpecs(config)) {
    const values = parameters.get(spec.name);
    if (values === undefined || spec.initialStd > 0) continue;
    fillGaussian(values, randomGenerator(seed, 'all', spec.name));
    for (let i = 0; i < values.length; i++) values[i] = (values[i] ?? 0) * 0.1;
  }
  return { config, parameters };
}
