import { uniformFloat64 } from 'pure-rand/distribution/uniformFloat64';
import { uniformInt } from 'pure-rand/distribution/uniformInt';
import { xoroshiro128plus } from 'pure-rand/generator/xoroshiro128plus';

/** A seeded stream of draws; the same seed gives the same draws on every machine. */
export type Random = {
  /** A number in [low, high). */
  between(low: number, high: number): number;
  /** A whole number from low to high, both included. */
  integer(low: number, high: number): number;
  /** One of the options. */
  pick<Option>(options: readonly Option[]): Option;
  /** True with the given probability. */
  chance(probability: number): boolean;
};

/**
 * Spreads neighbouring seeds over all 32 bits (the finaliser of MurmurHash3), because the generator's first draws
 * from the seeds 1, 2, 3... resemble each other.
 */
function scramble(seed: number): number {
  let bits = seed | 0;
  bits = Math.imul(bits ^ (bits >>> 16), 0x85ebca6b);
  bits = Math.imul(bits ^ (bits >>> 13), 0xc2b2ae35);
  return bits ^ (bits >>> 16);
}

/** @param seed any 32-bit whole number */
export function seededRandom(seed: number): Random {
  const generator = xoroshiro128plus(scramble(seed));
  const random: Random = {
    between: (low, high) => low + uniformFloat64(generator) * (high - low),
    integer: (low, high) => uniformInt(generator, low, high),
    pick: (options) => {
      const option = options[uniformInt(generator, 0, options.length - 1)];
      if (option === undefined) throw new RangeError('nothing to pick from: the list of options is empty');
      return option;
    },
    chance: (probability) => uniformFloat64(generator) < probability,
  };
  return random;
}
