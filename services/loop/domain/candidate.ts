import { create } from '@bufbuild/protobuf';
import { dataLoss } from '@plumb/kit/errors';
import { ModelState, ModelVersionSchema } from '@plumb/proto/plumb/models/v1/model_pb.js';
import type { ModelVersion } from '@plumb/proto/plumb/models/v1/model_pb.js';
import type { Job } from '@plumb/proto/plumb/trainer/v1/trainer_pb.js';
import { modelVersionOf } from './identity.ts';

/** The version that a job's checkpoint has in the line of the model that training started from. */
export function candidateVersionOf(model: ModelVersion, job: Job): string | undefined {
  const sha256 = job.checkpoint?.sha256 ?? '';
  return sha256 === '' ? undefined : modelVersionOf(model.model, sha256);
}

/**
 * The model that a job has made, as a candidate. Throws DATA_LOSS when a job that succeeded has no checkpoint, or one with
 * the very weights it started from: there would be nothing to compare.
 */
export function candidateOf(options: {
  readonly runId: string;
  readonly iteration: number;
  /** What training started from. */
  readonly model: ModelVersion;
  readonly job: Job;
}): ModelVersion {
  const { runId, iteration, model, job } = options;
  const version = candidateVersionOf(model, job);
  if (version === undefined || job.checkpoint === undefined) {
    throw dataLoss(
      `training job '${job.id}' succeeded without a checkpoint; look into the trainer's log and train again`,
      {
        reason: 'JOB_FAILED',
      },
    );
  }
  if (version === model.version) {
    throw dataLoss(
      `training job '${job.id}' gave back the weights it started from; raise the learning rate or the steps in a new run`,
      { reason: 'JOB_FAILED' },
    );
  }
  return create(ModelVersionSchema, {
    version,
    model: model.model,
    weights: job.checkpoint,
    state: ModelState.CANDIDATE,
    parentVersion: model.version,
    runId,
    iteration,
    createTime: job.endTime,
    format: model.format,
    parameterCount: model.parameterCount,
    ...(model.sampler === undefined ? {} : { sampler: model.sampler }),
    reasons: [`Trained in iteration ${iteration} of ${runId}`],
  });
}
