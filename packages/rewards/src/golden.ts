/** Golden clips: values that a reward must give before it is trusted. */

import { failedPrecondition } from '@plumb/kit/errors';
import { decodeClip } from '@plumb/media';
import { readReferenced } from './read-definitions.ts';
import type { LocatedDefinition } from './read-definitions.ts';
import type { RewardInput, RewardResult } from './reward.ts';

/**
 * Scores the golden clips of a definition and compares.
 *
 * @throws PlumbError FAILED_PRECONDITION, reason REWARD_GOLDEN_MISMATCH, naming the clip, its recorded value and the one
 *   that came; what reading a clip throws; the error that a clip was scored with
 */
export async function checkGoldenClips(
  located: LocatedDefinition,
  score: (inputs: readonly RewardInput[]) => Promise<readonly RewardResult[]>,
): Promise<void> {
  const { name, golden } = located.definition;
  const values = await scoreGoldenClips(located, score);
  for (const [index, value] of values.entries()) {
    const recorded = golden[index];
    if (recorded === undefined || Math.abs(value - recorded.value) <= recorded.tolerance) continue;
    throw failedPrecondition(
      `reward '${name}' gives ${value} for its golden clip ${recorded.clip.file} ("${recorded.prompt}"), but ` +
        `${recorded.value} with a tolerance of ${recorded.tolerance} is recorded; something that it depends on has changed. ` +
        'If that is meant, raise its version and record the values anew',
      { reason: 'REWARD_GOLDEN_MISMATCH', metadata: { reward: name, clip: recorded.clip.file } },
    );
  }
}

/** The values that a reward gives its golden clips now, in their order. */
export async function scoreGoldenClips(
  { definition, folder }: LocatedDefinition,
  score: (inputs: readonly RewardInput[]) => Promise<readonly RewardResult[]>,
): Promise<number[]> {
  if (definition.golden.length === 0) return [];
  const inputs = await Promise.all(
    definition.golden.map(async ({ clip, prompt }) => {
      const { frames, width, height, fps } = clip;
      return {
        clip: await decodeClip(await readReferenced(folder, clip), { frames, width, height, fps }),
        prompt,
      };
    }),
  );
  return (await score(inputs)).map((result) => {
    if ('error' in result) throw result.error;
    return result.score.value;
  });
}
