/** The guards as rewards of this service. */

import { contentHash } from '@plumb/kit/content-hash';
import type { Clip } from '@plumb/media';
import { colourStability, motionFloor, objectPersistence } from '@plumb/rewards';
import { scoreEach } from './reward-scorer.ts';
import type { RewardScorer, ScoreValue } from './reward-scorer.ts';

/** The three guards as rewards. */
export function pixelGuards(): readonly RewardScorer[] {
  return [
    guard('motion_floor', motionFloor),
    guard('object_persistence', objectPersistence),
    guard('colour_stability', colourStability),
  ];
}

function guard(name: string, measure: (clip: Clip) => ScoreValue): RewardScorer {
  const version = '1';
  return {
    info: {
      name,
      version,
      kind: 'guard',
      // There are no weights: version and constants are all that a value depends on.
      weightsHash: contentHash({ name, version }),
      minimum: 0,
      maximum: 1,
      higherIsBetter: true,
      framesSampled: 0,
      fpsExpected: 0,
    },
    batching: { largestBatch: 64, largestDelayMs: 2, concurrentBatches: 1, largestQueue: 4096 },
    cacheable: true,
    state: () => ({ serving: true }),
    score: (items) => scoreEach(items, async (item) => measure(await item.clip())),
  };
}
