import type { Split } from '@plumb/proto/plumb/prompts/v1/prompt_pb.js';

/**
 * The three sets of samples of an iteration: training prompts, and held-out prompts from the current model (`before`) and
 * from the candidate (`after`), in the order in which their tasks are enqueued.
 */
export const groups = ['train', 'before', 'after'] as const;

export type Group = (typeof groups)[number];

// The numbers of plumb.prompts.v1.Split, whose generated enum is a value import that the ledger does without.
const splits: Record<Group, Split> = { train: 1, before: 2, after: 2 };

/** The split whose prompts a group samples. */
export function splitOf(group: Group): Split {
  return splits[group];
}

/** How people are told of a group. */
export const groupLabels: Record<Group, string> = {
  train: 'train prompts',
  before: 'held-out prompts, before',
  after: 'held-out prompts, after',
};
