import type { Bus } from '@plumb/kit/bus';
import { messageCodec } from '@plumb/kit/bus';
import type { Logger } from '@plumb/kit/telemetry';
import { ModelVersionSchema } from '@plumb/proto/plumb/models/v1/model_pb.js';
import type { ModelVersion } from '@plumb/proto/plumb/models/v1/model_pb.js';
import type { ModelCatalogue } from '../domain/models.ts';

/** The registry's bucket: `version.<first 12 digits of the hash>` and `promoted.<name>`, each a ModelVersion. */
const bucket = 'plumb_models';
/** Revisions kept of a key, as the registry's writer has it. */
const history = 10;
const promotedPrefix = 'promoted.';

/** The registry as this process knows it, kept up to date. */
export interface ModelRegistry extends ModelCatalogue {
  stop(): Promise<void>;
}

/**
 * Follows the model registry. Resolves when everything that stands in it now has been read.
 * @param onPromoted called for every model that is promoted now or later; must not throw
 */
export async function followModelRegistry(
  bus: Bus,
  options: { logger: Logger; onPromoted: (model: ModelVersion) => void },
): Promise<ModelRegistry> {
  const models = await bus.keyValue(bucket, messageCodec(ModelVersionSchema), { history });
  const versions = new Map<string, ModelVersion>();
  const promoted = new Map<string, ModelVersion>();
  const byKey = new Map<string, string>();
  const apply = (key: string, value: ModelVersion | undefined): void => {
    if (key.startsWith(promotedPrefix)) {
      const name = key.slice(promotedPrefix.length);
      if (value === undefined) {
        promoted.delete(name);
        return;
      }
      const isNew = promoted.get(name)?.version !== value.version;
      promoted.set(name, value);
      versions.set(value.version, value);
      if (isNew) {
        options.logger.info({ model: value.version }, 'the model is promoted');
        options.onPromoted(value);
      }
    } else if (value === undefined) {
      versions.delete(byKey.get(key) ?? '');
    } else {
      byKey.set(key, value.version);
      versions.set(value.version, value);
    }
  };
  for (const { key, value } of await models.entries()) apply(key, value);

  const stopped = new AbortController();
  const following = (async () => {
    for await (const { key, value } of models.watch({ signal: stopped.signal })) apply(key, value);
  })();
  following.catch((error: unknown) => {
    if (!stopped.signal.aborted) options.logger.error({ error }, 'the model registry is no longer followed');
  });
  return {
    versions,
    promoted,
    async stop() {
      stopped.abort();
      await following.catch(() => undefined);
    },
  };
}
