import type { MessageInitShape } from '@bufbuild/protobuf';
import { firstPrompts, loadPromptSet } from '@plumb/prompts';
import type { CategoryId } from '@plumb/prompts';
import { Category, Split } from '@plumb/proto/plumb/prompts/v1/prompt_pb.js';
import type { PromptSchema } from '@plumb/proto/plumb/prompts/v1/prompt_pb.js';

type PromptInit = Exclude<MessageInitShape<typeof PromptSchema>, { $typeName: string }>;

const categories: Readonly<Record<CategoryId, Category>> = {
  OR: Category.OBJECT_REMOVAL,
  MO: Category.MULTIPLE_OBJECTS,
  DO: Category.DEFORMABLE_OBJECT,
  DM: Category.DIRECTIONAL_MOVEMENT,
  FD: Category.FALLING_DOWN,
};

/** The category of a prompt set's id. */
export function categoryOfId(id: CategoryId): Category {
  return categories[id];
}

/** Prompts of a run, as the loop takes them. */
export interface RunPrompts {
  readonly prompts: readonly (PromptInit & { readonly id: string; readonly text: string })[];
  /** SHA-256 of the prompt-set file. */
  readonly hash: string;
}

/**
 * Reads a prompt set, and keeps the first prompts of each category and split where a limit is given.
 * @throws PlumbError as `loadPromptSet` does
 */
export async function readPrompts(
  path: string,
  limits: { readonly train: number | undefined; readonly heldout: number | undefined },
): Promise<RunPrompts> {
  const set = await loadPromptSet(path);
  return {
    prompts: firstPrompts(set.prompts, limits).map(({ id, text, category, split }) => ({
      id,
      text,
      category: categories[category],
      split: split === 'train' ? Split.TRAIN : Split.HELDOUT,
    })),
    hash: set.sha256,
  };
}
