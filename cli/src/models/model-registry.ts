import { create } from '@bufbuild/protobuf';
import type { MessageInitShape } from '@bufbuild/protobuf';
import { timestampNow } from '@bufbuild/protobuf/wkt';
import { connectBus, messageCodec } from '@plumb/kit/bus';
import { notFound, PlumbError } from '@plumb/kit/errors';
import { ModelVersionSchema } from '@plumb/proto/plumb/models/v1/model_pb.js';
import type { ModelVersion } from '@plumb/proto/plumb/models/v1/model_pb.js';

/** The bucket of versions and its history, as the loop opens it. */
const bucket = 'plumb_models';
const history = 10;

const versionKey = (version: string): string => `version.${version.slice(version.lastIndexOf('@') + 1)}`;

/** The versions that a broker knows. */
export interface ModelRegistry {
  /** All versions, sorted by version. */
  list(): Promise<ModelVersion[]>;
  /**
   * A version, or the promoted one of a line for `<model>@promoted`.
   * @throws PlumbError NOT_FOUND (MODEL_NOT_FOUND)
   */
  get(version: string): Promise<ModelVersion>;
  /** Adds a version with the time of now; one that is there already stays as it is. */
  register(version: MessageInitShape<typeof ModelVersionSchema>): Promise<void>;
  close(): Promise<void>;
}

/** Opens the registry behind a broker: the same bucket that the loop writes and generators watch. */
export async function openModelRegistry(natsUrl: string): Promise<ModelRegistry> {
  const bus = await connectBus({ url: natsUrl, name: 'plumb' });
  const versions = await bus.keyValue(bucket, messageCodec(ModelVersionSchema), { history });
  return {
    async list() {
      const entries = await versions.entries('version.>');
      return entries
        .map(({ value }) => value)
        .toSorted((a, b) => (a.version < b.version ? -1 : Number(a.version > b.version)));
    },
    async get(version) {
      const promoted = version.endsWith('@promoted');
      const key = promoted ? `promoted.${version.slice(0, -'@promoted'.length)}` : versionKey(version);
      const found = (await versions.get(key))?.value;
      if (found === undefined || (!promoted && found.version !== version)) {
        throw notFound('model version', version, {
          reason: 'MODEL_NOT_FOUND',
          fix: '`./plumb models list` shows what there is; a weights file can be named by its path',
        });
      }
      return found;
    },
    async register(version) {
      const model = create(ModelVersionSchema, version);
      model.createTime ??= timestampNow();
      try {
        await versions.create(versionKey(model.version), model);
      } catch (error) {
        if (PlumbError.from(error).code !== 'ALREADY_EXISTS') throw error;
      }
    },
    close: () => bus.close(),
  };
}
