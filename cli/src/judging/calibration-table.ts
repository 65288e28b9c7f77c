import Table from 'cli-table3';
import type { StatisticEstimate } from '@plumb/evaluation';
import type { AgreementRow, JudgeReport } from './calibration-report.ts';

/** What judges are worth, for a terminal: side by side, then by category and by failure mode. */
export function calibrationTable(reports: readonly JudgeReport[]): string {
  const names = reports.map(({ judge }) => judge);
  const rows = (label: string, cells: (report: JudgeReport) => string): string[] => [
    label,
    ...reports.map(cells),
  ];
  const overall = table(
    ['against the labels [95%]', ...names],
    [
      rows('clips', ({ overall: { clips }, failed }) =>
        failed === 0 ? `${clips}` : `${clips}, ${failed} failed`,
      ),
      rows('accuracy, %', ({ overall }) => percentText(overall.accuracy)),
      rows("Cohen's kappa", ({ overall }) => numberText(overall.kappa)),
      rows('ROC AUC', ({ overall }) => numberText(overall.rocAuc)),
      rows('Brier score', ({ brier }) => brier.before.toFixed(3)),
      rows('  calibrated', ({ brier }) => brier.after.toFixed(3)),
      rows('recommended threshold', ({ recommended }) => recommended.threshold.toFixed(2)),
      rows('  accepts good clips, %', ({ recommended }) => percentText(recommended.sensitivity)),
      rows('  rejects bad clips, %', ({ recommended }) => percentText(recommended.specificity)),
    ],
  );
  const categories = [...new Set(reports.flatMap(({ perCategory }) => Object.keys(perCategory)))];
  const perCategory = table(
    ['accuracy by category, % [95%]', ...names],
    categories.map((category) =>
      rows(category, (report) => percentText(report.perCategory[category]?.accuracy ?? null)),
    ),
  );
  const kappas = table(
    ['kappa by category [95%]', ...names],
    categories.map((category) =>
      rows(category, (report) => numberText(report.perCategory[category]?.kappa ?? null)),
    ),
  );
  const areas = table(
    ['ROC AUC by category [95%]', ...names],
    categories.map((category) =>
      rows(category, (report) => numberText(report.perCategory[category]?.rocAuc ?? null)),
    ),
  );
  const modes = [...new Set(reports.flatMap(({ perFailureMode }) => Object.keys(perFailureMode)))].toSorted(
    (a, b) => Number(b === 'right') - Number(a === 'right') || (a < b ? -1 : 1),
  );
  const perMode = table(
    ['told right, by failure, % [95%]', ...names],
    modes.map((mode) => {
      const clips = reports.map((report) => report.perFailureMode[mode]?.clips ?? 0);
      return rows(`${mode === 'right' ? 'good clips' : mode} (${Math.max(...clips)})`, (report) =>
        percentText(report.perFailureMode[mode] ?? null),
      );
    }),
  );
  return [overall, perCategory, kappas, areas, perMode].join('\n\n');
}

/** A share with its interval, in percent. */
export function percentText(estimate: StatisticEstimate | null): string {
  if (estimate === null) return '-';
  const [value, lower, upper] = [estimate.value, estimate.lower, estimate.upper].map((share) =>
    (100 * share).toFixed(1),
  );
  return `${value} [${lower}, ${upper}]`;
}

/** A number with its interval. */
export function numberText(estimate: AgreementRow['kappa']): string {
  if (estimate === null) return '-';
  return `${estimate.value.toFixed(2)} [${estimate.lower.toFixed(2)}, ${estimate.upper.toFixed(2)}]`;
}

function table(head: readonly string[], rows: readonly (readonly string[])[]): string {
  const made = new Table({
    head: [...head],
    colAligns: head.map((_, column) => (column === 0 ? 'left' : 'right')),
    style: { head: [], border: [] },
  });
  for (const row of rows) made.push([...row]);
  return made.toString();
}
