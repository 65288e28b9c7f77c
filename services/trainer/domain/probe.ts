import { createHash } from 'node:crypto';
import { create } from '@bufbuild/protobuf';
import type { ClipSampler } from '@plumb/diffusion';
import { detectOverOptimisation } from '@plumb/evaluation';
import type { OverOptimisationFinding, ProbePoint } from '@plumb/evaluation';
import { invalidArguments, PlumbError, toStatus } from '@plumb/kit/errors';
import type { Clip } from '@plumb/media';
import type { DataSetManifest } from '@plumb/objective';
import type { Prompt } from '@plumb/proto/plumb/prompts/v1/prompt_pb.js';
import { ProbeResultSchema } from '@plumb/proto/plumb/trainer/v1/trainer_pb.js';
import type { ProbeResult } from '@plumb/proto/plumb/trainer/v1/trainer_pb.js';
import { probedRewards } from './probe-spec.ts';
import type { ProbePlan } from './probe-spec.ts';

/** A clip to be scored. */
export interface ProbeClip {
  /** Unique in its probe. */
  readonly id: string;
  readonly prompt: Prompt;
  readonly clip: Clip;
}

/** A clip's scores: a value or an error for each reward that was asked for. */
export type ProbeScores = ReadonlyMap<string, number | PlumbError>;

/**
 * Scores clips with some rewards, by the Reward API.
 * @returns scores by the id of the clip
 * @throws PlumbError when no clip can be scored: UNAVAILABLE, or an unknown reward
 */
export type ScoreClips = (
  clips: readonly ProbeClip[],
  rewards: readonly string[],
  options: { readonly runId: string; readonly signal: AbortSignal },
) => Promise<ReadonlyMap<string, ProbeScores>>;

/** Most clips that share a call of the denoiser. */
const largestBatch = 8;

/**
 * Samples and scores one probe. It has a session of its own in the engine and draws from seeds of its own, so that the
 * training goes on as if it had not been.
 * @param openSampler opens what training would give if it ended now, for a number of clips that share a call
 * @throws PlumbError PROBE_FAILED when too many clips have no score and the plan says fail; the reason of the signal
 */
export async function runProbe(options: {
  readonly plan: ProbePlan;
  readonly step: number;
  readonly openSampler: (batch: number) => Promise<ClipSampler>;
  readonly score: ScoreClips;
  readonly seed: bigint;
  readonly runId: string;
  readonly signal: AbortSignal;
}): Promise<ProbeResult> {
  const { plan, step, openSampler, score, runId, signal } = options;
  const start = performance.now();
  const clips = await sampleClips(plan, openSampler, options.seed, signal);
  const result = create(ProbeResultSchema, { step, clips: clips.length });
  try {
    const rewards = probedRewards(plan);
    const outcomes = await score(clips, rewards, { runId, signal });
    const { means, errors, firstError } = meansOf(clips, rewards, outcomes);
    result.errors = errors;
    if (means === undefined || errors > plan.maxErrorShare * clips.length) {
      throw new PlumbError({
        code: firstError?.code ?? 'INTERNAL',
        reason: 'PROBE_FAILED',
        message: `${errors} of the probe's ${clips.length} clips have no score, above max_error_share ${plan.maxErrorShare}; first: ${firstError?.message ?? 'nothing was scored'}`,
        cause: firstError,
      });
    }
    const [trained = Number.NaN, heldOut = Number.NaN, ...guards] = means;
    result.trained = trained;
    result.heldOut = heldOut;
    for (const [index, guard] of plan.guards.entries()) result.guards[guard] = guards[index] ?? Number.NaN;
  } catch (thrown) {
    signal.throwIfAborted();
    const error = asProbeError(thrown, step);
    if (plan.onError === 'fail') throw error;
    result.error = toStatus(error);
  }
  result.seconds = (performance.now() - start) / 1000;
  return result;
}

async function sampleClips(
  plan: ProbePlan,
  openSampler: (batch: number) => Promise<ClipSampler>,
  seed: bigint,
  signal: AbortSignal,
): Promise<ProbeClip[]> {
  const wanted = plan.prompts.flatMap((prompt) =>
    Array.from({ length: plan.samplesPerPrompt }, (_, index) => ({ id: `${prompt.id}/${index}`, prompt })),
  );
  const sampler = await openSampler(Math.min(largestBatch, wanted.length));
  try {
    const requests = wanted.map(({ id, prompt }) => ({ caption: prompt.text, seed: clipSeed(seed, id) }));
    const clips = await sampler.sampleEach(requests, plan.sampler, { signal });
    return clips.map((clip, index) => {
      if (clip instanceof PlumbError) throw clip;
      const item = wanted[index];
      if (item === undefined) throw new TypeError('the sampler gave more clips than were asked for');
      return { ...item, clip };
    });
  } finally {
    await sampler.close();
  }
}

