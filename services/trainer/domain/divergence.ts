import { PlumbError } from '@plumb/kit/errors';

/** What one step reports of itself, as far as divergence can be seen in it. */
export interface StepReport {
  /** Steps done, from 1. */
  readonly step: number;
  readonly loss: number;
  readonly gradientNorm: number;
  readonly anchorDistance?: number | undefined;
  /** Of float16 jobs, which skip steps whose gradient overflows; the engine says when that is divergence. */
  readonly lossScale?: number | undefined;
}

export interface DivergenceLimits {
  /** Undefined is no limit. */
  readonly maxAnchorDistance: number | undefined;
}

/** Steps whose losses make the yardstick of a spike. */
const window = 50;
/** Losses needed before a spike can be told from the noise of the first steps. */
const fewestLosses = 20;
/** A loss beyond this many median absolute deviations above the median of the window, and twice the median, is a spike. */
const spikeDeviations = 20;
/** Spikes in a row: one may be an unlucky draw of times, three are a trend. */
const spikesInARow = 3;

/** Watches the steps of one job. Its verdict follows from the reports alone, so a resumed job that replays them agrees. */
export interface DivergenceGuard {
  /** @throws PlumbError INTERNAL (TRAINING_DIVERGED) whose metadata say which limit was crossed, where and by what */
  check(report: StepReport): void;
}

export function divergenceGuard(limits: DivergenceLimits): DivergenceGuard {
  const losses: number[] = [];
  let spikes = 0;
  return {
    check({ step, loss, gradientNorm, anchorDistance, lossScale }) {
      if (!Number.isFinite(loss) || (!Number.isFinite(gradientNorm) && lossScale === undefined)) {
        throw diverged('not-finite', step, Number.isFinite(loss) ? gradientNorm : loss, {
          text: `the ${Number.isFinite(loss) ? 'gradient norm' : 'loss'} is not finite`,
        });
      }
      const { maxAnchorDistance } = limits;
      if (
        maxAnchorDistance !== undefined &&
        anchorDistance !== undefined &&
        !(anchorDistance <= maxAnchorDistance)
      ) {
        throw diverged('anchor-distance', step, anchorDistance, {
          text: `the anchor distance ${anchorDistance} is above max_anchor_distance ${maxAnchorDistance}`,
          limit: maxAnchorDistance,
        });
      }
      const limit = spikeLimit(losses);
      if (loss > limit) {
        // A spike does not enter the window: a run of them would become the new normal.
        spikes++;
        if (spikes >= spikesInARow) {
          throw diverged('loss-spike', step, loss, {
            text: `the loss ${loss} is the ${spikes}. in a row above ${limit}, far from the last ${losses.length}`,
            limit,
          });
        }
        return;
      }
      spikes = 0;
      losses.push(loss);
      if (losses.length > window) losses.shift();
    },
  };
}

function spikeLimit(losses: readonly number[]): number {
  if (losses.length < fewestLosses) return Infinity;
  const centre = median(losses);
  const spread = median(losses.map((loss) => Math.abs(loss - centre)));
  return centre + Math.max(spikeDeviations * spread, Math.abs(centre));
}

function median(values: readonly number[]): number {
  const sorted = values.toSorted((a, b) => a - b);
  const middle = Math.floor(sorted.length / 2);
  const upper = sorted[middle] ?? 0;
  return sorted.length % 2 === 1 ? upper : ((sorted[middle - 1] ?? 0) + upper) / 2;
}

function diverged(
  cause: 'not-finite' | 'loss-spike' | 'anchor-distance',
  step: number,
  value: number,
  { text, limit }: { text: string; limit?: number },
): PlumbError {
  return new PlumbError({
    code: 'INTERNAL',
    reason: 'TRAINING_DIVERGED',
    message: `training diverged at step ${step}: ${text}; the last good checkpoint is kept, lower optimisation.learning_rate`,
    metadata: {
      cause,
      step: String(step),
      value: String(value),
      ...(limit === undefined ? {} : { limit: String(limit) }),
    },
  });
}

/** The last step may have left a loss that is finite and weights that are not. */
export function checkFinite(parameters: ReadonlyMap<string, Float32Array>): void {
  for (const [name, values] of parameters) {
    if (!values.every(Number.isFinite)) {
      throw new PlumbError({
        code: 'INTERNAL',
        reason: 'TRAINING_DIVERGED',
        message: `training diverged: ${name} ends with values that are not finite; lower optimisation.learning_rate`,
        metadata: { cause: 'not-finite' },
      });
    }
  }
}
