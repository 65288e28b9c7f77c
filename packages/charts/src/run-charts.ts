import * as Plot from '@observablehq/plot';
import { afterColour, beforeColour } from './draw-chart.ts';
import type { ChartOptions } from './draw-chart.ts';
import type { Acceptance, NamedCategory, RateInterval, TrainingPoint } from './intervals.ts';
import { percentTick, pointsTick } from './ticks.ts';

const rowHeight = 46;

interface Row {
  readonly name: string;
}

/** Acceptance by category with 95% intervals, before above after. */
export function acceptanceChart(acceptance: Acceptance, categories: readonly NamedCategory[]): ChartOptions {
  const rows = withOverall(categories).flatMap(({ id, name }) => {
    const before = acceptance.before[id];
    const after = acceptance.after[id];
    return before === undefined || after === undefined ? [] : [{ name, before, after }];
  });
  const half = 8;
  return {
    ariaLabel: 'Acceptance on held-out prompts by category, before and after, with 95% intervals',
    height: rows.length * rowHeight + 44,
    x: { domain: [0, 1], ticks: 5, tickFormat: percentTick, label: null, grid: true },
    y: { domain: rows.map(({ name }) => name), label: null, tickSize: 0 },
    marks: [
      Plot.ruleY(rows, {
        y: 'name',
        x1: (row: (typeof rows)[number]) => row.before.low,
        x2: (row: (typeof rows)[number]) => row.before.high,
        dy: -half,
        stroke: beforeColour,
        strokeWidth: 2.5,
        strokeLinecap: 'round',
      }),
      Plot.dot(rows, {
        y: 'name',
        x: (row: (typeof rows)[number]) => row.before.rate,
        dy: -half,
        r: 4.5,
        fill: beforeColour,
      }),
      Plot.ruleY(rows, {
        y: 'name',
        x1: (row: (typeof rows)[number]) => row.after.low,
        x2: (row: (typeof rows)[number]) => row.after.high,
        dy: half,
        stroke: afterColour,
        strokeWidth: 2.5,
        strokeLinecap: 'round',
      }),
      Plot.dot(rows, {
        y: 'name',
        x: (row: (typeof rows)[number]) => row.after.rate,
        dy: half,
        r: 4.5,
        fill: afterColour,
      }),
    ],
  };
}

/** Paired differences by category with 95% intervals about zero. */
export function differenceChart(acceptance: Acceptance, categories: readonly NamedCategory[]): ChartOptions {
  const rows = withOverall(categories).flatMap(({ id, name }) => {
    const difference = acceptance.difference[id];
    return difference === undefined ? [] : [{ name, ...difference }];
  });
  const reach = Math.max(0.1, ...rows.flatMap(({ low, high }) => [Math.abs(low), Math.abs(high)]));
  const limit = Math.ceil(reach * 10) / 10;
  return {
    ariaLabel: 'Paired difference in acceptance by category, with 95% intervals',
    height: rows.length * rowHeight + 44,
    x: { domain: [-limit, limit], ticks: 5, tickFormat: pointsTick, label: null, grid: true },
    y: { domain: rows.map(({ name }) => name), label: null, tickSize: 0 },
    marks: [
      Plot.ruleX([0], { stroke: 'currentColor', strokeOpacity: 0.6 }),
      Plot.ruleY(rows, {
        y: 'name',
        x1: 'low',
        x2: 'high',
        stroke: afterColour,
        strokeWidth: 2.5,
        strokeLinecap: 'round',
      }),
      Plot.dot(rows, { y: 'name', x: 'mean', r: 4.5, fill: afterColour }),
    ],
  };
}

/** Training loss by step: every measured point, and their running mean as a line. */
export function lossChart(points: readonly TrainingPoint[]): ChartOptions {
  return {
    ariaLabel: 'Training loss by step',
    height: 240,
    x: { label: 'step', nice: true, tickFormat: (step: number) => String(step) },
    y: { label: 'loss', grid: true, nice: true, ticks: 5 },
    marks: [
      Plot.dot(points, { x: 'step', y: 'loss', r: 1.4, fill: beforeColour, fillOpacity: 0.7 }),
      Plot.lineY(
        points,
        Plot.windowY(Math.max(1, Math.min(15, Math.floor(points.length / 6))), {
          x: 'step',
          y: 'loss',
          stroke: afterColour,
          strokeWidth: 2,
        }),
      ),
    ],
  };
}

/** Anchor distance by step; undefined where it was not measured. */
export function anchorChart(points: readonly TrainingPoint[]): ChartOptions | undefined {
  const measured = points.flatMap(({ step, anchorDistance }) =>
    anchorDistance === undefined ? [] : [{ step, anchorDistance }],
  );
  if (measured.length === 0) return undefined;
  return {
    ariaLabel: 'Anchor distance by step',
    height: 240,
    x: { label: 'step', nice: true, tickFormat: (step: number) => String(step) },
    y: { label: 'anchor distance', grid: true, zero: true, nice: true, ticks: 5 },
    marks: [
      Plot.lineY(measured, { x: 'step', y: 'anchorDistance', stroke: afterColour, strokeWidth: 2 }),
      Plot.dot(measured, { x: 'step', y: 'anchorDistance', r: 2, fill: afterColour }),
    ],
  };
}

function withOverall(categories: readonly NamedCategory[]): readonly (NamedCategory & Row)[] {
  return [{ id: 'overall', name: 'Overall' }, ...categories];
}

/** Acceptance on held-out prompts after each iteration with its 95% interval; 0 is the model that the run started from. */
export function learningCurve(
  points: readonly ({ readonly iteration: number } & RateInterval)[],
): ChartOptions {
  return {
    ariaLabel: 'Acceptance on held-out prompts by iteration, with 95% intervals',
    height: 240,
    x: {
      label: 'iteration',
      ticks: points.map(({ iteration }) => iteration),
      tickFormat: (iteration: number) => (iteration === 0 ? 'base' : String(iteration)),
      inset: 24,
    },
    y: { label: 'accepted', domain: [0, 1], ticks: 5, tickFormat: percentTick, grid: true },
    marks: [
      Plot.ruleX(points, {
        x: 'iteration',
        y1: 'low',
        y2: 'high',
        stroke: afterColour,
        strokeWidth: 2.5,
        strokeLinecap: 'round',
      }),
      Plot.lineY(points, {
        x: 'iteration',
        y: 'rate',
        stroke: afterColour,
        strokeWidth: 1.5,
        strokeOpacity: 0.6,
      }),
      Plot.dot(points, { x: 'iteration', y: 'rate', r: 4.5, fill: afterColour }),
    ],
  };
}

/** Mean of one reward over the clips of each probe of a training, in the reward's own unit; step 0 is the base. */
export function probeChart(
  reward: string,
  points: readonly { readonly step: number; readonly value: number }[],
): ChartOptions {
  return {
    ariaLabel: `Mean of ${reward} over the probe's clips by training step`,
    height: 200,
    x: { label: 'step', nice: true, tickFormat: (step: number) => String(step) },
    y: { label: reward, grid: true, nice: true, ticks: 5 },
    marks: [
      Plot.lineY(points, { x: 'step', y: 'value', stroke: afterColour, strokeWidth: 2 }),
      Plot.dot(points, { x: 'step', y: 'value', r: 3, fill: afterColour }),
    ],
  };
}
