import type { BootstrapOptions } from './cluster-bootstrap.ts';
import { pairedDifference, pairOutcomes } from './paired-difference.ts';
import type { Comparison, PairedDifference, SeededOutcome } from './paired-difference.ts';

/** Half and more is an acceptance: a verdict is 1 or 0, or a probability. */
export const acceptThreshold = 0.5;

/** A held-out clip with what was measured on it; what ended in an error has no value. */
export interface MeasuredClip {
  readonly promptId: string;
  readonly category: string;
  readonly seed: string;
  /** Value by reward. */
  readonly values: Readonly<Record<string, number>>;
  /** What the judge checked beside its verdict, for example `picture`. */
  readonly checks: Readonly<Record<string, boolean>>;
}

/** Which reward is which. */
export interface Signals {
  /** Its value of 0.5 and more is the verdict. */
  readonly judge: string;
  /** Empty for none. */
  readonly heldOut: string;
  /** The reward that was trained on. */
  readonly trained: string;
  readonly guards: readonly string[];
}

/** Two models on the same prompts and seeds, by every signal that was measured. */
export interface ModelComparison {
  /** By the verdict, 1 or 0. */
  readonly verdict: PairedDifference;
  readonly heldOut?: PairedDifference | undefined;
  readonly trained?: PairedDifference | undefined;
  /** By the judge's checks: shares of clips that pass. */
  readonly guards: Readonly<Record<string, Comparison>>;
  /** By the guard rewards. */
  readonly guardRewards: Readonly<Record<string, Comparison>>;
  /** Clips without a partner by the verdict. */
  readonly unpaired: { readonly before: number; readonly after: number };
}

/**
 * Compares two models clip by clip. Each signal takes the clips that it has a value of on both sides.
 * @throws PlumbError FAILED_PRECONDITION when no prompt and seed has a verdict on both sides
 */
export function compareModels(
  before: readonly MeasuredClip[],
  after: readonly MeasuredClip[],
  signals: Signals,
  options: BootstrapOptions,
): ModelComparison {
  const compare = (value: (clip: MeasuredClip) => number | undefined): PairedDifference | undefined => {
    const [first, second] = [outcomesOf(before, value), outcomesOf(after, value)];
    if (first.length === 0 || second.length === 0) return undefined;
    return pairedDifference(pairOutcomes(first, second).pairs, options);
  };
  const named = (names: Iterable<string>, value: (clip: MeasuredClip, name: string) => number | undefined) =>
    Object.fromEntries(
      [...names].flatMap((name) => {
        const compared = compare((clip) => value(clip, name));
        return compared === undefined ? [] : [[name, overall(compared)] as const];
      }),
    );
  const verdict = ({ values }: MeasuredClip): number | undefined => {
    const value = values[signals.judge];
    return value === undefined ? undefined : Number(value >= acceptThreshold);
  };
  const { pairs, unpaired } = pairOutcomes(outcomesOf(before, verdict), outcomesOf(after, verdict));
  const heldOut = compare(({ values }) => values[signals.heldOut]);
  const trained = compare(({ values }) => values[signals.trained]);
  const checks = new Set([...before, ...after].flatMap((clip) => Object.keys(clip.checks)));
  return {
    verdict: pairedDifference(pairs, options),
    ...(heldOut === undefined ? {} : { heldOut }),
    ...(trained === undefined ? {} : { trained }),
    guards: named([...checks].toSorted(), (clip, name) => {
      const check = clip.checks[name];
      return check === undefined ? undefined : Number(check);
    }),
    guardRewards: named(signals.guards, ({ values }, name) => values[name]),
    unpaired,
  };
}

function outcomesOf(
  clips: readonly MeasuredClip[],
  value: (clip: MeasuredClip) => number | undefined,
): SeededOutcome[] {
  return clips.flatMap((clip) => {
    const found = value(clip);
    const { promptId, category, seed } = clip;
    return found === undefined ? [] : [{ promptId, category, seed, value: found }];
  });
}

function overall({ before, after, difference, winRate, pValue }: PairedDifference): Comparison {
  return { before, after, difference, winRate, pValue };
}
