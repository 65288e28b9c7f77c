import { invalidArgument } from '@plumb/kit/errors';
import { spearman } from './agreement.ts';

/** Measurements of one checkpoint or iteration on held-out prompts. */
export interface ProbePoint {
  /** Training step or iteration, rising. The first point is the model before training. */
  readonly step: number;
  /** Mean of the reward that is trained on. */
  readonly trained: number;
  /** Acceptance by the held-out judge, or by people: nothing that the training signal came from. */
  readonly heldOut: number;
  /** Pass rates of the guards: motion above the floor, objects that persist, colours that stay. */
  readonly guards?: Readonly<Record<string, number>>;
}

export interface OverOptimisationOptions {
  /** Rise of the trained-on reward that counts, in its own unit; 0 unless given. */
  readonly trainedTolerance?: number;
  /** Fall of the held-out judge below its best that counts; 0.02 unless given. Set it above the probe's noise. */
  readonly heldOutTolerance?: number;
  /** Fall of a guard below its first value that counts; 0.05 unless given. */
  readonly guardTolerance?: number;
  /** True reads `guardTolerance` as a share of the guard's first value, for guards that are no rates; false unless given. */
  readonly relativeGuards?: boolean;
  /** Points in a row that must show it, so that one noisy probe does not stop a run; 1 unless given. */
  readonly patience?: number;
}

/** One sign of over-optimisation. */
export interface OverOptimisationFinding {
  /**
   * `diverging`: the trained-on reward rose while the held-out judge fell. `degenerate-cure`: a guard fell while the
   * trained-on reward rose; the reward is being earned by breaking the picture.
   */
  readonly kind: 'diverging' | 'degenerate-cure';
  readonly guard?: string;
  /** First step of the run of points that show it. */
  readonly since: number;
  /** The point it is compared with: the held-out judge's best, or the first. */
  readonly from: ProbePoint;
  /** The newest point. */
  readonly to: ProbePoint;
  readonly sentence: string;
}

export interface OverOptimisation {
  readonly detected: boolean;
  readonly findings: readonly OverOptimisationFinding[];
  /** Step at which the held-out judge was best (the earliest if several): the checkpoint to keep. */
  readonly bestStep: number;
  /** Spearman's correlation of trained-on reward and held-out judge over the points; null below three or if constant. */
  readonly correlation: number | null;
}

/**
 * Watches a run for Goodhart's law: the trained-on reward rises while what it stands for falls. A finding is reported
 * when it holds at the newest point and at the `patience` - 1 before it, and so can be asked after every probe.
 * @param points at least one, steps rising
 * @throws PlumbError INVALID_ARGUMENT for no points, steps that do not rise, or values that are not finite
 */
export function detectOverOptimisation(
  points: readonly ProbePoint[],
  options: OverOptimisationOptions = {},
): OverOptimisation {
  const { trainedTolerance = 0, heldOutTolerance = 0.02, guardTolerance = 0.05, patience = 1 } = options;
  const guardFall = (base: number): number =>
    options.relativeGuards === true ? guardTolerance * Math.abs(base) : guardTolerance;
  const first = points[0];
  const last = points.at(-1);
  if (first === undefined || last === undefined) {
    throw invalidArgument('points', 'is empty; probe the model before training first');
  }
  for (const [index, point] of points.entries()) {
    const values = [point.step, point.trained, point.heldOut, ...Object.values(point.guards ?? {})];
    if (!values.every(Number.isFinite)) {
      throw invalidArgument(`points[${index}]`, `is ${JSON.stringify(point)}; every value must be finite`);
    }
    if (point.step <= (points[index - 1]?.step ?? -Infinity)) {
      throw invalidArgument(`points[${index}].step`, `is ${point.step}; steps must rise`);
    }
  }
  const bestUpTo = (end: number): ProbePoint =>
    points.slice(0, end + 1).reduce((best, point) => (point.heldOut > best.heldOut ? point : best));
  /** First step of the unbroken run at the end in which `shows` holds, if it is as long as patience asks. */
  const runAtEnd = (shows: (point: ProbePoint, index: number) => boolean): number | undefined => {
    const start = points.findLastIndex((point, index) => !shows(point, index)) + 1;
    return points.length - start >= patience ? points[start]?.step : undefined;
  };

  const findings: OverOptimisationFinding[] = [];
  const best = bestUpTo(points.length - 1);
  const diverging = runAtEnd((point, index) => {
    const reference = bestUpTo(index);
    return (
      point.trained > reference.trained + trainedTolerance &&
      point.heldOut < reference.heldOut - heldOutTolerance
    );
  });
  if (diverging !== undefined) {
    findings.push({
      kind: 'diverging',
      since: diverging,
      from: best,
      to: last,
      sentence:
        `From step ${best.step} to ${last.step} the trained-on reward rose from ${figure(best.trained)} to ${figure(last.trained)} ` +
        `while the held-out judge fell from ${figure(best.heldOut)} to ${figure(last.heldOut)}.`,
    });
  }
  for (const [guard, base] of Object.entries(first.guards ?? {})) {
    const degenerate = runAtEnd(
      (point) =>
        point.trained > first.trained + trainedTolerance &&
        (point.guards?.[guard] ?? base) < base - guardFall(base),
    );
    if (degenerate === undefined) continue;
    findings.push({
      kind: 'degenerate-cure',
      guard,
      since: degenerate,
      from: first,
      to: last,
      sentence:
        `Since step ${first.step} the trained-on reward rose from ${figure(first.trained)} to ${figure(last.trained)} ` +
        `while guard ${guard} fell from ${figure(base)} to ${figure(last.guards?.[guard] ?? base)}.`,
    });
  }
  const correlation =
    points.length < 3
      ? null
      : spearman(
          points.map(({ trained }) => trained),
          points.map(({ heldOut }) => heldOut),
        );
  return { detected: findings.length > 0, findings, bestStep: best.step, correlation };
}

function figure(value: number): string {
  return value.toPrecision(3);
}
