import { create } from '@bufbuild/protobuf';
import { timestampNow } from '@bufbuild/protobuf/wkt';
import { invalidArgument, invalidArguments } from '@plumb/kit/errors';
import type { FieldViolation } from '@plumb/kit/errors';
import type { Implementation } from '@plumb/kit/rpc';
import type { ArtifactStore } from '@plumb/media';
import type { ModelRegistryService } from '@plumb/proto/plumb/loop/v1/model_registry_pb.js';
import { ModelState, ModelVersionSchema } from '@plumb/proto/plumb/models/v1/model_pb.js';
import { z } from 'zod';
import type { ModelRegistry } from './adapters/model-registry.ts';
import { pageOf, pageSizeOf, readPageToken } from './adapters/pages.ts';
import { modelViolations } from './domain/run-spec.ts';

const versionPosition = z.object({ version: z.string() });
/** Longest reason for a promotion, in characters. */
const maxReasonLength = 2_000;

/** ModelRegistryService: versions of models, and which of each line is promoted. */
export function modelRegistryService(
  registry: ModelRegistry,
  artifacts: ArtifactStore,
): Implementation<typeof ModelRegistryService> {
  return {
    async createModelVersion({ modelVersion }) {
      const violations: FieldViolation[] = modelViolations('model_version', modelVersion);
      if (modelVersion === undefined || violations.length > 0) throw invalidArguments(violations);
      const sha256 = modelVersion.weights?.sha256 ?? '';
      if (!(await artifacts.has(sha256))) {
        throw invalidArgument(
          'model_version.weights',
          `the artifact store has no ${sha256}; put the weights there first`,
          {
            reason: 'ARTIFACT_NOT_FOUND',
          },
        );
      }
      const registered = await registry.register(
        create(ModelVersionSchema, {
          ...modelVersion,
          state: ModelState.CANDIDATE,
          createTime: modelVersion.createTime ?? timestampNow(),
        }),
      );
      return { modelVersion: registered };
    },

    async getModelVersion({ version }) {
      return { modelVersion: await registry.get(version) };
    },

    async listModelVersions({ pageSize, pageToken, model }) {
      const size = pageSizeOf(pageSize);
      const after = readPageToken(versionPosition, pageToken)?.version;
      const versions = (await registry.list(model)).filter(
        ({ version }) => after === undefined || version > after,
      );
      const page = pageOf(versions.slice(0, size + 1), size, ({ version }) => ({ version }));
      return { modelVersions: [...page.rows], nextPageToken: page.nextPageToken };
    },

    async promoteModelVersion({ version, reason }) {
      if (reason.trim() === '' || reason.length > maxReasonLength) {
        throw invalidArgument(
          'reason',
          `say in 1 to ${maxReasonLength} characters why the version is promoted`,
        );
      }
      return { modelVersion: await registry.promote(version, [reason]) };
    },
  };
}
