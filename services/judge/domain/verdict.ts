/** Answers and comparisons as they are kept: everything but how this caller came by it. */

import { z } from 'zod';
import { contentHash } from '@plumb/kit/content-hash';
import type { Judge } from './judge-definition.ts';
import type { Prompt } from './question.ts';

const cost = {
  /** Model name as the endpoint gave it. */
  model: z.string(),
  inputTokens: z.int().min(0),
  outputTokens: z.int().min(0),
  /** Time that the endpoint took to answer, in milliseconds. */
  endpointMs: z.number().min(0),
  /** Calls that were made, retries included. */
  calls: z.int().min(1),
};

const clipAnswerSchema = z.strictObject({
  kind: z.literal('clip'),
  accept: z.boolean().optional(),
  grade: z.int().min(1).max(5).optional(),
  /** P(accept), 0 to 1. */
  probability: z.number().min(0).max(1).optional(),
  reason: z.string(),
  failureMode: z.string(),
  checks: z.record(z.string(), z.boolean()),
  /** Seed of the call that was answered; absent for a judge without one. */
  seed: z.int().optional(),
  ...cost,
});

const comparisonSchema = z.strictObject({
  kind: z.literal('comparison'),
  /** P(first is better), 0 to 1, averaged over both orders. */
  firstPreferred: z.number().min(0).max(1),
  reason: z.string(),
  ...cost,
});

/** Shape of what is kept; what a store holds is checked against it when read. */
export const storedVerdictSchema = z.discriminatedUnion('kind', [clipAnswerSchema, comparisonSchema]);

/** One answer about one clip. */
export type KeptAnswer = z.output<typeof clipAnswerSchema>;
export type ComparisonVerdict = z.output<typeof comparisonSchema>;
export type StoredVerdict = z.output<typeof storedVerdictSchema>;

/** A verdict and whether it was there already. */
export type Judged<V extends StoredVerdict> = V & { readonly cached: boolean };

/** A clip by its content: two clips with equal values show the same. */
export interface ClipIdentity {
  /** SHA-256 of the encoded bytes. */
  readonly sha256: string;
  /** How the bytes are to be read. */
  readonly mediaType: string;
  readonly width: number;
  readonly height: number;
  readonly frameCount: number;
  readonly fps: number;
}

/**
 * Key of what is kept: SHA-256 over the clips, the prompt, everything that makes the judge's answers, and the number of the
 * vote. A judge that takes more votes than before asks for the new ones only.
 */
export function verdictKey(
  judge: Judge,
  prompt: Prompt,
  clips: readonly ClipIdentity[],
  vote: number,
): string {
  const content = clips.map(({ sha256, mediaType, width, height, frameCount, fps }) => ({
    sha256,
    mediaType,
    width,
    height,
    frameCount,
    fps,
  }));
  return contentHash({
    judge: judge.askHash,
    vote,
    text: prompt.text,
    category: prompt.category ?? '',
    clips: content,
  });
}
