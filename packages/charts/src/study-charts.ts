import * as Plot from '@observablehq/plot';
import type { ArmResult, RewardAgreement, StudyAnalysis } from '@plumb/study';
import { afterColour, beforeColour } from './draw-chart.ts';
import type { ChartOptions } from './draw-chart.ts';
import { percentTick, pointsTick } from './ticks.ts';

const rowHeight = 26;
const controlColour = beforeColour;
const binaryColour = afterColour;
const gradedColour = 'var(--good)';
const metricColour = 'var(--bad)';

/** The colour of an arm's kind of feedback, the same in every chart. */
function colourOf({ arm, form }: ArmResult): string {
  if (arm.reward === undefined) return controlColour;
  return { binary: binaryColour, graded: gradedColour, metric: metricColour }[form];
}

/** The gain of every arm in ground-truth acceptance with its interval. */
export function gainChart({ arms }: StudyAnalysis): ChartOptions {
  const rows = arms.map((result) => ({
    name: result.id,
    value: result.truth.difference.value,
    lower: result.truth.difference.lower,
    upper: result.truth.difference.upper,
    colour: colourOf(result),
  }));
  return {
    ariaLabel: 'Gain in accepted held-out clips by arm, with 95% intervals',
    height: rows.length * rowHeight + 44,
    x: { ticks: 6, tickFormat: pointsTick, label: null, grid: true, nice: true, zero: true },
    y: { domain: rows.map(({ name }) => name), label: null, tickSize: 0 },
    marks: [
      Plot.ruleX([0], { stroke: 'currentColor', strokeOpacity: 0.6 }),
      Plot.ruleY(rows, {
        y: 'name',
        x1: 'lower',
        x2: 'upper',
        stroke: 'colour',
        strokeWidth: 2.5,
        strokeLinecap: 'round',
      }),
      Plot.dot(rows, { y: 'name', x: 'value', r: 4.5, fill: 'colour' }),
    ],
  };
}

/**
 * What each arm did to the reward that it was trained on against what it did to the ground truth: to the right of 0 and
 * below it is over-optimisation. Undefined where no arm was trained on anything but the truth.
 */
export function goodhartChart({ arms }: StudyAnalysis): ChartOptions | undefined {
  const rows = arms.flatMap((result) =>
    result.trainedInDeviations === undefined
      ? []
      : [
          {
            name: result.id,
            trained: result.trainedInDeviations,
            truth: result.truth.difference.value,
            colour: colourOf(result),
          },
        ],
  );
  if (rows.length === 0) return undefined;
  return {
    ariaLabel: 'Change of the trained-on reward against the gain in ground truth, by arm',
    height: 300,
    marginRight: 40,
    x: { label: 'trained-on reward, standard deviations', grid: true, nice: true, zero: true, inset: 14 },
    y: {
      label: 'ground truth, points',
      grid: true,
      nice: true,
      zero: true,
      tickFormat: pointsTick,
      inset: 12,
    },
    marks: [
      Plot.ruleY([0], { stroke: 'currentColor', strokeOpacity: 0.6 }),
      Plot.ruleX([0], { stroke: 'currentColor', strokeOpacity: 0.6 }),
      Plot.dot(rows, { x: 'trained', y: 'truth', r: 4.5, fill: 'colour' }),
      Plot.text(rows, {
        x: 'trained',
        y: 'truth',
        text: 'name',
        dy: -11,
        fontSize: 11,
        fill: 'currentColor',
      }),
    ],
  };
}

/** The gain by judge noise, a line an algorithm; undefined where no arm has noise. */
export function noiseChart({ arms }: StudyAnalysis): ChartOptions | undefined {
  const studied = new Set(
    arms.flatMap(({ arm }) =>
      arm.judgeNoise === undefined ? [] : [JSON.stringify([arm.algorithm, arm.reward, arm.beta])],
    ),
  );
  const rows = arms
    .filter(({ arm }) => studied.has(JSON.stringify([arm.algorithm, arm.reward, arm.beta])))
    .map(({ arm, truth }) => ({
      algorithm: [arm.algorithm, ...(arm.beta === undefined ? [] : [`beta ${arm.beta}`])].join(' '),
      noise: arm.judgeNoise ?? 0,
      value: truth.difference.value,
      lower: truth.difference.lower,
      upper: truth.difference.upper,
    }));
  if (rows.length === 0) return undefined;
  return {
    ariaLabel: 'Gain by share of verdicts that are turned round, with 95% intervals',
    height: 260,
    marginRight: 70,
    x: { label: 'verdicts turned round', tickFormat: percentTick, grid: true, inset: 12, ticks: 4 },
    y: { label: 'gain, points', tickFormat: pointsTick, grid: true, nice: true, zero: true },
    marks: [
      Plot.ruleY([0], { stroke: 'currentColor', strokeOpacity: 0.6 }),
      Plot.ruleX(rows, { x: 'noise', y1: 'lower', y2: 'upper', stroke: binaryColour, strokeOpacity: 0.5 }),
      Plot.lineY(rows, { x: 'noise', y: 'value', z: 'algorithm', stroke: binaryColour, strokeWidth: 2 }),
      Plot.dot(rows, { x: 'noise', y: 'value', r: 3.5, fill: binaryColour }),
      Plot.text(
        rows,
        Plot.selectLast({
          x: 'noise',
          y: 'value',
          z: 'algorithm',
          text: 'algorithm',
          dx: 10,
          textAnchor: 'start',
        }),
      ),
    ],
  };
}

/** How often each reward orders two clips of one prompt rightly, with intervals. */
export function agreementChart(agreement: readonly RewardAgreement[]): ChartOptions {
  const rows = agreement.flatMap(({ reward, judgeNoise, withinPrompt }) =>
    withinPrompt === null ? [] : [{ name: rewardName({ reward, judgeNoise }), ...withinPrompt }],
  );
  return {
    ariaLabel: 'Share of pairs of clips of one prompt that each reward orders rightly',
    height: rows.length * rowHeight + 44,
    x: { domain: [0, 1], ticks: 5, tickFormat: percentTick, label: null, grid: true },
    y: { domain: rows.map(({ name }) => name), label: null, tickSize: 0 },
    marks: [
      Plot.ruleX([0.5], { stroke: 'currentColor', strokeOpacity: 0.6, strokeDasharray: '3 3' }),
      Plot.ruleY(rows, {
        y: 'name',
        x1: 'lower',
        x2: 'upper',
        stroke: afterColour,
        strokeWidth: 2.5,
        strokeLinecap: 'round',
      }),
      Plot.dot(rows, { y: 'name', x: 'value', r: 4.5, fill: afterColour }),
    ],
  };
}

/** "aif" or "aif 20% noise". */
export function rewardName({
  reward,
  judgeNoise,
}: {
  readonly reward: string;
  readonly judgeNoise?: number | undefined;
}): string {
  return judgeNoise === undefined ? reward : `${reward} ${percentTick(judgeNoise)} noise`;
}
