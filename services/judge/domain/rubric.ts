/** A rubric: the versioned text that tells a judge what to look at and how to answer. */

import { createHash } from 'node:crypto';
import { parse } from 'yaml';
import { z } from 'zod';

/** How a judge answers: accept or reject, a grade from 1 to 5, or the better one of two clips. */
export const judgeModes = ['binary', 'grade', 'compare'] as const;
export type JudgeMode = (typeof judgeModes)[number];

/** Short names of the categories of interaction (arXiv 2412.02617). */
export const categories = ['OR', 'MO', 'DO', 'DM', 'FD'] as const;
export type Category = (typeof categories)[number];

const words = z.string().trim().min(1);
// A name that is safe as a JSON key and as a label of a metric.
const name = z.string().regex(/^[a-z][a-z0-9_]{0,39}$/, 'must be lower-case letters, digits and _');

const rubricSchema = z.strictObject({
  /** Name, for people. */
  name: z.string().regex(/^[a-z0-9-]+$/),
  /** Version, for people; the hash is what counts. */
  version: words,
  /** System text for every clip. */
  system: words,
  /** System text added for a clip whose prompt has a category; a rubric for one category needs none. */
  categories: z.partialRecord(z.enum(categories), words).default({}),
  /** System text that asks the question, one for each mode. */
  questions: z.strictObject({ binary: words, grade: words, compare: words }),
  /** Checks that are reported as passed or failed: name and meaning. */
  checks: z.record(name, words),
  /** Closed list of reasons for a rejection: name and meaning. `none` is added for accepted clips. */
  failureModes: z.record(
    name.refine((value) => value !== 'none', 'must not be none, which is added'),
    words,
  ),
});

/** A rubric and the lower-case hexadecimal SHA-256 of the file it came from. */
export type Rubric = z.infer<typeof rubricSchema> & { readonly hash: string };

/**
 * Reads a rubric from the text of its YAML file.
 *
 * @param text The whole file; its SHA-256 becomes the rubric's hash.
 * @throws Error that names every field that is wrong. The caller adds the file's name.
 */
export function parseRubric(text: string): Rubric {
  const result = rubricSchema.safeParse(parse(text));
  if (!result.success) throw new Error(z.prettifyError(result.error));
  return { ...result.data, hash: createHash('sha256').update(text).digest('hex') };
}

/**
 * System text of one call. Nothing in it comes from outside of the rubric's file, so no caption can reach it.
 *
 * @param category Category of the prompt; undefined leaves the category's section out.
 */
export function systemText(rubric: Rubric, mode: JudgeMode, category: Category | undefined): string {
  const sections = [
    rubric.system,
    category === undefined ? undefined : rubric.categories[category],
    rubric.questions[mode],
  ];
  if (mode === 'compare') {
    sections.push(
      'Answer with one JSON object and nothing else: {"reason": one or two sentences, "better": "A", "B" or "tie"}.',
    );
  } else {
    sections.push(
      `Report for each of these checks whether it passed:\n${listed(rubric.checks)}`,
      `Name the failure mode that is worst, one of:\n${listed(rubric.failureModes)}\n- none: nothing is wrong`,
      mode === 'binary'
        ? `Answer with one JSON object and nothing else: {"reason": one or two sentences, "checks": ${checksExample(rubric)}, "failure_mode": one of the names above, "accept": true or false}. An accepted video has the failure mode none.`
        : `Answer with one JSON object and nothing else: {"reason": one or two sentences, "checks": ${checksExample(rubric)}, "failure_mode": one of the names above, "grade": 1, 2, 3, 4 or 5}.`,
    );
  }
  return sections
    .filter((section) => section !== undefined)
    .map((section) => section.trim())
    .join('\n\n');
}

function checksExample(rubric: Rubric): string {
  return `{${Object.keys(rubric.checks)
    .map((check) => `"${check}": true or false`)
    .join(', ')}}`;
}

function listed(entries: Readonly<Record<string, string>>): string {
  return Object.entries(entries)
    .map(([key, meaning]) => `- ${key}: ${meaning}`)
    .join('\n');
}
