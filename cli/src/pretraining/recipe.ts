import type { OptimisationSettings, SamplerSettings, VideoModelConfig } from '@plumb/diffusion';
import { longestCaption, vocabulary, type Category } from '@plumb/toybox';

/** The shipped model: 1.8 million weights, 144 tokens a clip. */
export const toyboxConfig: VideoModelConfig = {
  format: 1,
  name: 'toybox',
  architecture: 'video-dit',
  video: { frames: 8, height: 24, width: 24, fps: 8 },
  // The background is near 0, so that the model's effort goes into objects.
  pixels: { mean: 0.8, scale: 3 },
  // Fewer, larger tokens learned worse; more are slower by their square.
  patch: { frames: 2, height: 4, width: 4 },
  hiddenSize: 128,
  depth: 5,
  heads: 4,
  mlpRatio: 4,
  caption: { vocabulary: [...vocabulary], maxWords: longestCaption, wordWidth: 64 },
  parameterisation: 'flow',
  // Measured over 200 clips: 0.49.
  sigmaData: 0.49,
};

/** Optimisation of pretraining; `steps` is the option that people change. */
export function pretrainingOptimisation(steps: number): OptimisationSettings {
  return {
    steps,
    batchSize: 32,
    learningRate: 1.5e-3,
    weightDecay: 0.01,
    warmupSteps: Math.min(100, Math.floor(steps / 10)),
    schedule: 'trapezoid',
    clipNorm: 1,
    emaDecay: 0.998,
    captionDropout: 0.1,
    rematerialise: 'none',
    precision: 'float32',
    timesteps: { kind: 'logit-normal', mean: 1.3, std: 1.3 },
  };
}

/** How the model card's clips are sampled, and what `plumb demo` uses. */
export const toyboxSampler: SamplerSettings = { steps: 20, guidance: 1.5, shift: 3.5 };

/** What pretraining clips are drawn from, from a step on. */
export interface MixturePhase {
  readonly fromStep: number;
  /** Share of clips that do not do what their caption says: what feedback has to repair. */
  readonly wrongShare: number;
  /** How often each category is drawn, relative to the others. */
  readonly categoryWeights: Readonly<Partial<Record<Category, number>>>;
}

/** Deformation is learned last, so that it gets more clips in the second part. */
export const toyboxMixture: readonly MixturePhase[] = [
  { fromStep: 0, wrongShare: 0.6, categoryWeights: {} },
  { fromStep: 2000, wrongShare: 0.6, categoryWeights: { DO: 2 } },
];
