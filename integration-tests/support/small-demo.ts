import assert from 'node:assert/strict';
import { z } from 'zod';

/** A demo of some seconds: the whole path of the real one, with few prompts, few clips and few steps. */
export const smallDemo = [
  'demo',
  '--json',
  '--prompts-per-category=2',
  '--heldout-per-category=1',
  '--samples-per-prompt=3',
  '--heldout-samples=2',
  '--sampler-steps=8',
  '--steps=6',
  '--batch-size=4',
] as const;

/** Training clips: 5 categories of 2 prompts with 3 samples. Held-out clips: 5 prompts with 2 samples and 2 models. */
export const smallDemoSamples = 5 * 2 * 3 + 5 * 2 * 2;

const keys = z.enum(['overall', 'OR', 'MO', 'DO', 'DM', 'FD']);
const share = z.number().min(0).max(1);
const change = z.number().min(-1).max(1);
const rates = z.record(keys, z.strictObject({ rate: share, low: share, high: share }));
const acceptance = z.strictObject({
  before: rates,
  after: rates,
  difference: z.record(keys, z.strictObject({ mean: change, low: change, high: change })),
});
const count = z.int().min(0);
const counts = { samples: count, judged: count, errors: count };
const resultSchema = z.strictObject({
  acceptance,
  ...counts,
  promoted: z.boolean(),
  report: z.string(),
  seconds: z.number().positive(),
  control: z.strictObject({ acceptance, ...counts }).optional(),
});

export type DemoResult = z.infer<typeof resultSchema>;

/** The object on the last line of standard output; it must be the only line. */
export function parseResult(stdout: string): DemoResult {
  const lines = stdout.trimEnd().split('\n');
  assert.equal(lines.length, 1, stdout);
  return resultSchema.parse(JSON.parse(lines[0] ?? ''));
}
