import { createHash } from 'node:crypto';
import { readFile, stat } from 'node:fs/promises';
import { fieldPath, invalidArguments, PlumbError } from '@plumb/kit/errors';
import { z } from 'zod';

/** The five categories of interaction (arXiv 2412.02617). */
export const categoryIds = ['OR', 'MO', 'DO', 'DM', 'FD'] as const;
export type CategoryId = (typeof categoryIds)[number];

/** Which prompts a model is finetuned on, and which it is judged by. */
export type PromptSplit = 'train' | 'heldout';

/** Limits of a prompt-set file: the longest text is the one that the contracts allow. */
export const promptSetLimits = {
  /** Characters of a prompt's text. */
  textLength: 2000,
  /** Characters of an id. */
  idLength: 120,
  prompts: 100_000,
  /** Size of the file in bytes. */
  fileBytes: 64 * 2 ** 20,
} as const;

const promptSchema = z.strictObject({
  id: z
    .string()
    .max(promptSetLimits.idLength, `is too long; use at most ${promptSetLimits.idLength} characters`)
    .regex(
      /^[A-Za-z0-9][A-Za-z0-9._/-]*$/,
      'must begin with a letter or digit and hold only letters, digits, dots, dashes, underscores and slashes',
    ),
  text: z
    .string()
    .max(promptSetLimits.textLength, `is too long; use at most ${promptSetLimits.textLength} characters`)
    .refine((text) => text.trim() !== '', 'is empty; say what the clip shall show'),
  category: z.enum(categoryIds, { error: `must be one of ${categoryIds.join(', ')}` }),
  split: z.enum(['train', 'heldout'], { error: 'must be "train" or "heldout"' }),
});

/** A prompt-set file, without what its shape alone cannot tell. */
export const promptSetSchema = z.strictObject({
  version: z
    .string()
    .regex(/^\d+\.\d+\.\d+$/, 'must be a version such as "1.0.0"; raise it with every change of the prompts'),
  categories: z
    .array(z.enum(categoryIds, { error: `must be one of ${categoryIds.join(', ')}` }))
    .min(1, 'is empty; list the categories that the prompts belong to'),
  prompts: z
    .array(promptSchema)
    .min(1, 'is empty; give at least one prompt')
    .max(promptSetLimits.prompts, `has too many prompts; ${promptSetLimits.prompts} is the limit`),
});

/** One prompt, as the file says it. */
export type Prompt = Readonly<z.infer<typeof promptSchema>>;

/** A checked prompt set. */
export type PromptSet = {
  readonly version: string;
  readonly categories: readonly CategoryId[];
  readonly prompts: readonly Prompt[];
  /** Lower-case hexadecimal SHA-256 of the file's bytes, for manifests. */
  readonly sha256: string;
};

type Violation = { field: string; description: string };

/** What a reader calls a place in the file: a prompt by its id where it has one. */
function placeOf(path: readonly PropertyKey[], data: unknown): string {
  const [list, index, ...rest] = path;
  if (list !== 'prompts' || typeof index !== 'number') return fieldPath(path);
  const prompts = (data as { prompts: unknown[] }).prompts;
  const id = (prompts[index] as { id?: unknown } | null | undefined)?.id;
  const name = typeof id === 'string' ? ` (${id.slice(0, promptSetLimits.idLength)})` : '';
  return `prompts[${index}]${name}${rest.length === 0 ? '' : `.${fieldPath(rest)}`}`;
}

/** Texts are the same to a model if they differ only in case and spacing. */
const sameText = (text: string): string => text.toLowerCase().trim().replace(/\s+/g, ' ');

