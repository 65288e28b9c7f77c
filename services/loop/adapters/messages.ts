import { create, fromJsonString, toJsonString } from '@bufbuild/protobuf';
import { errorDetails, fromStatus, toStatus } from '@plumb/kit/errors';
import type { PlumbError } from '@plumb/kit/errors';
import { StatusSchema } from '@plumb/proto/google/rpc/status_pb.js';
import type { Status } from '@plumb/proto/google/rpc/status_pb.js';
import { BudgetsSchema, RunSpecSchema } from '@plumb/proto/plumb/loop/v1/loop_pb.js';
import type { Budgets, RunSpec } from '@plumb/proto/plumb/loop/v1/loop_pb.js';
import { ArtifactSchema, VideoSchema } from '@plumb/proto/plumb/media/v1/video_pb.js';
import type { Artifact, Video } from '@plumb/proto/plumb/media/v1/video_pb.js';
import { ModelVersionSchema } from '@plumb/proto/plumb/models/v1/model_pb.js';
import type { ModelVersion } from '@plumb/proto/plumb/models/v1/model_pb.js';
import { JobSchema, TrainingProgressSchema } from '@plumb/proto/plumb/trainer/v1/trainer_pb.js';
import type { Job, TrainingProgress } from '@plumb/proto/plumb/trainer/v1/trainer_pb.js';

/*
 * Messages as the ledger keeps them: ProtoJSON. Fields that a later version adds and an earlier one reads are passed over.
 */
const read = { ignoreUnknownFields: true } as const;

export const specToText = (spec: RunSpec): string => toJsonString(RunSpecSchema, spec);
export const specFromText = (text: string): RunSpec => fromJsonString(RunSpecSchema, text, read);

export const budgetsToText = (budgets: Budgets): string => toJsonString(BudgetsSchema, budgets);
export const budgetsFromText = (text: string): Budgets => fromJsonString(BudgetsSchema, text, read);

export const modelToText = (model: ModelVersion): string => toJsonString(ModelVersionSchema, model);
export const modelFromText = (text: string): ModelVersion => fromJsonString(ModelVersionSchema, text, read);

export const videoToText = (video: Video): string => toJsonString(VideoSchema, video);
export const videoFromText = (text: string): Video => fromJsonString(VideoSchema, text, read);

export const artifactToText = (artifact: Artifact): string => toJsonString(ArtifactSchema, artifact);
export const artifactFromText = (text: string): Artifact => fromJsonString(ArtifactSchema, text, read);

export const jobToText = (job: Job): string => toJsonString(JobSchema, job, { registry: errorDetails });
export const jobFromText = (text: string): Job =>
  fromJsonString(JobSchema, text, { ...read, registry: errorDetails });

export const progressToText = (progress: TrainingProgress): string =>
  toJsonString(TrainingProgressSchema, progress);
export const progressFromText = (text: string): TrainingProgress =>
  fromJsonString(TrainingProgressSchema, text, read);

export const errorToText = (error: PlumbError): string =>
  toJsonString(StatusSchema, toStatus(error), { registry: errorDetails });
export const statusFromText = (text: string): Status =>
  fromJsonString(StatusSchema, text, { ...read, registry: errorDetails });

/** An error as ledger columns. */
export function errorColumns(status: Status | undefined): { code: string; reason: string; message: string } {
  const error = fromStatus(status ?? create(StatusSchema, { code: 2, message: 'no status was given' }));
  return { code: error.code, reason: error.reason, message: error.message };
}

/** An artifact of the store as the message that others read. */
export function artifactMessage(
  stored: { readonly uri: string; readonly sha256: string; readonly size: number },
  mediaType: string,
): Artifact {
  return create(ArtifactSchema, {
    uri: stored.uri,
    sha256: stored.sha256,
    mediaType,
    sizeBytes: BigInt(stored.size),
  });
}
