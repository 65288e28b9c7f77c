import { counter, histogram, recentGauge } from '@plumb/kit/telemetry';
import type { ProbeResult, TrainingProgress } from '@plumb/proto/plumb/trainer/v1/trainer_pb.js';

const scope = 'plumb-trainer';

/** The last values of a job are shown for a day after its last step, in milliseconds. */
const keepMs = 24 * 60 * 60 * 1000;

const ofJob = (name: string, description: string, unit?: string) =>
  recentGauge(scope, name, { description, ...(unit === undefined ? {} : { unit }) }, keepMs);

const duration = histogram(scope, 'plumb.trainer.step.duration', {
  description: 'Time of one optimiser step',
  unit: 's',
  advice: { explicitBucketBoundaries: [0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60] },
});
const steps = counter(scope, 'plumb.trainer.steps', { description: 'Optimiser steps', unit: '{step}' });
const loss = ofJob('plumb.trainer.loss', 'Loss of the last step of a job');
const gradientNorm = ofJob(
  'plumb.trainer.gradient_norm',
  'Global norm of the last gradient of a job, before clipping',
);
const skipped = ofJob(
  'plumb.trainer.skipped_steps',
  'Steps of a job that changed nothing, as their float16 gradient overflowed',
  '{step}',
);
const anchorDistance = ofJob(
  'plumb.trainer.anchor_distance',
  'Mean squared distance between the predictions of policy and reference',
);
const samplesPerSecond = ofJob(
  'plumb.trainer.samples_per_second',
  'Samples a second of the last step of a job',
  '{sample}/s',
);
const margin = ofJob(
  'plumb.trainer.implicit_reward_margin',
  'Mean margin of the implicit rewards in the last batch of a job (dpo, kto)',
);
const probes = counter(scope, 'plumb.trainer.probes', {
  description: 'Held-out probes by outcome: scored, over-optimised (it shows signs), or failed',
  unit: '{probe}',
});
const probeDuration = histogram(scope, 'plumb.trainer.probe.duration', {
  description: 'Time to sample and score a held-out probe',
  unit: 's',
  advice: { explicitBucketBoundaries: [0.1, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300, 600] },
});
const probeReward = ofJob(
  'plumb.trainer.probe.reward',
  'Mean reward of the last probe of a job, by role: trained, held_out, or the name of a guard',
);

/** Records a training step of a job as metrics. `runId` is empty for a job of no run. */
export function recordStep(point: TrainingProgress, runId: string): void {
  const run = { 'plumb.run.id': runId };
  const job = { ...run, 'plumb.job.id': point.jobId };
  for (const probe of point.probes) recordProbe(probe, run, job);
  duration.record(point.stepSeconds);
  steps.add(1);
  loss.record(point.loss, job);
  if (Number.isFinite(point.gradientNorm)) gradientNorm.record(point.gradientNorm, job);
  if (point.skippedSteps !== undefined) skipped.record(point.skippedSteps, job);
  samplesPerSecond.record(point.samplesPerSecond, job);
  if (point.implicitRewardMargin !== undefined) margin.record(point.implicitRewardMargin, job);
  if (point.anchorDistance !== undefined) anchorDistance.record(point.anchorDistance, job);
}

function recordProbe(
  { trained, heldOut, guards, findings, seconds, error }: ProbeResult,
  run: Readonly<Record<string, string>>,
  job: Readonly<Record<string, string>>,
): void {
  const signs = findings.length > 0 ? 'over-optimised' : 'scored';
  probes.add(1, { ...run, 'plumb.probe.outcome': error === undefined ? signs : 'failed' });
  probeDuration.record(seconds);
  const means = { ...guards, trained, held_out: heldOut };
  for (const [role, value] of Object.entries(means)) {
    if (value !== undefined) probeReward.record(value, { ...job, 'plumb.probe.role': role });
  }
}
