export { openPipeline, toClip } from './pipeline.ts';
export type { Pipeline, PipelineOptions } from './pipeline.ts';
export { readPipelineFolder } from './pipeline-folder.ts';
export type { Component, PipelineFolder, Precision } from './pipeline-folder.ts';
export { fetchPipeline, storePipeline } from './pipeline-artifact.ts';
export type { PipelineStore } from './pipeline-artifact.ts';
export { pipelineCache } from './pipeline-cache.ts';
export { parseRemoteModel } from './remote-model.ts';
export type { RemoteModel } from './remote-model.ts';
export { openRemotePipeline } from './remote-pipeline.ts';
export type { RemoteEndpoint, RemoteEvents } from './remote-pipeline.ts';
export type { Device } from './component-sessions.ts';
export { pipelineDenoiser, rowsOfDenoiser } from './pipeline-denoiser.ts';
export {
  fetchForSampling,
  fetchForTraining,
  mergeIntoFolder,
  readAdaptedPipeline,
  storeAdaptedPipeline,
} from './adapted-pipeline.ts';
export type { FetchedPipeline, PipelineReference } from './adapted-pipeline.ts';
