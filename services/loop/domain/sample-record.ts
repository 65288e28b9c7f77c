import type { Artifact, Video } from '@plumb/proto/plumb/media/v1/video_pb.js';
import type { CategoryId } from './categories.ts';

/** A sample as the ledger holds it, with its scores: what data sets and evaluations are made of. */
export interface SampleRecord {
  readonly id: string;
  readonly promptId: string;
  readonly promptText: string;
  readonly category: CategoryId;
  /** uint64 as decimal digits. */
  readonly seed: string;
  readonly video: Video | undefined;
  /** What the decoder made the clip of; undefined for models that work on pixels. */
  readonly latents: Artifact | undefined;
  readonly scores: readonly ScoreRecord[];
  /** Why it has no clip, or no score. */
  readonly error: SampleFailure | undefined;
}

export interface SampleFailure {
  readonly stage: 'generate' | 'score';
  readonly code: string;
  readonly reason: string;
  readonly message: string;
}

/** One reward's outcome: a finite value, or an error and no value. */
export interface ScoreRecord {
  readonly reward: string;
  readonly version: string;
  readonly weightsHash: string;
  /** SHA-256 of the rubric that a judge's value follows; absent for other rewards. */
  readonly rubricHash?: string;
  readonly outcome:
    | { readonly value: number; readonly checks: Readonly<Record<string, boolean>> }
    | { readonly error: { readonly code: string; readonly reason: string; readonly message: string } };
}

export { acceptThreshold } from '@plumb/evaluation';

/** The value that a reward gave a sample; undefined when it gave none. */
export function valueOf(sample: SampleRecord, reward: string): number | undefined {
  const outcome = sample.scores.find((score) => score.reward === reward)?.outcome;
  return outcome !== undefined && 'value' in outcome ? outcome.value : undefined;
}

/** The guard checks that a reward reported beside its value. */
export function checksOf(sample: SampleRecord, reward: string): Readonly<Record<string, boolean>> {
  const outcome = sample.scores.find((score) => score.reward === reward)?.outcome;
  return outcome !== undefined && 'value' in outcome ? outcome.checks : {};
}

/** Why a sample is left out, as manifests say it; undefined when nothing is wrong with it. */
export function exclusionOf(sample: SampleRecord): string | undefined {
  if (sample.error === undefined) return undefined;
  const { stage, code, reason } = sample.error;
  return `${stage}:${code}${reason === '' ? '' : `:${reason}`}`;
}
