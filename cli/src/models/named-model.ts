import { decodeModel } from '@plumb/diffusion';
import type { VideoModel } from '@plumb/diffusion';
import { dataLoss, failedPrecondition } from '@plumb/kit/errors';
import { openFolderStore } from '@plumb/media';
import { builtInModelMediaType } from '@plumb/media/model-media-types';
import type { ModelVersion } from '@plumb/proto/plumb/models/v1/model_pb.js';
import { readModel } from '../demo/shipped-model.ts';
import type { StateFolder } from '../state/state-folder.ts';
import type { ModelRegistry } from './model-registry.ts';
import { withRegistry } from './with-registry.ts';

/** A model that a person named, by its version or by the path of its file. */
export interface NamedModel {
  readonly version: string;
  readonly sha256: string;
  readonly bytes: Uint8Array;
  readonly model: VideoModel;
  /** Its own entry of the registry first, then those of its ancestors; empty for a file. */
  readonly lineage: readonly ModelVersion[];
}

/** A registered version that is not the built-in model: a pipeline, one with adapters, or a remote model. */
export interface StoredVersion {
  readonly entry: ModelVersion;
  readonly weights: {
    readonly uri: string;
    readonly sha256: string;
    readonly mediaType: string;
    /** The folder of the artifact store that they are in. */
    readonly artifacts: string;
  };
  readonly lineage: readonly ModelVersion[];
}

/** True for what can only be a path: versions have an @ and no slash. */
export function isModelPath(name: string): boolean {
  return !name.includes('@') || name.includes('/') || name.endsWith('.safetensors');
}

/**
 * Reads built-in models by version or path. A registry is opened only if a version is among them.
 * @throws PlumbError NOT_FOUND (MODEL_NOT_FOUND) or DATA_LOSS naming the model; FAILED_PRECONDITION for other kinds
 */
export async function readNamedModels(
  names: readonly string[],
  stateFolder: string,
): Promise<readonly NamedModel[]> {
  const found = await readNamedVersions(names, stateFolder);
  return found.map((each) => {
    if (isBuiltIn(each)) return each;
    throw failedPrecondition(
      `${each.entry.version} is no built-in model (${each.weights.mediaType}), which this command reads; \`plumb models show\` says what it is`,
    );
  });
}

/** Whether a model is the built-in one, whose weights are read. */
export function isBuiltIn(found: NamedModel | StoredVersion): found is NamedModel {
  return 'model' in found;
}

/** As {@link readNamedModels}, for models of every kind. */
export async function readNamedVersions(
  names: readonly string[],
  stateFolder: string,
): Promise<readonly (NamedModel | StoredVersion)[]> {
  if (names.every(isModelPath)) return Promise.all(names.map(fromFile));
  const found: (NamedModel | StoredVersion)[] = [];
  await withRegistry(stateFolder, async (registry, state) => {
    for (const name of names) {
      found.push(isModelPath(name) ? await fromFile(name) : await fromRegistry(name, registry, state));
    }
  });
  return found;
}

async function fromFile(path: string): Promise<NamedModel> {
  const { bytes, sha256, config } = await readModel(path);
  return {
    version: `${config.name}@${sha256.slice(0, 12)}`,
    sha256,
    bytes,
    model: decodeModel(bytes, path),
    lineage: [],
  };
}

async function fromRegistry(
  name: string,
  registry: ModelRegistry,
  state: StateFolder,
): Promise<NamedModel | StoredVersion> {
  const entry = await registry.get(name);
  const lineage = [entry];
  const known = new Map((await registry.list()).map((version) => [version.version, version]));
  for (let parent = known.get(entry.parentVersion); parent !== undefined;) {
    // A registry that was written by hand may hold a circle.
    if (lineage.includes(parent)) break;
    lineage.push(parent);
    parent = known.get(parent.parentVersion);
  }
  const { weights, version } = entry;
  if (weights === undefined) throw dataLoss(`the registry has no weights for ${version}; register it again`);
  const artifacts = state.entry('artifacts');
  const { uri, sha256, mediaType } = weights;
  // Versions that were registered without a type are the built-in model's.
  if (mediaType !== '' && mediaType !== builtInModelMediaType) {
    return { entry, weights: { uri, sha256, mediaType, artifacts }, lineage };
  }
  const store = await openFolderStore(artifacts);
  const bytes = await store.get(weights.uri, weights.sha256);
  return { version, sha256: weights.sha256, bytes, model: decodeModel(bytes, version), lineage };
}
