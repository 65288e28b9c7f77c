import { mean } from 'simple-statistics';
import { feedbackOn } from './feedback.ts';
import type { ScoredClip } from './records.ts';
import type { StudyData } from './run-study.ts';
import { armId } from './spec.ts';

/** One cell as a row of plain values; null where there is none. */
export type CellRow = Readonly<Record<string, string | number | null>>;

/** A row for each cell: one arm with one seed. Shares are from 0 to 1. */
export function cellTable({ spec, cells, groups }: StudyData): CellRow[] {
  return cells.map(({ arm, seed, set, training, heldOut, weightsHash }) => {
    const before = groups.get(seed)?.heldOut.clips ?? [];
    const means = (name: string, value: (clip: ScoredClip) => number): Record<string, number> => ({
      [`${name}_before`]: mean(before.map(value)),
      [`${name}_after`]: mean(heldOut.map(value)),
    });
    return {
      arm: armId(arm),
      algorithm: arm.algorithm,
      reward: arm.reward ?? null,
      judge_noise: arm.judgeNoise ?? null,
      beta: arm.beta ?? null,
      seed,
      ...means('accepted', ({ accept }) => Number(accept)),
      ...(arm.reward === undefined
        ? { trained_reward_before: null, trained_reward_after: null }
        : means('trained_reward', (clip) => feedbackOn(clip, arm, seed))),
      ...means('picture', ({ picture }) => Number(picture)),
      ...Object.assign(
        {},
        ...spec.evaluation.guards.map((guard) => means(guard, ({ values }) => values[guard] ?? Number.NaN)),
      ),
      items: set.items,
      effective_sample_size: set.effectiveSampleSize,
      uninformative_prompt_ratio: set.uninformativePromptRatio,
      anchor_distance: training.anchorDistance,
      training_seconds: training.seconds,
      weights: weightsHash,
    };
  });
}

/** The rows as CSV (RFC 4180). */
export function csvOf(rows: readonly CellRow[]): string {
  const columns = Object.keys(rows[0] ?? {});
  const field = (value: string | number | null | undefined): string => {
    const text = value === null || value === undefined ? '' : String(value);
    return /[",\r\n]/.test(text) ? `"${text.replaceAll('"', '""')}"` : text;
  };
  return [columns, ...rows.map((row) => columns.map((column) => row[column]))]
    .map((line) => `${line.map(field).join(',')}\r\n`)
    .join('');
}
