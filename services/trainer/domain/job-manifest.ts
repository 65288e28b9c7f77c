import { trainingSetHash } from '@plumb/objective';
import type { TrainingSet } from '@plumb/objective';
import canonicalize from 'canonicalize';
import type { EarlyStop, ProbeResult } from '@plumb/proto/plumb/trainer/v1/trainer_pb.js';
import type { JobPlan } from './job-spec.ts';

/** Media type of the manifest's artifact. */
export const jobManifestMediaType = 'application/vnd.plumb.training-job+json';

/**
 * Everything from which a job can be repeated, and what came out of it. It holds no times and no id: the same job run
 * twice on one machine gives the same bytes.
 * @returns canonical JSON (RFC 8785) in UTF-8
 */
export function jobManifest(options: {
  readonly plan: JobPlan;
  readonly set: TrainingSet;
  /** Threads of the engine; the order of sums, and so the last bits, depend on it. */
  readonly threads: number;
  /** Command line of the program that trained, where it was not the engine. */
  readonly trainedBy: readonly string[] | undefined;
  /** SHA-256 of the trained weights. */
  readonly result: string;
  /** SHA-256 of the adapters, where adapters were trained. */
  readonly adapters: string | undefined;
  readonly parameterCount: number;
  readonly probes: readonly ProbeResult[];
  readonly earlyStop: EarlyStop | undefined;
}): Uint8Array {
  const { plan, set, threads, trainedBy, result, adapters, parameterCount, probes, earlyStop } = options;
  const { statistics } = set;
  const text = canonicalize({
    kind: 'plumb.training-job',
    version: 1,
    dataSet: { sha256: plan.dataSet.sha256, trainingSetHash: trainingSetHash(set), reward: plan.reward },
    base: { version: plan.base.version, sha256: plan.base.sha256 },
    reference: { version: plan.reference.version, sha256: plan.reference.sha256 },
    objective: plan.objective,
    optimisation: plan.optimisation,
    ...(plan.adapters === undefined ? {} : { adapters: plan.adapters }),
    maxAnchorDistance: plan.maxAnchorDistance ?? null,
    ...(plan.probe === undefined
      ? {}
      : {
          probe: {
            ...plan.probe,
            prompts: plan.probe.prompts.map(({ id, text, category }) => ({ id, text, category })),
          },
          probes: probes.map(({ step, clips, errors, trained, heldOut, guards, findings }) => ({
            step,
            clips,
            errors,
            trained: trained ?? null,
            heldOut: heldOut ?? null,
            guards,
            findings,
          })),
          earlyStop: earlyStop === undefined ? null : { step: earlyStop.step, keptStep: earlyStop.keptStep },
        }),
    seed: plan.seed.toString(),
    threads,
    ...(trainedBy === undefined ? {} : { trainedBy }),
    counts: {
      samples: statistics.samples,
      scored: statistics.scored,
      items: set.items.length,
      excluded: set.exclusions.length,
      uninformativePromptRatio: statistics.uninformativePromptRatio,
      effectiveSampleSize: statistics.effectiveSampleSize,
      steps: plan.optimisation.steps,
      parameters: parameterCount,
    },
    exclusions: set.exclusions,
    result: { sha256: result, ...(adapters === undefined ? {} : { adapters }) },
  });
  return new TextEncoder().encode(text);
}
