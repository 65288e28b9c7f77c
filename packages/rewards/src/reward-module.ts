/** Builds what scores from a definition, in the calling thread. A kind's libraries are loaded when it is used. */

import { PlumbError, failedPrecondition } from '@plumb/kit/errors';
import type { Clip } from '@plumb/media';
import type { ScoredDefinition } from './definition.ts';
import { framesToScore } from './frames.ts';
import { colourStability, motionFloor, objectPersistence } from './pixel-guards.ts';
import type { LocatedDefinition } from './read-definitions.ts';
import type { RewardModule, RewardResult, RewardValue } from './reward.ts';

/**
 * @throws PlumbError FAILED_PRECONDITION for kind ai-feedback, which only a judge can score; what reading the files and
 *   loading the models throws
 */
export async function openRewardModule(
  { definition, folder }: LocatedDefinition,
  engineOptions: { readonly intraOpThreads: number },
): Promise<RewardModule> {
  if (definition.kind === 'ai-feedback') {
    throw failedPrecondition(
      `reward '${definition.name}' is a judge's verdict; ask the judge service for it`,
      { reason: 'CONFIGURATION_INVALID' },
    );
  }
  const module = await moduleOf(definition, folder, engineOptions);
  return {
    async score(inputs) {
      return (await module.score(inputs)).map((result) => withinRange(definition, result));
    },
    close: () => module.close(),
  };
}

async function moduleOf(
  definition: ScoredDefinition,
  folder: string,
  engineOptions: { readonly intraOpThreads: number },
): Promise<RewardModule> {
  switch (definition.kind) {
    case 'clip-score':
    case 'preference': {
      const { openClipReward } = await import('./clip-family.ts');
      const { openInThread } = await import('@plumb/tensor-graph/engine');
      return openClipReward(definition, folder, openInThread(engineOptions));
    }
    case 'optical-flow': {
      const { openOpticalFlow } = await import('./optical-flow.ts');
      return openOpticalFlow(definition, folder, async () => {
        const { openInThread } = await import('@plumb/tensor-graph/engine');
        return openInThread(engineOptions);
      });
    }
    case 'motion-floor':
      return guard(definition, motionFloor);
    case 'object-persistence':
      return guard(definition, objectPersistence);
    case 'colour-stability':
      return guard(definition, colourStability);
  }
}

function guard(definition: ScoredDefinition, measure: (clip: Clip) => RewardValue): RewardModule {
  return {
    score: async (inputs) =>
      inputs.map(({ clip }): RewardResult => {
        try {
          return { score: measure(selected(clip, framesToScore(definition, clip))) };
        } catch (error) {
          return { error: PlumbError.from(error) };
        }
      }),
    close: async () => undefined,
  };
}

/** A clip of some of a clip's frames. */
function selected(clip: Clip, indices: readonly number[]): Clip {
  if (indices.length === clip.frames) return clip;
  const size = clip.width * clip.height * 3;
  const data = new Uint8Array(indices.length * size);
  for (const [row, index] of indices.entries()) {
    data.set(clip.data.subarray(index * size, (index + 1) * size), row * size);
  }
  return { ...clip, frames: indices.length, data };
}

/** Room for rounding at the ends of a range. */
const rangeSlack = 1e-6;

/** A value that cannot occur is a failure: not a number, or outside of the range that the definition promises. */
function withinRange({ name, range }: ScoredDefinition, result: RewardResult): RewardResult {
  if ('error' in result) return result;
  const { value } = result.score;
  const { minimum = -Infinity, maximum = Infinity } = range;
  const slack = rangeSlack * Math.max(1, Math.abs(value));
  if (Number.isFinite(value) && value >= minimum - slack && value <= maximum + slack) return result;
  return {
    error: new PlumbError({
      code: 'INTERNAL',
      reason: 'REWARD_FAILED',
      message: `reward '${name}' gave ${value}, which is outside of its range ${minimum} to ${maximum}`,
    }),
  };
}
