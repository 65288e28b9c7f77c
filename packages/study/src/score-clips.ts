import { createHash } from 'node:crypto';
import { availableParallelism } from 'node:os';
import { notFound } from '@plumb/kit/errors';
import type { Clip } from '@plumb/media';
import type { Prompt } from '@plumb/prompts';
import { openReward } from '@plumb/rewards';
import type { LocatedDefinition, Reward } from '@plumb/rewards';
import { gradeOf, picturePasses, turnedRound } from '@plumb/toybox';
import { referee } from '@plumb/toybox/referee';
import type { ScoredClip } from './records.ts';

/** Clips that are scored together. */
const batch = 32;

/** All rewards of a study, loaded. */
export interface Scoring {
  /** `higher` or `lower` is better, by reward. */
  readonly directions: ReadonlyMap<string, 'higher' | 'lower'>;
  /** Hashes of all that values depend on, by reward. */
  readonly hashes: Readonly<Record<string, string>>;
  /**
   * Scores each clip with every reward, and has the referee judge it.
   * @throws PlumbError of the first reward that fails: a study without some of its values would mislead
   */
  score(drawn: readonly { prompt: Prompt; index: number; clip: Clip }[]): Promise<ScoredClip[]>;
  close(): Promise<void>;
}

/**
 * Loads the rewards that look at pixels. The judge's are the referee's and need no loading.
 * @param needed names that must be among them
 * @throws PlumbError NOT_FOUND for a needed reward that no definition has; what `openReward` throws
 */
export async function openScoring(
  definitions: readonly LocatedDefinition[],
  needed: readonly string[],
): Promise<Scoring> {
  const located = definitions.filter(({ definition }) => definition.kind !== 'ai-feedback');
  for (const name of needed) {
    if (located.some(({ definition }) => definition.name === name)) continue;
    throw notFound('reward', name);
  }
  const rewards: Reward[] = [];
  const close = async (): Promise<void> => {
    await Promise.all(rewards.map((reward) => reward.close()));
  };
  try {
    for (const one of located) {
      rewards.push(await openReward(one, { form: 'worker', intraOpThreads: availableParallelism() }));
    }
  } catch (error) {
    await close();
    throw error;
  }
  return {
    directions: new Map(rewards.map(({ definition }) => [definition.name, definition.direction])),
    hashes: Object.fromEntries(rewards.map(({ definition, weightsHash }) => [definition.name, weightsHash])),
    async score(drawn) {
      const scored: ScoredClip[] = [];
      for (let start = 0; start < drawn.length; start += batch) {
        const part = drawn.slice(start, start + batch);
        const inputs = part.map(({ clip, prompt }) => ({ clip, prompt: prompt.text }));
        const columns: (readonly [string, readonly number[]])[] = [];
        for (const reward of rewards) {
          const results = await reward.score(inputs);
          const values = results.map((result) => {
            if ('error' in result) throw result.error;
            return result.score.value;
          });
          columns.push([reward.definition.name, values]);
        }
        for (const [row, { prompt, index, clip }] of part.entries()) {
          const verdict = referee(clip, prompt.text);
          scored.push({
            promptId: prompt.id,
            category: prompt.category,
            index,
            sha256: createHash('sha256').update(clip.data).digest('hex'),
            accept: verdict.accept,
            grade: gradeOf(verdict),
            wrongGrade: gradeOf(turnedRound(verdict)),
            picture: picturePasses(verdict),
            values: Object.fromEntries(columns.map(([name, values]) => [name, values[row] ?? Number.NaN])),
          });
        }
      }
      return scored;
    },
    close,
  };
}
