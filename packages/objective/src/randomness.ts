import { createHash } from 'node:crypto';
import { uniformFloat64 } from 'pure-rand/distribution/uniformFloat64';
import { xoroshiro128plusFromState } from 'pure-rand/generator/xoroshiro128plus';
import type { RandomGenerator } from 'pure-rand/types/RandomGenerator';

/**
 * A random generator that belongs to a purpose: equal keys give equal streams, different keys unrelated ones. So
 * nothing depends on how many numbers other code drew before.
 * @param seed any number
 * @param key names the purpose, such as `'pairs', promptId` or `'epoch', 3`
 */
export function keyedGenerator(seed: number, ...key: readonly (string | number)[]): RandomGenerator {
  const digest = createHash('sha256')
    .update(JSON.stringify([seed, ...key]))
    .digest();
  return xoroshiro128plusFromState([0, 4, 8, 12].map((offset) => digest.readInt32LE(offset)));
}

/** A shuffled copy, every order equally likely: sorted by random keys of 53 bits, which in practice never tie. */
export function shuffled<T>(values: readonly T[], random: RandomGenerator): T[] {
  return values
    .map((value) => ({ value, key: uniformFloat64(random) }))
    .toSorted((a, b) => a.key - b.key)
    .map(({ value }) => value);
}
