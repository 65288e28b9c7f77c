import { mkdtemp, rename, rm } from 'node:fs/promises';
import { join } from 'node:path';
import { decodePeftAdapters } from '@plumb/diffusion';
import { failedPrecondition, invalidArgument } from '@plumb/kit/errors';
import { openFolderStore } from '@plumb/media';
import {
  adaptedPipelineMediaType,
  pipelineMediaType,
  remoteModelMediaType,
} from '@plumb/media/model-media-types';
import { fetchPipeline, parseRemoteModel, readAdaptedPipeline } from '@plumb/pipelines';
import type { PeftAdapters } from '@plumb/diffusion';
import { writeWhole } from '../state/state-folder.ts';
import type { LayerDifference } from './compare-models.ts';
import type { StoredVersion } from './named-model.ts';

/** What is in a version that is not the built-in model, for people. */
export async function describeVersion({ weights, entry }: StoredVersion): Promise<Record<string, unknown>> {
  const { format, sampler } = entry;
  const common = {
    kind: kinds[weights.mediaType] ?? weights.mediaType,
    ...(format === undefined
      ? {}
      : {
          video: `${format.frameCount} frames of ${format.width}x${format.height} at ${format.fps} a second`,
        }),
    ...(sampler === undefined
      ? {}
      : { sampler: `${sampler.steps} steps, guidance ${sampler.guidance}, shift ${sampler.shift}` }),
  };
  switch (weights.mediaType) {
    case adaptedPipelineMediaType: {
      const { base, adapters } = await readAdapters({ weights, entry });
      const { rank, alpha, modules } = adapters;
      return {
        ...common,
        pipeline: `${entry.model}@${base.slice(0, 12)}`,
        adapters: `rank ${rank}, alpha ${alpha}, on ${modules.length} layers`,
        layers: modules,
      };
    }
    case remoteModelMediaType: {
      const store = await openFolderStore(weights.artifacts);
      const bytes = await store.get(weights.uri, weights.sha256);
      const { endpoint, model, licence } = parseRemoteModel(bytes, entry.version);
      return { ...common, endpoint, model, licence: licence === '' ? 'not stated' : licence };
    }
    default:
      return common;
  }
}

const kinds: Readonly<Record<string, string>> = {
  [pipelineMediaType]: 'pipeline',
  [adaptedPipelineMediaType]: 'pipeline with adapters',
  [remoteModelMediaType]: 'remote model',
};

/**
 * Writes a version into a folder: a pipeline as it was imported, adapters as other tools read them, the definition of a remote
 * model.
 * @returns what was written
 */
export async function exportVersion(version: StoredVersion, folder: string): Promise<string> {
  const { weights, entry } = version;
  const store = await openFolderStore(weights.artifacts);
  const target = join(folder, entry.version.replace('@', '-'));
  switch (weights.mediaType) {
    case pipelineMediaType: {
      const arriving = await mkdtemp(join(folder, '.exporting-'));
      try {
        const { path } = await fetchPipeline(weights, store, arriving);
        await rename(path, target);
      } finally {
        await rm(arriving, { recursive: true, force: true });
      }
      return target;
    }
    case adaptedPipelineMediaType: {
      const { adapters } = await readAdaptedPipeline(weights, store);
      await writeWhole(`${target}.safetensors`, await store.get(adapters.uri, adapters.sha256));
      return `${target}.safetensors`;
    }
    case remoteModelMediaType:
      await writeWhole(`${target}.json`, await store.get(weights.uri, weights.sha256));
      return `${target}.json`;
    default:
      throw invalidArgument('version', `${entry.version} is of kind ${weights.mediaType}, which nothing writes`);
  }
}

/**
 * How far the adapters of two versions of one pipeline are apart, layer by layer: of the changes that they make to weights.
 * @throws PlumbError FAILED_PRECONDITION for anything else
 */
export async function compareVersions(a: StoredVersion, b: StoredVersion): Promise<LayerDifference[]> {
  const both = [a, b];
  const other = both.find(({ weights }) => weights.mediaType !== adaptedPipelineMediaType);
  if (other !== undefined) {
    throw failedPrecondition(
      `${other.entry.version} is a ${kinds[other.weights.mediaType] ?? other.weights.mediaType}; built-in models are compared with each other, and adapters of one pipeline`,
    );
  }
  const [one, two] = [await readAdapters(a), await readAdapters(b)];
  if (one.base !== two.base) {
    throw failedPrecondition(
      `${a.entry.version} and ${b.entry.version} are adapters of two pipelines (${one.base.slice(0, 12)} and ${two.base.slice(0, 12)}); compare those of one`,
    );
  }
  const modules = [...new Set([...one.adapters.modules, ...two.adapters.modules])];
  return modules.map((module) => {
    const before = changeOf(one.adapters, module);
    const after = changeOf(two.adapters, module);
    const shape = before?.shape ?? after?.shape ?? [0, 0];
    const empty = new Float32Array((shape[0] ?? 0) * (shape[1] ?? 0));
    const [x, y] = [before?.values ?? empty, after?.values ?? empty];
    let squares = 0;
    let changes = 0;
    let largestChange = 0;
    for (let i = 0; i < x.length; i++) {
      const change = Math.abs((y[i] ?? 0) - (x[i] ?? 0));
      squares += (x[i] ?? 0) ** 2;
      changes += change * change;
      largestChange = Math.max(largestChange, change);
    }
    return {
      name: module,
      shape,
      relativeChange: changes === 0 ? 0 : Math.sqrt(changes / squares),
      largestChange,
    };
  });
}

async function readAdapters({
  weights,
  entry,
}: Pick<StoredVersion, 'weights' | 'entry'>): Promise<{ readonly base: string; readonly adapters: PeftAdapters }> {
  const store = await openFolderStore(weights.artifacts);
  const { base, adapters } = await readAdaptedPipeline(weights, store);
  const bytes = await store.get(adapters.uri, adapters.sha256);
  return { base: base.sha256, adapters: decodePeftAdapters(bytes, `adapters of ${entry.version}`) };
}

/** What adapters add to a layer's weights, [outputs, inputs]. */
function changeOf(
  { rank, alpha, parameters }: PeftAdapters,
  module: string,
): { readonly shape: readonly number[]; readonly values: Float32Array } | undefined {
  const a = parameters.get(`${module}.lora_A.weight`);
  const b = parameters.get(`${module}.lora_B.weight`);
  if (a === undefined || b === undefined) return undefined;
  const [outputs, inputs] = [b.length / rank, a.length / rank];
  const values = new Float32Array(outputs * inputs);
  for (let output = 0; output < outputs; output++) {
    for (let input = 0; input < inputs; input++) {
      let sum = 0;
      for (let i = 0; i < rank; i++) sum += (b[output * rank + i] ?? 0) * (a[i * inputs + input] ?? 0);
      values[output * inputs + input] = (alpha / rank) * sum;
    }
  }
  return { shape: [outputs, inputs], values };
}
