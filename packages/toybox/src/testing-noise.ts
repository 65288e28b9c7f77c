import type { Clip } from '@plumb/media';
import { seededRandom } from './random.ts';

/** Standard normal draws, made once: drawing fresh ones for every clip takes longer than judging it. */
const draws = Float32Array.from(
  { length: 2 ** 18 },
  ((random) => () => {
    const radius = Math.sqrt(-2 * Math.log(1 - random.between(0, 1)));
    return radius * Math.cos(2 * Math.PI * random.between(0, 1));
  })(seededRandom(2024)),
);

/** A copy of a clip with Gaussian noise on every value; `deviation` is on the 0..1 scale. For tests. */
export function withNoise(clip: Clip, deviation: number, seed: number): Clip {
  const offset = seededRandom(seed).integer(0, draws.length - 1);
  const data = clip.data.map((value, index) => {
    const draw = draws[(offset + index) % draws.length] ?? 0;
    return Math.max(0, Math.min(255, Math.round(value + draw * deviation * 255)));
  });
  return { ...clip, data };
}
