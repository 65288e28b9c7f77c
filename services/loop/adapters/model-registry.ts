import { create } from '@bufbuild/protobuf';
import { messageCodec } from '@plumb/kit/bus';
import type { Bus, KeyValue } from '@plumb/kit/bus';
import { alreadyExists, notFound, PlumbError } from '@plumb/kit/errors';
import { ModelState, ModelVersionSchema } from '@plumb/proto/plumb/models/v1/model_pb.js';
import type { ModelVersion } from '@plumb/proto/plumb/models/v1/model_pb.js';

/** The bucket that generators watch. */
export const modelBucket = 'plumb_models';

const versionKey = (version: string): string => `version.${version.slice(version.lastIndexOf('@') + 1)}`;
const promotedKey = (model: string): string => `promoted.${model}`;

/**
 * Versions of models, and which of each line is promoted, in a JetStream bucket: `version.<first 12 of the weights' SHA-256>`
 * and `promoted.<model name>` both hold a whole ModelVersion, so that a watcher needs no second read.
 */
export interface ModelRegistry {
  /** The version, or the promoted one for `<model>@promoted`. Throws NOT_FOUND. */
  get(version: string): Promise<ModelVersion>;
  /** All versions, of one line or of all, sorted by version. */
  list(model?: string): Promise<ModelVersion[]>;
  /** Adds a version; gives the one that is there when it is there. Throws ALREADY_EXISTS when that has other weights. */
  register(model: ModelVersion): Promise<ModelVersion>;
  /** Makes a registered version the promoted one of its line. */
  promote(version: string, reasons: readonly string[]): Promise<ModelVersion>;
  /** Says that a registered version was refused. One that is promoted at present stays so. */
  refuse(version: string, reasons: readonly string[]): Promise<ModelVersion>;
  /** Promotes a version if no other of its line has been promoted yet. */
  promoteFirst(version: string, reasons: readonly string[]): Promise<void>;
}

/** Opens the registry on a bus. */
export async function openModelRegistry(bus: Bus): Promise<ModelRegistry> {
  const bucket: KeyValue<ModelVersion> = await bus.keyValue(modelBucket, messageCodec(ModelVersionSchema), {
    history: 10,
  });

  async function find(key: string): Promise<ModelVersion | undefined> {
    return (await bucket.get(key))?.value;
  }

  async function get(version: string): Promise<ModelVersion> {
    const model = version.endsWith('@promoted') ? version.slice(0, -'@promoted'.length) : undefined;
    const found = await find(model === undefined ? versionKey(version) : promotedKey(model));
    if (found === undefined || (model === undefined && found.version !== version)) {
      throw notFound('model version', version, {
        reason: 'MODEL_NOT_FOUND',
        fix: 'list the versions to see what there is',
      });
    }
    return found;
  }

  async function mark(version: string, state: ModelState, reasons: readonly string[]): Promise<ModelVersion> {
    const marked = create(ModelVersionSchema, { ...(await get(version)), state, reasons: [...reasons] });
    await bucket.put(versionKey(version), marked);
    return marked;
  }

  async function promote(version: string, reasons: readonly string[]): Promise<ModelVersion> {
    const promoted = await mark(version, ModelState.PROMOTED, reasons);
    await bucket.put(promotedKey(promoted.model), promoted);
    return promoted;
  }

  return {
    get,
    promote,
    async list(model) {
      const entries = await bucket.entries('version.>');
      return entries
        .map(({ value }) => value)
        .filter((found) => model === undefined || model === '' || found.model === model)
        .toSorted((a, b) => (a.version < b.version ? -1 : Number(a.version > b.version)));
    },
    async register(model) {
      try {
        await bucket.create(versionKey(model.version), model);
        return model;
      } catch (error) {
        if (PlumbError.from(error).code !== 'ALREADY_EXISTS') throw error;
      }
      const standing = await get(model.version);
      if (standing.weights?.sha256 !== model.weights?.sha256)
        throw alreadyExists('model version', model.version);
      return standing;
    },
    async refuse(version, reasons) {
      const standing = await get(version);
      // Another run may have made the same weights and promoted them: its decision is not undone by ours.
      if ((await find(promotedKey(standing.model)))?.version === version) return standing;
      return await mark(version, ModelState.REFUSED, reasons);
    },
    async promoteFirst(version, reasons) {
      const { model } = await get(version);
      if ((await find(promotedKey(model))) === undefined) await promote(version, reasons);
    },
  };
}
