export {
  adapterSpecs,
  decodeAdapters,
  encodeAdapters,
  mergeAdapters,
  modelHash,
  parseAdapterSettings,
  type Adapters,
  type AdapterSettings,
} from './adapters.ts';
export { clipShape, clipSize, tokenGrid, videoModelConfigSchema, type VideoModelConfig } from './config.ts';
export {
  exampleSource,
  latentExampleSource,
  type ExampleBatch,
  type ExampleSource,
} from './example-source.ts';
export { decodeModel, encodeModel, initialiseModel, type VideoModel } from './model-file.ts';
export {
  defaultNetworkTargets,
  initialiseNetworkAdapters,
  networkAdapters,
  networkAdapterTargets,
  type NetworkAdapterTarget,
} from './network-adapters.ts';
export { discreteNoise, flowNoise, type NetworkDenoiser, type NoiseLevel } from './network-denoiser.ts';
export {
  networkTrainingProgram,
  openNetworkTraining,
  trainedNetworkAdapters,
  type LatentExample,
  type NetworkTrainingOptions,
  type TextEmbedding,
} from './network-training.ts';
export { decodePeftAdapters, encodePeftAdapters, type PeftAdapters } from './peft-file.ts';
export {
  noiseAndTarget,
  preconditioning,
  signalAndNoise,
  type Parameterisation,
} from './parameterisation.ts';
export { clipToModel, modelToClip } from './pixels.ts';
export { fillGaussian, gaussian, randomGenerator, uniform, type RandomGenerator } from './random.ts';
export {
  openSampler,
  samplerSettingsSchema,
  samplerSteps,
  type ClipSampler,
  type SampledClip,
  type SampleRequest,
  type Sampler,
  type SamplerSettings,
} from './sampler.ts';
export { samplingGraph } from './sampling-graph.ts';
export { drawTimestep, timestepDistributionSchema, type TimestepDistribution } from './timesteps.ts';
export { tokenise } from './tokeniser.ts';
export { trainingFeeds, type TrainingExample } from './training-batch.ts';
export { REFERENCE_PREFIX, trainingGraph, type TrainingGraph } from './training-graph.ts';
export { denoise, parameterCount, parameterSpecs, type ParameterSpec } from './video-dit.ts';
export {
  learningRateAt,
  optimisationSettingsSchema,
  parseOptimisationSettings,
  type OptimisationSettings,
} from './optimisation.ts';
export {
  openTraining,
  trainedAdapters,
  trainedModel,
  trainingProgram,
  type TrainingOptions,
  type TrainingProgramOptions,
} from './training.ts';
export type { Training } from './training-loop.ts';
export { decodeTrainingState, encodeTrainingState } from './training-state-file.ts';
