import { fileURLToPath } from 'node:url';
import { reliabilityChart } from '@plumb/charts';
import { Eta } from 'eta';
import { chartText } from '../report/chart-text.ts';
import type { JudgeReport } from './calibration-report.ts';
import { numberText, percentText } from './calibration-table.ts';
import type { LabelledSet } from './labelled-set.ts';

const templates = new Eta({
  views: fileURLToPath(new URL('../report/templates', import.meta.url)),
  autoEscape: true,
  cache: true,
});

/** What judges are worth, as one HTML page that needs nothing else. Pure. */
export function calibrationPage(reports: readonly JudgeReport[], set: LabelledSet): string {
  const best = reports.toSorted((a, b) => (b.overall.kappa?.value ?? -1) - (a.overall.kappa?.value ?? -1))[0];
  const headline =
    best === undefined
      ? 'No judge'
      : `${best.judge} agrees best with the labels: kappa ${numberText(best.overall.kappa)}`;
  const unique = (keys: (report: JudgeReport) => object): string[] => [
    ...new Set(reports.flatMap((report) => Object.keys(keys(report)))),
  ];
  return templates.render('calibration', {
    reports,
    set,
    headline,
    categories: unique(({ perCategory }) => perCategory),
    modes: unique(({ perFailureMode }) => perFailureMode),
    diagram: ({ reliability: { before, after } }: JudgeReport) =>
      chartText(reliabilityChart({ raw: before.bins, calibrated: after.bins })),
    percent: percentText,
    number: numberText,
  });
}
