import * as Plot from '@observablehq/plot';
import { afterColour, beforeColour, percent, points, render } from './render-chart.ts';
import type { Acceptance, ReportCategory, ReportTraining } from './report-data.ts';

const rowHeight = 46;

interface Row {
  readonly name: string;
}

/** Acceptance by category with 95% intervals, before above after, as an SVG element. */
export function acceptanceChart(acceptance: Acceptance, categories: readonly ReportCategory[]): string {
  const rows = withOverall(categories).flatMap(({ id, name }) => {
    const before = acceptance.before[id];
    const after = acceptance.after[id];
    return before === undefined || after === undefined ? [] : [{ name, before, after }];
  });
  const half = 8;
  return render({
    ariaLabel: 'Acceptance on held-out prompts by category, before and after, with 95% intervals',
    height: rows.length * rowHeight + 44,
    x: { domain: [0, 1], ticks: 5, tickFormat: percent, label: null, grid: true },
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
  });
}

/** Paired differences by category with 95% intervals about zero, as an SVG element. */
export function differenceChart(acceptance: Acceptance, categories: readonly ReportCategory[]): string {
  const rows = withOverall(categories).flatMap(({ id, name }) => {
    const difference = acceptance.difference[id];
    return difference === undefined ? [] : [{ name, ...difference }];
  });
  const reach = Math.max(0.1, ...rows.flatMap(({ low, high }) => [Math.abs(low), Math.abs(high)]));
  const limit = Math.ceil(reach * 10) / 10;
  return render({
    ariaLabel: 'Paired difference in acceptance by category, with 95% intervals',
    height: rows.length * rowHeight + 44,
    x: { domain: [-limit, limit], ticks: 5, tickFormat: points, label: null, grid: true },
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
  });
}

/** Training loss by step: every measured point, and their running mean as a line. */
export function lossChart(points: ReportTraining['points']): string {
  return render({
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
  });
}

/** Anchor distance by step; undefined where it was not measured. */
export function anchorChart(points: ReportTraining['points']): string | undefined {
  const measured = points.flatMap(({ step, anchorDistance }) =>
    anchorDistance === undefined ? [] : [{ step, anchorDistance }],
  );
  if (measured.length === 0) return undefined;
  return render({
    ariaLabel: 'Anchor distance by step',
    height: 240,
    x: { label: 'step', nice: true, tickFormat: (step: number) => String(step) },
    y: { label: 'anchor distance', grid: true, zero: true, nice: true, ticks: 5 },
    marks: [
      Plot.lineY(measured, { x: 'step', y: 'anchorDistance', stroke: afterColour, strokeWidth: 2 }),
      Plot.dot(measured, { x: 'step', y: 'anchorDistance', r: 2, fill: afterColour }),
    ],
  });
}

function withOverall(categories: readonly ReportCategory[]): readonly (ReportCategory & Row)[] {
  return [{ id: 'overall', name: 'Overall' }, ...categories];
}
