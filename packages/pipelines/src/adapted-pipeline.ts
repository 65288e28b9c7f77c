import { link, mkdir, rename, rm, stat } from 'node:fs/promises';
import { randomUUID } from 'node:crypto';
import { dirname, join } from 'node:path';
import { decodePeftAdapters } from '@plumb/diffusion';
import type { PeftAdapters } from '@plumb/diffusion';
import { dataLoss, invalidArgument, PlumbError } from '@plumb/kit/errors';
import type { StoredArtifact } from '@plumb/media';
import {
  adaptedPipelineMediaType,
  peftAdaptersMediaType,
  pipelineMediaType,
} from '@plumb/media/model-media-types';
import type { LinearLayer } from '@plumb/tensor-graph/onnx-import';
import { changeWeights } from '@plumb/tensor-graph/onnx-weights';
import type { WeightChange } from '@plumb/tensor-graph/onnx-weights';
import { z } from 'zod';
import { fetchPipeline } from './pipeline-artifact.ts';
import type { PipelineStore } from './pipeline-artifact.ts';
import { pipelineDenoiser, rowsOfDenoiser } from './pipeline-denoiser.ts';
import { readPipelineFolder } from './pipeline-folder.ts';
import type { PipelineFolder } from './pipeline-folder.ts';

const reference = z.strictObject({ uri: z.string(), sha256: z.string().regex(/^[0-9a-f]{64}$/) });

/** What a version of media type adapted-pipeline is: adapters, and the pipeline that they belong to. */
const manifestSchema = z.strictObject({
  format: z.literal(1),
  /** The pipeline without adapters. */
  base: reference,
  /** Adapters of its denoiser in the naming of PEFT. */
  adapters: reference,
});

/** A pipeline with adapters on its denoiser, by reference. */
export type AdaptedPipeline = z.output<typeof manifestSchema>;

/** A pipeline of a version in a folder, ready to be read. */
export interface FetchedPipeline {
  readonly folder: PipelineFolder;
  /** The pipeline without adapters: itself where it has none. */
  readonly base: { readonly uri: string; readonly sha256: string };
  readonly adapters: PeftAdapters | undefined;
}

/** A version's weights, of media type pipeline or adapted-pipeline. */
export interface PipelineReference {
  readonly uri: string;
  readonly sha256: string;
  readonly mediaType: string;
}

/**
 * Stores adapters with a reference to their pipeline.
 * @param base of media type pipeline
 * @param adapters a file as `encodePeftAdapters` writes it
 * @returns the manifest, which is the version's weights, and the adapters
 */
export async function storeAdaptedPipeline(
  base: { readonly uri: string; readonly sha256: string },
  adapters: Uint8Array,
  store: Pick<PipelineStore, 'put'>,
): Promise<{ readonly manifest: StoredArtifact; readonly adapters: StoredArtifact }> {
  const stored = await store.put(adapters, { mediaType: peftAdaptersMediaType });
  const manifest: AdaptedPipeline = manifestSchema.parse({
    format: 1,
    base: { uri: base.uri, sha256: base.sha256 },
    adapters: { uri: stored.uri, sha256: stored.sha256 },
  });
  return {
    manifest: await store.put(Buffer.from(JSON.stringify(manifest)), { mediaType: adaptedPipelineMediaType }),
    adapters: stored,
  };
}

/** @throws PlumbError DATA_LOSS (MODEL_CORRUPT) for a manifest that cannot be read; what the store throws */
export async function readAdaptedPipeline(
  { uri, sha256 }: { readonly uri: string; readonly sha256: string },
  store: Pick<PipelineStore, 'get'>,
): Promise<AdaptedPipeline> {
  const bytes = await store.get(uri, sha256);
  try {
    return manifestSchema.parse(JSON.parse(Buffer.from(bytes).toString('utf8')));
  } catch (error) {
    throw dataLoss(`${uri} is no manifest of an adapted pipeline; train or import it again`, {
      reason: 'MODEL_CORRUPT',
      cause: error,
    });
  }
}

/**
 * Fetches a pipeline without its adapters, for training, and the adapters beside it.
 * @throws PlumbError as `fetchPipeline` and `readPipelineFolder`
 */
export async function fetchForTraining(
  weights: PipelineReference,
  store: Pick<PipelineStore, 'get'>,
  cache: string,
): Promise<FetchedPipeline> {
  const adapted =
    weights.mediaType === pipelineMediaType ? undefined : await readAdaptedPipeline(weights, store);
  const base = adapted?.base ?? { uri: weights.uri, sha256: weights.sha256 };
  const { path, precision } = await fetchPipeline(base, store, cache);
  return {
    // Every part was checked against its hash when it was fetched.
    folder: await readPipelineFolder(path, { precision, checkHashes: false }),
    base,
    adapters:
      adapted === undefined
        ? undefined
        : decodePeftAdapters(
            await store.get(adapted.adapters.uri, adapted.adapters.sha256),
            `adapters ${adapted.adapters.sha256.slice(0, 12)}`,
          ),
  };
}

