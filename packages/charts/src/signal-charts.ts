import * as Plot from '@observablehq/plot';
import { afterColour, beforeColour } from './draw-chart.ts';
import type { ChartOptions } from './draw-chart.ts';
import { percentTick } from './ticks.ts';

/** Samples whose scores lie in one bin, with the share of them that people accept and its 95% interval; all 0 to 1. */
export interface ReliabilityPoint {
  readonly score: number;
  readonly accepted: number;
  readonly low: number;
  readonly high: number;
  readonly count: number;
}

/** The reliability diagrams of one judge: its scores as they are, and as a mapping makes them. */
export interface ReliabilityCurves {
  readonly raw: readonly ReliabilityPoint[];
  readonly calibrated?: readonly ReliabilityPoint[] | undefined;
}

/**
 * Reliability diagram: accepted share against score, with intervals; the area of a dot is the number of clips. On the diagonal
 * a score is a probability. Raw scores are grey where calibrated ones stand beside them.
 */
export function reliabilityChart({ raw, calibrated }: ReliabilityCurves): ChartOptions {
  const largest = Math.max(1, ...[...raw, ...(calibrated ?? [])].map(({ count }) => count));
  const marks = (points: readonly ReliabilityPoint[], colour: string) => [
    Plot.ruleX(points, {
      x: 'score',
      y1: 'low',
      y2: 'high',
      stroke: colour,
      strokeWidth: 2,
      strokeOpacity: 0.6,
      strokeLinecap: 'round',
    }),
    Plot.lineY(points, { x: 'score', y: 'accepted', stroke: colour, strokeWidth: 1.5, strokeOpacity: 0.7 }),
    Plot.dot(points, {
      x: 'score',
      y: 'accepted',
      r: ({ count }: ReliabilityPoint) => 2.5 + 5 * Math.sqrt(count / largest),
      fill: colour,
    }),
  ];
  return {
    ariaLabel: 'Share of accepted clips against score, with 95% intervals',
    height: 300,
    x: { label: 'score', domain: [0, 1], ticks: 5, grid: true, inset: 8 },
    y: { label: 'accepted by people', domain: [0, 1], ticks: 5, tickFormat: percentTick, grid: true },
    r: { type: 'identity' },
    marks: [
      Plot.line(
        [
          [0, 0],
          [1, 1],
        ],
        { stroke: 'currentColor', strokeOpacity: 0.5, strokeDasharray: '4 4' },
      ),
      ...marks(raw, calibrated === undefined ? afterColour : beforeColour),
      ...(calibrated === undefined ? [] : marks(calibrated, afterColour)),
    ],
  };
}

/** One measurement during training, each signal in its own unit. */
export interface SignalPoint {
  /** "base", a step or an iteration. */
  readonly name: string;
  /** Mean of the reward that is trained on. */
  readonly trained: number;
  /** Mean of the held-out judge, or acceptance by it. */
  readonly heldOut: number;
}

/**
 * The over-optimisation plot: the held-out judge against the reward that is trained on, in the order of training. A path that
 * goes on to the right while it falls has been optimised too far. Undefined for fewer than two points.
 */
export function overOptimisationChart(points: readonly SignalPoint[]): ChartOptions | undefined {
  if (points.length < 2) return undefined;
  const best = points.reduce((one, other) => (other.heldOut > one.heldOut ? other : one));
  return {
    ariaLabel: 'Held-out judge against the reward that is trained on, in the order of training',
    height: 300,
    marginRight: 40,
    x: { label: 'reward that is trained on', nice: true, grid: true, ticks: 5, inset: 16 },
    y: { label: 'held-out judge', nice: true, grid: true, ticks: 5, inset: 14 },
    marks: [
      Plot.ruleY([best.heldOut], { stroke: 'currentColor', strokeOpacity: 0.5, strokeDasharray: '4 4' }),
      Plot.line(points, { x: 'trained', y: 'heldOut', stroke: afterColour, strokeWidth: 1.5 }),
      Plot.dot(points, {
        x: 'trained',
        y: 'heldOut',
        r: 4.5,
        fill: (point: SignalPoint) =>
          point === points[0] ? beforeColour : point.heldOut < best.heldOut ? 'var(--warn)' : afterColour,
      }),
      // Beside each other on the way, names would cover one another: the ends and the best are what is looked for.
      Plot.text(
        points.filter((point, index) => index === 0 || index === points.length - 1 || point === best),
        { x: 'trained', y: 'heldOut', text: 'name', dy: -12, fontSize: 12, fill: 'currentColor' },
      ),
    ],
  };
}
