import { createHash } from 'node:crypto';
import { readFile } from 'node:fs/promises';
import type { MessageInitShape } from '@bufbuild/protobuf';
import { decodeModel, tokenise } from '@plumb/diffusion';
import type { VideoModel, VideoModelConfig } from '@plumb/diffusion';
import { dataLoss, describeError, invalidArgument, notFound, PlumbError } from '@plumb/kit/errors';
import { openArtifactStore } from '@plumb/media';
import { builtInModelMediaType } from '@plumb/media/model-media-types';
import { ModelState } from '@plumb/proto/plumb/models/v1/model_pb.js';
import type { ModelVersionSchema } from '@plumb/proto/plumb/models/v1/model_pb.js';

export type ModelVersionInit = Exclude<MessageInitShape<typeof ModelVersionSchema>, { $typeName: string }>;

/** Weights that were read and checked, not yet stored anywhere. */
export interface CheckedModel {
  readonly bytes: Uint8Array;
  readonly sha256: string;
  readonly config: VideoModelConfig;
  readonly parameterCount: number;
}

/**
 * Reads a weights file and checks all of it.
 * @throws PlumbError NOT_FOUND or DATA_LOSS naming the file and the fix.
 */
export async function readModel(path: string): Promise<CheckedModel> {
  let bytes: Uint8Array;
  try {
    bytes = await readFile(path);
  } catch (error) {
    const code = (error as NodeJS.ErrnoException).code ?? String(error);
    if (code === 'ENOENT') {
      throw notFound('weights file', path, {
        reason: 'MODEL_NOT_FOUND',
        fix: 'name one with --weights, or get the shipped one back with `git checkout -- models`',
      });
    }
    const { code: status, reason } = PlumbError.from(error);
    throw new PlumbError({ code: status, reason, message: `${path} cannot be read (${code})`, cause: error });
  }
  try {
    const model = decodeModel(bytes, path);
    return {
      bytes,
      sha256: createHash('sha256').update(bytes).digest('hex'),
      config: model.config,
      parameterCount: parameterCountOf(model),
    };
  } catch (error) {
    const what = describeError(error);
    if (path.endsWith('.onnx')) {
      throw invalidArgument(
        path,
        'is an ONNX file, and a weights file of the built-in model is needed; bring other models as pipelines (docs/models.md)',
        { cause: error },
      );
    }
    throw dataLoss(
      `the weights file ${path} is corrupt (${what}); get it again (the shipped one: git checkout -- models)`,
      { reason: 'MODEL_CORRUPT', cause: error },
    );
  }
}

export function parameterCountOf({ parameters }: VideoModel): number {
  return [...parameters.values()].reduce((sum, values) => sum + values.length, 0);
}

/** Puts checked weights into the artifact store, and returns the version that they are. */
export async function storeModel(
  model: Omit<CheckedModel, 'sha256'>,
  artifactFolder: string,
): Promise<ModelVersionInit> {
  const store = await openArtifactStore(artifactFolder);
  const { uri, sha256, size } = await store.put(model.bytes, { mediaType: builtInModelMediaType });
  const { name, video } = model.config;
  return {
    version: `${name}@${sha256.slice(0, 12)}`,
    model: name,
    weights: { uri, sha256, mediaType: builtInModelMediaType, sizeBytes: BigInt(size) },
    state: ModelState.CANDIDATE,
    format: { width: video.width, height: video.height, frameCount: video.frames, fps: video.fps },
    parameterCount: BigInt(model.parameterCount),
    reasons: ['shipped weights'],
  };
}

/**
 * Checks that the model knows every word of the prompts.
 * @throws PlumbError INVALID_ARGUMENT PROMPT_UNKNOWN_WORD naming the prompt, the word and the fix.
 */
export function requireKnownWords(
  config: VideoModelConfig,
  prompts: readonly { readonly id: string; readonly text: string }[],
  source: string,
): void {
  for (const { id, text } of prompts) {
    try {
      tokenise(config, text);
    } catch (error) {
      throw invalidArgument(
        `${source}, prompt ${id}`,
        `${describeError(error)}; use words that the model knows, or a model that knows these`,
        { reason: 'PROMPT_UNKNOWN_WORD', cause: error },
      );
    }
  }
}
