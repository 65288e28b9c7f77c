import { Split } from '@plumb/proto/plumb/prompts/v1/prompt_pb.js';

/**
 * The three sets of samples of an iteration: training prompts, and held-out prompts from the current model (`before`) and
 * from the candidate (`after`), in the order in which their tasks are enqueued.
 */
export const groups = ['train', 'before', 'after'] as const;

export type Group = (typeof groups)[number];

const splits: Record<Group, Split> = {
  train: Split.TRAIN,
  before: Split.HELDOUT,
  after: Split.HELDOUT,
};

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
