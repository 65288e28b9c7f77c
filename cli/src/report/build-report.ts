import { fileURLToPath } from 'node:url';
import { Eta } from 'eta';
import {
  acceptanceChart,
  anchorChart,
  differenceChart,
  learningCurve,
  lossChart,
  probeChart,
} from '@plumb/charts';
import {
  differenceText,
  durationText,
  percent,
  points,
  pValueText,
  rateText,
  signedPoints,
} from '@plumb/charts/numbers';
import { chartText } from './chart-text.ts';
import type { ReportData } from './report-data.ts';

// Every value is escaped unless the template says otherwise, which it does for our own SVG and style sheet alone.
const templates = new Eta({
  views: fileURLToPath(new URL('templates', import.meta.url)),
  autoEscape: true,
  cache: true,
});

/**
 * The report as one self-contained HTML page: no script, no request, everything inline. Pure: the same data give the
 * same page.
 */
export function buildReport(data: ReportData): string {
  return templates.render('report', {
    data,
    headline: headline(data),
    charts: {
      acceptance: chartText(acceptanceChart(data.acceptance, data.categories)),
      difference: chartText(differenceChart(data.acceptance, data.categories)),
      loss: data.training.points.length > 1 ? chartText(lossChart(data.training.points)) : undefined,
      anchor: chartText(anchorChart(data.training.points)),
      curve: data.learningCurve.length > 1 ? chartText(learningCurve(data.learningCurve)) : undefined,
      probes: data.training.probes.map((probe) => ({
        ...probe,
        chart: chartText(probeChart(probe.reward, probe.points)),
      })),
    },
    text: {
      difference: differenceText,
      duration: durationText,
      percent,
      points,
      pValue: pValueText,
      rate: rateText,
      // Means of rewards are in units of their own.
      mean: (value: number) => value.toPrecision(3),
      signedPoints,
    },
  });
}

/** The result in one sentence, with its uncertainty. */
export function headline(data: ReportData): string {
  const before = data.acceptance.before['overall'];
  const after = data.acceptance.after['overall'];
  const difference = data.acceptance.difference['overall'];
  if (before === undefined || after === undefined || difference === undefined) {
    return 'The run has no evaluation yet';
  }
  const change = `from ${percent(before.rate)} to ${percent(after.rate)}`;
  if (difference.low > 0) return `Feedback raised acceptance on held-out prompts ${change}`;
  if (difference.high < 0) return `Feedback lowered acceptance on held-out prompts ${change}`;
  return `Feedback made no measurable difference on held-out prompts: ${change}`;
}
