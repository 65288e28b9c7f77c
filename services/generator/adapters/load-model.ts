import { decodeModel, openSampler } from '@plumb/diffusion';
import type { ClipSampler } from '@plumb/diffusion';
import { invalidArgument } from '@plumb/kit/errors';
import { fetchPipeline, openPipeline, pipelineMediaType, readPipelineFolder } from '@plumb/pipelines';
import type { PipelineOptions } from '@plumb/pipelines';
import type { Engine } from '@plumb/tensor-graph/engine';
import type { ModelWeights } from '../domain/generation.ts';

/** Reads a model and checks it; what it returns opens it on an engine. */
export type ModelLoader = (model: ModelWeights) => Promise<(engine: Engine) => ClipSampler>;

/** The parts of an artifact store that loading a model needs. */
export interface ModelSource {
  /** The bytes behind a URI, checked against their hash. */
  get(uri: string, sha256: string): Promise<Uint8Array>;
}

/** The media type that the built-in model's weights are stored under. */
const builtInMediaType = 'application/vnd.plumb.video-model+safetensors';

/**
 * Loads models of either kind: the built-in video model from one safetensors file, a pipeline from its manifest.
 * @param cache folder that pipelines are unpacked in
 */
export function modelLoader(artifacts: ModelSource, cache: string, pipeline: PipelineOptions): ModelLoader {
  return async (model) => {
    switch (model.mediaType) {
      case pipelineMediaType: {
        const { path, precision } = await fetchPipeline(model, artifacts, cache);
        // Every part was checked against its hash when it was fetched.
        const folder = await readPipelineFolder(path, { precision, checkHashes: false });
        return (engine) => openPipeline(engine, folder, pipeline);
      }
      // Versions that were registered without a type are the built-in model's.
      case '':
      case builtInMediaType: {
        const bytes = await artifacts.get(model.uri, model.sha256);
        const decoded = decodeModel(bytes, `weights of ${model.version}`);
        return (engine) => openSampler(engine, decoded, pipeline.batch);
      }
      default:
        throw invalidArgument(
          'model.weights.media_type',
          `is ${model.mediaType}, which is no kind of model; use ${builtInMediaType} or ${pipelineMediaType}`,
        );
    }
  };
}
