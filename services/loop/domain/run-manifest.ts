import { toJson } from '@bufbuild/protobuf';
import { RunSpecSchema } from '@plumb/proto/plumb/loop/v1/loop_pb.js';
import type { RunSpec } from '@plumb/proto/plumb/loop/v1/loop_pb.js';
import type { Group } from './groups.ts';

/** Media type of the run manifest's artifact. */
export const runManifestMediaType = 'application/vnd.plumb.run+json';

interface NamedHash {
  readonly version: string;
  readonly sha256: string;
}

/** What an iteration of a run manifest is made from. */
export interface ManifestIteration {
  readonly iteration: number;
  readonly before: NamedHash;
  readonly after: NamedHash;
  /**
   * SHA-256 of the manifests of data set, training job and evaluation. The first and the last list every sample with its
   * seed, the hash of its clip, its scores with the version of each reward, and what was excluded and why.
   */
  readonly dataSet: string;
  readonly job: string;
  readonly evaluation: string;
  readonly promoted: boolean;
  readonly counts: Readonly<
    Record<Group, { readonly samples: number; readonly errors: number; readonly accepted: number }>
  >;
}

/**
 * Everything from which a run can be repeated, and everything that a repetition must reproduce. It has no point in time and
 * no duration: the same run has the same manifest, byte for byte.
 */
export function runManifest(options: {
  readonly runId: string;
  /** The run's id follows from it, and from that the ids of its samples. */
  readonly idempotencyKey: string;
  readonly spec: RunSpec;
  readonly iterations: readonly ManifestIteration[];
}): object {
  const { runId, idempotencyKey, spec, iterations } = options;
  return {
    kind: 'plumb.run',
    version: 1,
    runId,
    idempotencyKey,
    base: { version: spec.base?.version ?? '', sha256: spec.base?.weights?.sha256 ?? '' },
    promptSetHash: spec.promptSetHash,
    seed: spec.seed.toString(),
    spec: toJson(RunSpecSchema, spec),
    iterations,
  };
}
