import { invalidArgument } from '@plumb/kit/errors';
import jStat from 'jstat';
import type { Estimate } from './estimate.ts';

/**
 * Wilson's score interval for a proportion of independent trials (Wilson 1927; method 3 of Newcombe 1998). Samples of one
 * prompt are not independent: use `acceptance` for those.
 * @param successes from 0 to `trials`; need not be whole
 * @param trials above 0
 * @param level coverage in (0, 1)
 * @throws PlumbError INVALID_ARGUMENT
 */
export function wilsonInterval(successes: number, trials: number, level = 0.95): Estimate {
  if (!(trials > 0 && trials < Infinity)) {
    throw invalidArgument('trials', `is ${trials}; must be above 0`);
  }
  if (!(successes >= 0 && successes <= trials)) {
    throw invalidArgument('successes', `is ${successes}; must lie between 0 and the ${trials} trials`);
  }
  if (!(level > 0 && level < 1)) throw invalidArgument('level', `is ${level}; must be between 0 and 1`);
  const z = jStat.normal.inv((1 + level) / 2, 0, 1);
  const rate = successes / trials;
  const shrinkage = 1 + z ** 2 / trials;
  const centre = (rate + z ** 2 / (2 * trials)) / shrinkage;
  const half = (z / shrinkage) * Math.sqrt((rate * (1 - rate)) / trials + z ** 2 / (4 * trials ** 2));
  return {
    value: rate,
    // Exactly 0 and 1 at the ends, where rounding would leave a trace.
    lower: rate === 0 ? 0 : centre - half,
    upper: rate === 1 ? 1 : centre + half,
    level,
    method: 'wilson',
    clusters: trials,
    samples: trials,
  };
}