/**
 * Fetches a pipeline as it is sampled: adapters are merged into the weights of the layers that they are on, in a folder of
 * the cache that shares all other files with the base. Merged and not as inputs of the graph, so that sampling costs what it
 * costs without them and any batch is free.
 * @throws PlumbError as `fetchPipeline`, `readPipelineFolder` and `mergeIntoFolder`
 */
export async function fetchForSampling(
  weights: PipelineReference,
  store: Pick<PipelineStore, 'get'>,
  cache: string,
): Promise<PipelineFolder> {
  const fetched = await fetchForTraining(weights, store, cache);
  if (fetched.adapters === undefined) return fetched.folder;
  return await mergeIntoFolder(fetched.folder, fetched.adapters, join(cache, weights.sha256));
}

/**
 * A folder with the pipeline whose denoiser has the adapters in its weights: W + (alpha / rank) B A, in the weights' own
 * precision. A folder that is there already is taken as it is.
 * @param target beside the pipeline's folder, on one file system
 * @throws PlumbError INVALID_ARGUMENT for adapters on layers that the denoiser does not have, or of another size
 */
export async function mergeIntoFolder(
  folder: PipelineFolder,
  adapters: PeftAdapters,
  target: string,
): Promise<PipelineFolder> {
  const { denoiser } = folder;
  const precision = denoiser.path.endsWith('model_fp16.onnx') ? 'float16' : 'float32';
  const read = () => readPipelineFolder(target, { precision, checkHashes: false });
  if (await exists(target)) return await read();
  const { network } = await pipelineDenoiser(folder, rowsOfDenoiser(folder) ?? 1);
  const changes = mergedWeights(network.linearLayers, adapters);
  const graph = folder.files.find((file) => join(folder.path, file) === denoiser.path) ?? '';
  const arriving = join(dirname(target), `.arriving-${randomUUID()}`);
  try {
    for (const file of folder.files) {
      if (file === graph) continue;
      await mkdir(dirname(join(arriving, file)), { recursive: true });
      await link(join(folder.path, file), join(arriving, file));
    }
    await changeWeights(denoiser.path, changes, join(arriving, graph));
    await rename(arriving, target);
  } catch (error) {
    await rm(arriving, { recursive: true, force: true });
    // Another process may have been faster.
    if (!(await exists(target))) throw PlumbError.from(error);
  }
  return await read();
}

/**
 * What adapters make of the weights of their layers.
 * @throws PlumbError INVALID_ARGUMENT naming a layer that is not there, or that has another size
 */
export function mergedWeights(
  layers: readonly LinearLayer[],
  { rank, alpha, modules, parameters }: PeftAdapters,
): Map<string, WeightChange> {
  const byModule = new Map(layers.map((layer) => [layer.module, layer]));
  return new Map(
    modules.map((module): [string, WeightChange] => {
      const layer = byModule.get(module);
      const a = parameters.get(`${module}.lora_A.weight`);
      const b = parameters.get(`${module}.lora_B.weight`);
      if (layer === undefined) {
        throw invalidArgument(
          'adapters',
          `are on ${module}, but the denoiser has no linear layer of that name; its layers are called, for example, ${[...byModule.keys()].slice(-3).join(', ')}`,
        );
      }
      const { inputs, outputs, layout } = layer;
      if (a?.length !== rank * inputs || b?.length !== outputs * rank) {
        throw invalidArgument(
          'adapters',
          `on ${module} do not fit it: it has ${inputs} inputs and ${outputs} outputs; they belong to another model`,
        );
      }
      const change: WeightChange = (values) => {
        const merged = Float32Array.from(values);
        for (let output = 0; output < outputs; output++) {
          for (let input = 0; input < inputs; input++) {
            let sum = 0;
            for (let i = 0; i < rank; i++) sum += (b[output * rank + i] ?? 0) * (a[i * inputs + input] ?? 0);
            const at = layout === 'inputs-first' ? input * outputs + output : output * inputs + input;
            merged[at] = (merged[at] ?? 0) + (alpha / rank) * sum;
          }
        }
        return merged;
      };
      return [layer.weight, change];
    }),
  );
}

async function exists(path: string): Promise<boolean> {
  try {
    await stat(path);
    return true;
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === 'ENOENT') return false;
    throw PlumbError.from(error);
  }
}