/** The same for every probe of a job, so that two probes differ by the policy alone. */
function clipSeed(seed: bigint, id: string): bigint {
  return createHash('sha256').update(`probe ${seed} ${id}`).digest().readBigUInt64BE();
}

/** Means over the clips that have every score; undefined if there is none. */
function meansOf(
  clips: readonly ProbeClip[],
  rewards: readonly string[],
  outcomes: ReadonlyMap<string, ProbeScores>,
): { means: number[] | undefined; errors: number; firstError: PlumbError | undefined } {
  let firstError: PlumbError | undefined;
  const complete: number[][] = [];
  for (const { id } of clips) {
    const values: number[] = [];
    for (const reward of rewards) {
      const outcome = outcomes.get(id)?.get(reward) ?? unanswered(reward);
      if (typeof outcome === 'number') values.push(outcome);
      else firstError ??= outcome;
    }
    if (values.length === rewards.length) complete.push(values);
  }
  const mean = (place: number): number =>
    complete.reduce((sum, values) => sum + (values[place] ?? Number.NaN), 0) / complete.length;
  return {
    means: complete.length === 0 ? undefined : rewards.map((_, place) => mean(place)),
    errors: clips.length - complete.length,
    firstError,
  };
}

function unanswered(reward: string): PlumbError {
  return new PlumbError({
    code: 'INTERNAL',
    reason: 'REWARD_FAILED',
    message: `the Reward API gave no outcome of ${reward}`,
  });
}

function asProbeError(thrown: unknown, step: number): PlumbError {
  const { code, message, retryAfterMs, metadata } = PlumbError.from(thrown);
  return new PlumbError({
    code,
    reason: 'PROBE_FAILED',
    message: `the probe at step ${step} could not be scored: ${message}; mend the Reward API, or set probe.on_error to continue`,
    retryAfterMs,
    metadata: { ...metadata, step: String(step) },
    cause: thrown,
  });
}

/**
 * What the newest probe shows by itself (which is told with it), and whether the probes so far stop the job.
 * @param results in order of steps; those without a score do not count
 */
export function judgeProbes(
  plan: ProbePlan,
  results: readonly ProbeResult[],
): { readonly findings: readonly string[]; readonly stop: readonly OverOptimisationFinding[] } {
  const points = results.flatMap(({ step, trained, heldOut, guards }): ProbePoint[] =>
    trained === undefined || heldOut === undefined ? [] : [{ step, trained, heldOut, guards }],
  );
  if (points.length === 0 || results.at(-1)?.error !== undefined) return { findings: [], stop: [] };
  const tolerances = {
    trainedTolerance: plan.trainedTolerance,
    heldOutTolerance: plan.heldOutTolerance,
    guardTolerance: plan.guardTolerance,
    relativeGuards: true,
  };
  return {
    findings: detectOverOptimisation(points, { ...tolerances, patience: 1 }).findings.map(
      ({ sentence }) => sentence,
    ),
    stop: detectOverOptimisation(points, { ...tolerances, patience: plan.patience }).findings,
  };
}

/**
 * A prompt that is trained on tells nothing about those that are not.
 * @throws PlumbError INVALID_ARGUMENT with a violation for every prompt of the probe that is in the data set
 */
export function checkHeldOut({ prompts }: ProbePlan, manifest: DataSetManifest): void {
  const ids = new Set(manifest.samples.map(({ promptId }) => promptId));
  const texts = new Set(manifest.samples.map(({ prompt }) => normalised(prompt)));
  const violations = prompts.flatMap(({ id, text }, index) => {
    const field = ids.has(id) ? 'id' : texts.has(normalised(text)) ? 'text' : undefined;
    return field === undefined
      ? []
      : [
          {
            field: `spec.probe.prompts[${index}].${field}`,
            description: `'${field === 'id' ? id : text}' is in the data set; probe with prompts that are not trained on`,
          },
        ];
  });
  if (violations.length > 0) throw invalidArguments(violations);
}

function normalised(text: string): string {
  return text.trim().replaceAll(/\s+/g, ' ').toLowerCase();
}
