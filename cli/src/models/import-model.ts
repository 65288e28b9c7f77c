import { mkdtemp, readFile, rm, stat } from 'node:fs/promises';
import { availableParallelism, tmpdir } from 'node:os';
import { join } from 'node:path';
import type { ClipSampler, SampledClip } from '@plumb/diffusion';
import {
  decodeModel,
  decodePeftAdapters,
  defaultNetworkTargets,
  networkAdapterTargets,
  networkTrainingProgram,
  openSampler,
  parseAdapterSettings,
  parseOptimisationSettings,
} from '@plumb/diffusion';
import { failedPrecondition, invalidArgument, notFound, PlumbError } from '@plumb/kit/errors';
import { encodePreview, openFolderStore } from '@plumb/media';
import {
  adaptedPipelineMediaType,
  hasLatents,
  pipelineMediaType,
  remoteModelMediaType,
} from '@plumb/media/model-media-types';
import { parseObjectiveSettings } from '@plumb/objective';
import {
  fetchForTraining,
  mergeIntoFolder,
  openPipeline,
  parseRemoteModel,
  pipelineDenoiser,
  readPipelineFolder,
  rowsOfDenoiser,
  storeAdaptedPipeline,
  storePipeline,
} from '@plumb/pipelines';
import type { PipelineFolder, Precision } from '@plumb/pipelines';
import { ModelState } from '@plumb/proto/plumb/models/v1/model_pb.js';
import type { ModelVersion } from '@plumb/proto/plumb/models/v1/model_pb.js';
import { sizeOf } from '@plumb/tensor-graph';
import { openEngine } from '@plumb/tensor-graph/engine';
import type { Engine } from '@plumb/tensor-graph/engine';
import { readModel, storeModel } from '../demo/shipped-model.ts';
import type { ModelVersionInit } from '../demo/shipped-model.ts';

/** What a golden sample is made of. */
export interface GoldenRequest {
  /** The pipeline's own recommendation unless given. */
  readonly steps?: number | undefined;
  readonly guidance?: number | undefined;
  /** A prompt for it; a plain one unless given. */
  readonly prompt?: string | undefined;
  readonly seed: bigint;
}

/** A component of a pipeline, for people. */
export interface ComponentReport {
  readonly name: string;
  readonly file: string;
  readonly opset: number;
  readonly parameters: number;
  readonly weightBytes: number;
  readonly operators: readonly string[];
}

/** Whether adapters on the usual layers can be trained, or what stands in the way. */
export type Trainability =
  | {
      readonly layers: number;
      /** Of the adapters, for each of their ranks. */
      readonly parametersPerRank: number;
    }
  | { readonly obstacle: string };

/** What was found, measured and registered. */
export interface ImportReport {
  readonly version: string;
  readonly sha256: string;
  readonly kind: string;
  readonly licence: string;
  readonly parameters: number;
  readonly format: { width: number; height: number; frames: number; fps: number };
  readonly components: readonly ComponentReport[];
  readonly scheduler: string;
  /** Of a pipeline; a built-in model is always trained, a remote one never. */
  readonly training?: Trainability;
  /** Absent for a remote model, whose clips cost money. */
  readonly golden?: {
    readonly prompt: string;
    readonly steps: number;
    readonly guidance: number;
    readonly seed: string;
    /** Of the clip, lossless. */
    readonly seconds: number;
    /** Animated WebP. */
    readonly picture: Uint8Array;
  };
  /** Memory of all weights at once, in bytes; activations come on top. */
  readonly weightBytes: number;
}

/** A model that was read, checked and sampled once, not yet stored. */
export interface ImportedModel {
  readonly report: Omit<ImportReport, 'version' | 'sha256'>;
  /** Puts it into an artifact store and returns the version that it is. */
  readonly store: (artifactFolder: string) => Promise<ModelVersionInit>;
}

/**
 * Reads a model, a pipeline's folder or the file of a built-in model, checks everything about it and samples one clip,
 * so that a model which cannot be sampled is never registered.
 * @throws PlumbError naming the file and the fix
 */
export async function readImport(
  path: string,
  golden: GoldenRequest,
  precision: Precision,
): Promise<ImportedModel> {
  const isFolder = await isDirectory(path);
  if (!isFolder && path.endsWith('.json')) return await importRemote(path);
  if (!isFolder && path.endsWith('.onnx')) {
    throw invalidArgument(
      'path',
      `${path} is one graph, and a model is a folder of them: text encoder, denoiser, decoder, scheduler and tokeniser in the layout of diffusers; name the folder (docs/models.md)`,
    );
  }
  const engine = await openEngine({ intraOpThreads: availableParallelism() });
  try {
    return isFolder
      ? await importPipeline(engine, await readPipelineFolder(path, { precision }), golden, precision)
      : await importFile(engine, path, golden);
  } finally {
    await engine.close();
  }
}

