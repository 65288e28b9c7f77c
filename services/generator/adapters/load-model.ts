import { decodeModel, openSampler } from '@plumb/diffusion';
import type { ClipSampler } from '@plumb/diffusion';
import { failedPrecondition, invalidArgument } from '@plumb/kit/errors';
import {
  adaptedPipelineMediaType,
  builtInModelMediaType,
  pipelineMediaType,
  remoteModelMediaType,
} from '@plumb/media/model-media-types';
import { fetchForSampling, openPipeline, openRemotePipeline, parseRemoteModel } from '@plumb/pipelines';
import type { PipelineOptions } from '@plumb/pipelines';
import type { Engine } from '@plumb/tensor-graph/engine';
import type { RemoteEndpoints } from './remote-endpoints.ts';
import type { ModelWeights } from '../domain/generation.ts';

/** Reads a model and checks it; what it returns opens it on an engine. */
export type ModelLoader = (model: ModelWeights) => Promise<(engine: Engine) => ClipSampler>;

/** The parts of an artifact store that loading a model needs. */
export interface ModelSource {
  /** The bytes behind a URI, checked against their hash. */
  get(uri: string, sha256: string): Promise<Uint8Array>;
}

/**
 * Loads models of every kind: the built-in video model from one safetensors file, a pipeline from its manifest,
 * with adapters merged where it has some, a remote model from its definition.
 * @param cache folder that pipelines are unpacked in
 */
export function modelLoader(
  artifacts: ModelSource,
  cache: string,
  pipeline: PipelineOptions,
  endpoints: RemoteEndpoints,
): ModelLoader {
  return async (model) => {
    switch (model.mediaType) {
      case pipelineMediaType:
      case adaptedPipelineMediaType: {
        const folder = await fetchForSampling(model, artifacts, cache);
        return (engine) => openPipeline(engine, folder, pipeline);
      }
      case remoteModelMediaType: {
        const bytes = await artifacts.get(model.uri, model.sha256);
        const definition = parseRemoteModel(bytes, `definition of ${model.version}`);
        const endpoint = endpoints.get(definition.endpoint);
        if (endpoint === undefined) {
          throw failedPrecondition(
            `${model.version} is asked for at endpoint '${definition.endpoint}', which this generator does not know; put it into the file of PLUMB_REMOTE_ENDPOINTS (known: ${[...endpoints.keys()].join(', ') || 'none'})`,
          );
        }
        return () => openRemotePipeline(definition, endpoint);
      }
      // Versions that were registered without a type are the built-in model's.
      case '':
      case builtInModelMediaType: {
        const bytes = await artifacts.get(model.uri, model.sha256);
        const decoded = decodeModel(bytes, `weights of ${model.version}`);
        return (engine) => openSampler(engine, decoded, pipeline.batch);
      }
      default:
        throw invalidArgument(
          'model.weights.media_type',
          `is ${model.mediaType}, which is no kind of model; use ${builtInModelMediaType}, ${pipelineMediaType}, ${adaptedPipelineMediaType} or ${remoteModelMediaType}`,
        );
    }
  };
}
