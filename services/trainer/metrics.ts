import { meter } from '@plumb/kit/telemetry';
import type { ProbeResult, TrainingProgress } from '@plumb/proto/plumb/trainer/v1/trainer_pb.js';

/** Records every training step as metrics. */
export function stepMetrics(): (point: TrainingProgress) => void {
  const instruments = meter('plumb-trainer');
  const duration = instruments.createHistogram('plumb.trainer.step.duration', {
    description: 'Time of one optimiser step',
    unit: 's',
    advice: { explicitBucketBoundaries: [0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60] },
  });
  const steps = instruments.createCounter('plumb.trainer.steps', {
    description: 'Optimiser steps',
    unit: '{step}',
  });
  const loss = instruments.createGauge('plumb.trainer.loss', { description: 'Loss of the last step' });
  const gradientNorm = instruments.createGauge('plumb.trainer.gradient_norm', {
    description: 'Global norm of the last gradient, before clipping',
  });
  const skipped = instruments.createGauge('plumb.trainer.skipped_steps', {
    description: 'Steps of the job that changed nothing, as their float16 gradient overflowed',
    unit: '{step}',
  });
  const anchorDistance = instruments.createGauge('plumb.trainer.anchor_distance', {
    description: 'Mean squared distance between the predictions of policy and reference',
  });
  const samplesPerSecond = instruments.createGauge('plumb.trainer.samples_per_second', {
    unit: '{sample}/s',
  });
  const margin = instruments.createGauge('plumb.trainer.implicit_reward_margin', {
    description: 'Mean margin of the implicit rewards in the last batch (dpo, kto)',
  });
  const probes = instruments.createCounter('plumb.trainer.probes', {
    description: 'Held-out probes by outcome: scored, over-optimised (it shows signs), or failed',
    unit: '{probe}',
  });
  const probeDuration = instruments.createHistogram('plumb.trainer.probe.duration', {
    description: 'Time to sample and score a held-out probe',
    unit: 's',
    advice: { explicitBucketBoundaries: [0.1, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300, 600] },
  });
  const probeReward = instruments.createGauge('plumb.trainer.probe.reward', {
    description: 'Mean reward of the last probe, by role: trained, held_out, or the name of a guard',
  });
  const recordProbe = ({ trained, heldOut, guards, findings, seconds, error }: ProbeResult): void => {
    const signs = findings.length > 0 ? 'over-optimised' : 'scored';
    probes.add(1, { 'plumb.probe.outcome': error === undefined ? signs : 'failed' });
    probeDuration.record(seconds);
    const means = { ...guards, trained, held_out: heldOut };
    for (const [role, value] of Object.entries(means)) {
      if (value !== undefined) probeReward.record(value, { 'plumb.probe.role': role });
    }
  };
  return (point) => {
    for (const probe of point.probes) recordProbe(probe);
    duration.record(point.stepSeconds);
    steps.add(1);
    loss.record(point.loss);
    if (Number.isFinite(point.gradientNorm)) gradientNorm.record(point.gradientNorm);
    if (point.skippedSteps !== undefined) skipped.record(point.skippedSteps);
    samplesPerSecond.record(point.samplesPerSecond);
    if (point.implicitRewardMargin !== undefined) margin.record(point.implicitRewardMargin);
    if (point.anchorDistance !== undefined) anchorDistance.record(point.anchorDistance);
  };
}
