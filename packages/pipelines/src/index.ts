export { openPipeline } from './pipeline.ts';
export type { Pipeline, PipelineOptions } from './pipeline.ts';
export { architectures, readPipelineFolder } from './pipeline-folder.ts';
export type { Component, PipelineFolder, Precision } from './pipeline-folder.ts';
export type { Device } from './component-sessions.ts';
export type { TileSize } from './tiles.ts';
