import { createHash } from 'node:crypto';
import { uniformFloat64 } from 'pure-rand/distribution/uniformFloat64';
import { xoroshiro128plusFromState } from 'pure-rand/generator/xoroshiro128plus';
import type { RandomGenerator } from 'pure-rand/types/RandomGenerator';

export type { RandomGenerator };

/**
 * A generator whose state follows from the parts alone, so that any draw can be repeated without the draws before it:
 * `randomGenerator(seed, 'noise', step)`. Different parts give independent streams.
 */
export function randomGenerator(...parts: readonly (string | number | bigint)[]): RandomGenerator {
  // The length prefix keeps ('a', 'b') and ('a:b') apart.
  const text = parts.map((part) => `${String(part).length}:${part}`).join('');
  const digest = createHash('sha256').update(text).digest();
  return xoroshiro128plusFromState([
    digest.readInt32LE(0),
    digest.readInt32LE(4),
    digest.readInt32LE(8),
    // An all-zero state would only ever give zeros.
    digest.readInt32LE(12) | 1,
  ]);
}

/** A number from the uniform distribution over [0, 1). */
export function uniform(random: RandomGenerator): number {
  return uniformFloat64(random);
}

/** Fills `target` with independent draws from N(0, 1), by the Box-Muller transform; returns it. */
export function fillGaussian(target: Float32Array, random: RandomGenerator): Float32Array {
  for (let i = 0; i < target.length; i += 2) {
    // 1 - u lies in (0, 1], where the logarithm is finite.
    const radius = Math.sqrt(-2 * Math.log(1 - uniformFloat64(random)));
    const angle = 2 * Math.PI * uniformFloat64(random);
    target[i] = radius * Math.cos(angle);
    if (i + 1 < target.length) target[i + 1] = radius * Math.sin(angle);
  }
  return target;
}

/** One draw from N(0, 1). */
export function gaussian(random: RandomGenerator): number {
  return (
    Math.sqrt(-2 * Math.log(1 - uniformFloat64(random))) * Math.cos(2 * Math.PI * uniformFloat64(random))
  );
}