/**
 * Reads adapters of another tool for a registered pipeline, merges them to see that they fit, and samples one clip.
 * @param base of kind pipeline, with adapters or without; those that it has are replaced
 * @param artifactFolder where the base's files are
 * @throws PlumbError naming the file and the fix
 */
export async function readAdapterImport(
  path: string,
  base: ModelVersion,
  artifactFolder: string,
  request: GoldenRequest,
): Promise<ImportedModel> {
  const { weights, version, model, format, parameterCount, sampler } = base;
  if (weights === undefined || !hasLatents(weights.mediaType)) {
    throw failedPrecondition(
      `${version} is no pipeline, and adapters in the naming of PEFT are of pipelines; name one with --base`,
    );
  }
  const bytes = await readFile(path);
  const adapters = decodePeftAdapters(bytes, path);
  const store = await openFolderStore(artifactFolder);
  const folder = await mkdtemp(join(tmpdir(), 'plumb-adapters-'));
  const engine = await openEngine({ intraOpThreads: availableParallelism() });
  try {
    const fetched = await fetchForTraining(weights, store, folder);
    const merged = await mergeIntoFolder(fetched.folder, adapters, join(folder, 'merged'));
    const { report } = await importPipeline(engine, merged, request, 'float32');
    return {
      report: { ...report, kind: `${report.kind} with adapters of rank ${adapters.rank} on ${adapters.modules.length} layers` },
      async store() {
        const { manifest } = await storeAdaptedPipeline(fetched.base, bytes, store);
        return {
          version: `${model}@${manifest.sha256.slice(0, 12)}`,
          model,
          weights: {
            uri: manifest.uri,
            sha256: manifest.sha256,
            mediaType: adaptedPipelineMediaType,
            sizeBytes: BigInt(manifest.size),
          },
          state: ModelState.CANDIDATE,
          parentVersion: version,
          ...(format === undefined ? {} : { format }),
          ...(sampler === undefined ? {} : { sampler }),
          parameterCount,
          reasons: [`imported adapters of ${version}`],
        };
      },
    };
  } finally {
    await engine.close();
    await rm(folder, { recursive: true, force: true });
  }
}

async function isDirectory(path: string): Promise<boolean> {
  try {
    return (await stat(path)).isDirectory();
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code !== 'ENOENT') throw PlumbError.from(error);
    throw notFound('file or folder', path, {
      reason: 'FILE_NOT_FOUND',
      fix: "name a pipeline's folder or a .safetensors file",
      cause: error,
    });
  }
}

async function importPipeline(
  engine: Engine,
  folder: PipelineFolder,
  request: GoldenRequest,
  precision: Precision,
): Promise<ImportedModel> {
  const { settings, architecture, scheduler } = folder;
  const components = [folder.textEncoder, folder.denoiser, folder.decoder];
  const pipeline = openPipeline(engine, folder, { batch: 1 });
  const sampled = await goldenSample(pipeline, {
    prompt: request.prompt ?? 'a red ball rolls off the table',
    steps: request.steps ?? settings.steps,
    guidance: request.guidance ?? settings.guidance,
    seed: request.seed,
  });
  const parameters = components.reduce((sum, component) => sum + component.parameters, 0);
  return {
    report: {
      kind: architecture.pipeline,
      licence: settings.licence,
      parameters,
      format: {
        width: settings.width,
        height: settings.height,
        frames: sampled.clip.frames,
        fps: settings.fps,
      },
      components: components.map(({ name, path, opset, operators, weightBytes, parameters: own }) => ({
        name,
        file: path,
        opset,
        parameters: own,
        weightBytes,
        operators,
      })),
      scheduler: scheduler.kind,
      training: await trainability(folder),
      golden: sampled.golden,
      weightBytes: components.reduce((sum, { weightBytes }) => sum + weightBytes, 0),
    },
    async store(artifactFolder) {
      const manifest = await storePipeline(folder, precision, await openFolderStore(artifactFolder));
      return {
        version: `${settings.name}@${manifest.sha256.slice(0, 12)}`,
        model: settings.name,
        weights: {
          uri: manifest.uri,
          sha256: manifest.sha256,
          mediaType: pipelineMediaType,
          sizeBytes: BigInt(manifest.size),
        },
        state: ModelState.CANDIDATE,
        format: {
          width: sampled.clip.width,
          height: sampled.clip.height,
          frameCount: sampled.clip.frames,
          fps: settings.fps,
        },
        parameterCount: BigInt(parameters),
        // A shift of 1 leaves the pipeline's scheduler as it is configured.
        sampler: { steps: settings.steps, guidance: settings.guidance, shift: 1 },
        reasons: [`imported; licence ${settings.licence === '' ? 'not stated' : settings.licence}`],
      };
    },
  };
}

