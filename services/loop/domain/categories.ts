import { Category } from '@plumb/proto/plumb/prompts/v1/prompt_pb.js';

/** The category ids of docs/method.md, in its order. */
export const categoryIds = ['OR', 'MO', 'DO', 'DM', 'FD'] as const;

export type CategoryId = (typeof categoryIds)[number];

const idsByCategory: ReadonlyMap<Category, CategoryId> = new Map([
  [Category.OBJECT_REMOVAL, 'OR'],
  [Category.MULTIPLE_OBJECTS, 'MO'],
  [Category.DEFORMABLE_OBJECT, 'DO'],
  [Category.DIRECTIONAL_MOVEMENT, 'DM'],
  [Category.FALLING_DOWN, 'FD'],
]);

const categoriesById = new Map([...idsByCategory].map(([category, id]) => [id, category]));

/** The id of a category; undefined for UNSPECIFIED and for numbers that this version does not know. */
export function categoryIdOf(category: Category): CategoryId | undefined {
  return idsByCategory.get(category);
}

/** The category of an id that came out of the ledger. */
export function categoryOf(id: CategoryId): Category {
  return categoriesById.get(id) ?? Category.UNSPECIFIED;
}
