export { openPipeline, toClip } from './pipeline.ts';
export type { Pipeline, PipelineOptions } from './pipeline.ts';
export { readPipelineFolder } from './pipeline-folder.ts';
export type { Component, PipelineFolder, Precision } from './pipeline-folder.ts';
export { fetchPipeline, pipelineMediaType, storePipeline } from './pipeline-artifact.ts';
export type { PipelineStore } from './pipeline-artifact.ts';
export type { Device } from './component-sessions.ts';