/**
 * Builds the gradients that a training job would, without weights. A model that cannot be trained can still be sampled and
 * judged, and so is imported.
 */
async function trainability(folder: PipelineFolder): Promise<Trainability> {
  const adapters = parseAdapterSettings({ rank: 1, targets: [...defaultNetworkTargets] });
  const rows = rowsOfDenoiser(folder) ?? 1;
  const objective = parseObjectiveSettings({ algorithm: 'rwr' });
  const optimisation = parseOptimisationSettings({
    steps: 1,
    batchSize: rows,
    learningRate: 1e-4,
    captionDropout: 0,
    rematerialise: 'blocks',
  });
  try {
    const denoiser = await pipelineDenoiser(folder, rows);
    const targets = networkAdapterTargets(denoiser.network.linearLayers, adapters);
    networkTrainingProgram({ denoiser, adapters, objective, optimisation });
    return {
      layers: targets.length,
      parametersPerRank: targets.reduce((sum, { a, b }) => sum + sizeOf(a.shape) + sizeOf(b.shape), 0),
    };
  } catch (thrown) {
    const error = PlumbError.from(thrown);
    if (error.code !== 'UNIMPLEMENTED' && error.code !== 'INVALID_ARGUMENT') throw thrown;
    return { obstacle: error.message };
  }
}

async function importRemote(path: string): Promise<ImportedModel> {
  const bytes = await readFile(path);
  const { name, endpoint, model, licence, width, height, frames, fps } = parseRemoteModel(bytes, path);
  return {
    report: {
      kind: `remote model ${model} at endpoint ${endpoint}`,
      licence,
      parameters: 0,
      format: { width, height, frames, fps },
      components: [],
      scheduler: 'the endpoint knows',
      weightBytes: 0,
    },
    async store(artifactFolder) {
      const store = await openFolderStore(artifactFolder);
      const { uri, sha256, size } = await store.put(bytes, { mediaType: remoteModelMediaType });
      return {
        version: `${name}@${sha256.slice(0, 12)}`,
        model: name,
        weights: { uri, sha256, mediaType: remoteModelMediaType, sizeBytes: BigInt(size) },
        state: ModelState.CANDIDATE,
        format: { width, height, frameCount: frames, fps },
        reasons: ['imported remote model: it can be sampled and judged, not trained'],
      };
    },
  };
}

async function importFile(engine: Engine, path: string, request: GoldenRequest): Promise<ImportedModel> {
  const checked = await readModel(path);
  const { config } = checked;
  const prompt = request.prompt ?? config.caption.vocabulary.slice(0, 1).join(' ');
  const sampled = await goldenSample(openSampler(engine, decodeModel(checked.bytes, path), 1), {
    prompt,
    steps: request.steps ?? 20,
    guidance: request.guidance ?? 1.5,
    seed: request.seed,
  });
  return {
    report: {
      kind: 'built-in video model',
      licence: '',
      parameters: checked.parameterCount,
      format: config.video,
      components: [],
      scheduler: config.parameterisation,
      golden: sampled.golden,
      weightBytes: checked.bytes.length,
    },
    store: async (artifactFolder) => ({ ...(await storeModel(checked, artifactFolder)), reasons: ['imported'] }),
  };
}

async function goldenSample(
  sampler: ClipSampler,
  { prompt, steps, guidance, seed }: { prompt: string; steps: number; guidance: number; seed: bigint },
): Promise<{ clip: SampledClip; golden: NonNullable<ImportReport['golden']> }> {
  const start = performance.now();
  const [clip] = await sampler.sampleEach([{ caption: prompt, seed }], { steps, guidance, shift: 1 });
  if (clip === undefined) throw new TypeError('one request gave no clip');
  if (clip instanceof PlumbError) throw clip;
  const seconds = (performance.now() - start) / 1000;
  const scale = Math.max(1, Math.min(4, Math.floor(512 / clip.width)));
  const picture = await encodePreview(clip, { scale, format: 'webp' });
  return { clip, golden: { prompt, steps, guidance, seed: String(seed), seconds, picture } };
}
