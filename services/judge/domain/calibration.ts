/** The fitted mapping from a judge's score to the probability that a person accepts, as a versioned file. */

import { createHash } from 'node:crypto';
import { calibrationMappingSchema } from '@plumb/evaluation';
import { parse } from 'yaml';
import { z } from 'zod';

const calibrationSchema = z.strictObject({
  kind: z.literal('plumb.judge-calibration'),
  version: z.literal(1),
  /** Name of the judge that was calibrated, for people. */
  judge: z.string(),
  /** The judge's answers that it was fitted to: another rubric, model or set of frames needs another calibration. */
  askHash: z.string().regex(/^[0-9a-f]{64}$/),
  /** Votes that were taken for a score. */
  votes: z.int().min(1),
  /** SHA-256 of the file of labels. */
  labels: z.string().regex(/^[0-9a-f]{64}$/),
  samples: z.int().min(1),
  /** When it was fitted, ISO 8601. */
  fittedAt: z.string(),
  /** Threshold that was recommended; the judges file decides which one is used. */
  recommendedThreshold: z.number().min(0).max(1),
  mapping: calibrationMappingSchema,
});

/** A calibration and the lower-case hexadecimal SHA-256 of the file it came from. */
export type Calibration = z.infer<typeof calibrationSchema> & { readonly hash: string };

/**
 * Reads a calibration from the text of its YAML file.
 *
 * @throws Error that names every field that is wrong. The caller adds the file's name.
 */
export function parseCalibration(text: string): Calibration {
  const result = calibrationSchema.safeParse(parse(text));
  if (!result.success) throw new Error(z.prettifyError(result.error));
  return { ...result.data, hash: createHash('sha256').update(text).digest('hex') };
}
