import { invalidArgument } from '@plumb/kit/errors';
import { clusterBootstrap } from './cluster-bootstrap.ts';
import type { BootstrapOptions, ClusteredEstimates, ColumnKind } from './cluster-bootstrap.ts';

/** What a judge, a picture check or a reward said of one sample. Samples without a score are left out, not set to 0. */
export interface Outcome {
  readonly promptId: string;
  readonly category: string;
  readonly value: number | boolean;
}

/**
 * Acceptance rate overall (mean over samples) and by category, with intervals that respect prompts. For any yes or no:
 * a judge's verdicts, a picture check's passes.
 * @param outcomes values 0, 1, false or true, or probabilities of acceptance
 * @throws PlumbError INVALID_ARGUMENT for a value outside [0, 1]; FAILED_PRECONDITION for no outcomes
 */
export function acceptance(outcomes: readonly Outcome[], options: BootstrapOptions): ClusteredEstimates {
  for (const [index, { value }] of outcomes.entries()) {
    if (!(Number(value) >= 0 && Number(value) <= 1)) {
      throw invalidArgument(`outcomes[${index}].value`, `is ${value}; a rate needs values between 0 and 1`);
    }
  }
  return estimateMeans(outcomes, 'rate', options);
}

/**
 * Mean of a reward overall (over samples) and by category, with intervals that respect prompts.
 * @throws PlumbError INVALID_ARGUMENT for a value that is not finite; FAILED_PRECONDITION for no outcomes, or for a
 *   category with a single prompt
 */
export function meanReward(outcomes: readonly Outcome[], options: BootstrapOptions): ClusteredEstimates {
  for (const [index, { value }] of outcomes.entries()) {
    if (!Number.isFinite(Number(value))) {
      throw invalidArgument(
        `outcomes[${index}].value`,
        `is ${value}; leave samples whose score failed out instead`,
      );
    }
  }
  return estimateMeans(outcomes, 'unbounded', options);
}

function estimateMeans(
  outcomes: readonly Outcome[],
  kind: ColumnKind,
  options: BootstrapOptions,
): ClusteredEstimates {
  const prompts = [...groupByPrompt(outcomes)];
  const clusters = prompts.map(({ category, members }) => ({
    category,
    sums: [members.reduce((sum, { value }) => sum + Number(value), 0)],
    count: members.length,
    samples: members.length,
  }));
  const [estimates] = clusterBootstrap(clusters, [kind], options);
  if (estimates === undefined) throw invalidArgument('outcomes', 'gave no estimate');
  return estimates;
}

/** Groups by prompt, sorted by id, so that the order of outcomes does not matter. */
export function groupByPrompt<T extends { readonly promptId: string; readonly category: string }>(
  outcomes: readonly T[],
): { promptId: string; category: string; members: readonly T[] }[] {
  const groups = [...Map.groupBy(outcomes, ({ promptId }) => promptId)];
  return groups
    .toSorted(([a], [b]) => (a < b ? -1 : a > b ? 1 : 0))
    .map(([promptId, members]) => {
      const categories = new Set(members.map(({ category }) => category));
      if (categories.size > 1) {
        throw invalidArgument(
          `outcomes[promptId=${promptId}].category`,
          `is both ${[...categories].join(' and ')}; a prompt has one category`,
        );
      }
      return { promptId, category: members[0]?.category ?? '', members };
    });
}