/** What the shape alone cannot tell: duplicates, leaks between the splits, categories without prompts. */
function crossChecks(set: z.infer<typeof promptSetSchema>): Violation[] {
  const violations: Violation[] = [];
  const ids = new Set<string>();
  const byText = new Map<string, Prompt>();
  for (const [index, prompt] of set.prompts.entries()) {
    const place = `prompts[${index}] (${prompt.id})`;
    if (ids.has(prompt.id)) {
      violations.push({ field: `${place}.id`, description: 'is used twice; give every prompt its own id' });
    }
    ids.add(prompt.id);
    const earlier = byText.get(sameText(prompt.text));
    if (earlier !== undefined) {
      violations.push({
        field: `${place}.text`,
        description:
          earlier.split === prompt.split
            ? `is the same as that of ${earlier.id}; remove one of them`
            : `is the same as that of ${earlier.id} in the other split, so that held-out prompts would be trained on; remove one of them`,
      });
    } else byText.set(sameText(prompt.text), prompt);
    if (!set.categories.includes(prompt.category)) {
      violations.push({
        field: `${place}.category`,
        description: `is ${prompt.category}, which categories does not list; add it there or change it here`,
      });
    }
  }
  for (const [index, category] of set.categories.entries()) {
    if (set.categories.indexOf(category) !== index) {
      violations.push({ field: `categories[${index}]`, description: `repeats ${category}; list it once` });
      continue;
    }
    for (const split of ['train', 'heldout'] as const) {
      if (set.prompts.some((prompt) => prompt.category === category && prompt.split === split)) continue;
      violations.push({
        field: `categories[${index}]`,
        description: `${category} has no ${split} prompt; add one or remove the category`,
      });
    }
  }
  return violations;
}

/** As many bad places as one error names; the first ones are enough to begin with. */
const mostViolations = 20;

/**
 * Reads a prompt set from the bytes of its file.
 *
 * @param name what errors call the file
 * @throws PlumbError INVALID_ARGUMENT with one violation for each bad place, naming the prompt's id and the fix
 */
export function parsePromptSet(bytes: Uint8Array, name = 'prompt set'): PromptSet {
  const refuse = (violations: readonly Violation[]): PlumbError =>
    invalidArguments(
      violations
        .slice(0, mostViolations)
        .map(({ field, description }) => ({ field: `${name}: ${field}`, description })),
    );
  let data: unknown;
  try {
    data = JSON.parse(new TextDecoder('utf-8', { fatal: true }).decode(bytes));
  } catch (error) {
    throw refuse([{ field: '(whole)', description: `is no JSON in UTF-8: ${(error as Error).message}` }]);
  }
  const parsed = promptSetSchema.safeParse(data);
  if (!parsed.success) {
    throw refuse(
      parsed.error.issues.map(({ path, message }) => ({ field: placeOf(path, data), description: message })),
    );
  }
  const violations = crossChecks(parsed.data);
  if (violations.length > 0) throw refuse(violations);
  return { ...parsed.data, sha256: createHash('sha256').update(bytes).digest('hex') };
}

/**
 * Loads a prompt set, ours or a user's own.
 *
 * @throws PlumbError NOT_FOUND when there is no such file; INVALID_ARGUMENT as {@link parsePromptSet} does, or when the
 * file is too large
 */
export async function loadPromptSet(path: string): Promise<PromptSet> {
  let bytes: Uint8Array;
  try {
    const { size } = await stat(path);
    if (size > promptSetLimits.fileBytes) {
      throw invalidArguments([
        {
          field: path,
          description: `has ${size} bytes; a prompt set has at most ${promptSetLimits.fileBytes}`,
        },
      ]);
    }
    bytes = await readFile(path);
  } catch (error) {
    const known = PlumbError.from(error);
    if (known === error) throw known;
    throw new PlumbError({
      code: known.code,
      reason: known.reason,
      message: `the prompt set '${path}' cannot be read: ${known.message}`,
      cause: error,
    });
  }
  return parsePromptSet(bytes, path);
}

/**
 * The first prompts of each category and split, in their order.
 * @param limits most prompts of a category in each split; undefined is all
 */
export function firstPrompts(
  prompts: readonly Prompt[],
  limits: Readonly<Record<PromptSplit, number | undefined>>,
): Prompt[] {
  const taken = new Map<string, number>();
  return prompts.filter(({ category, split }) => {
    const key = `${category} ${split}`;
    const count = (taken.get(key) ?? 0) + 1;
    taken.set(key, count);
    return count <= (limits[split] ?? Infinity);
  });
}
