import { fileURLToPath } from 'node:url';
import { Eta } from 'eta';
import type { ArmResult, StudyAnalysis, StudyData } from '@plumb/study';
import { agreementChart, gainChart, goodhartChart, noiseChart, rewardName } from '@plumb/charts';
import { durationText, percent, points, signedPoints } from '@plumb/charts/numbers';
import { chartText } from './chart-text.ts';

const templates = new Eta({
  views: fileURLToPath(new URL('templates', import.meta.url)),
  autoEscape: true,
  cache: true,
});

/** A study's report as one HTML page that needs nothing else. Pure: the same data give the same page. */
export function studyPage(data: StudyData, analysis: StudyAnalysis, manifest: object): string {
  return templates.render('study', {
    data,
    analysis,
    manifest: JSON.stringify(manifest, undefined, 2),
    headline: studyHeadline(analysis),
    trainingSeconds: data.cells.reduce((sum, { training }) => sum + training.seconds, 0),
    charts: {
      gain: chartText(gainChart(analysis)),
      goodhart: chartText(goodhartChart(analysis)),
      noise: chartText(noiseChart(analysis)),
      agreement: chartText(agreementChart(analysis.agreement)),
    },
    caught: analysis.arms.filter(({ overOptimisation }) => overOptimisation.detected),
    text: {
      duration: durationText,
      interval: intervalText,
      number: (value: number | null | undefined) =>
        value === null || value === undefined ? '–' : value.toFixed(2),
      pValue: pValueText,
      percent,
      points,
      rewardName,
      signedPoints,
    },
  });
}

/** "+12.3 [+6.1, +18.4]" of an estimate of a difference of shares. */
export function intervalText({
  value,
  lower,
  upper,
}: {
  value: number;
  lower: number;
  upper: number;
}): string {
  return `${signedPoints(value)} [${signedPoints(lower)}, ${signedPoints(upper)}]`;
}

export function pValueText(p: number): string {
  return p < 0.001 ? '<0.001' : p.toFixed(3);
}

/** The answer to the study's question in one sentence, and no more than the corrected tests support. */
export function studyHeadline({ arms, binaryAgainst }: StudyAnalysis): string {
  const form = (id: string): ArmResult['form'] | undefined => arms.find((arm) => arm.id === id)?.form;
  const metrics = binaryAgainst.filter(({ against }) => form(against) === 'metric');
  if (metrics.length === 0) return 'Binary feedback was not compared with a metric reward';
  const level = 0.05;
  const better = metrics.filter(
    ({ difference, adjustedPValue }) => difference.value > 0 && adjustedPValue < level,
  );
  const worse = metrics.filter(
    ({ difference, adjustedPValue }) => difference.value < 0 && adjustedPValue < level,
  );
  const higher = metrics.filter(({ difference }) => difference.value > 0);
  return (
    `Binary feedback did better than metric rewards in ${higher.length} of ${metrics.length} comparisons, beyond chance in ${better.length}` +
    (worse.length === 0 ? '' : `, and worse beyond chance in ${worse.length}`)
  );
}
