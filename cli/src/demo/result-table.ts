import { styleText } from 'node:util';
import Table from 'cli-table3';
import { differenceText, rateText } from '@plumb/charts/numbers';
import type { Acceptance } from '@plumb/charts';
import type { ReportData } from '../report/report-data.ts';
import { plainBorders } from '../table-borders.ts';
import { categories } from '@plumb/charts';

/** The result for a terminal: acceptance by category with 95% intervals, and what the gate decided. */
export function resultTable(
  acceptance: Acceptance,
  decision: ReportData['decision'],
  control: Acceptance | undefined,
  options: { readonly stream: NodeJS.WriteStream },
): string {
  const bold = (text: string): string => styleText('bold', text, { stream: options.stream });
  const head = ['Accepted, % [95% interval]', 'Before', 'After', 'Difference, points'];
  if (control !== undefined) head.push('Control after', 'Control difference');
  const table = new Table({
    head: head.map(bold),
    colAligns: head.map((_, column) => (column === 0 ? 'left' : 'right')),
    style: { head: [], border: [] },
    chars: plainBorders,
  });
  for (const { id, name } of [...categories, { id: 'overall', name: 'Overall' }]) {
    const cells = [name, ...rates(acceptance, id)];
    if (control !== undefined) cells.push(...rates(control, id).slice(1));
    table.push(id === 'overall' ? cells.map(bold) : cells);
  }
  const rules = decision.rules.map(
    ({ rule, passed, reason }) => `   ${passed ? '✓' : '✗'} ${rule}: ${reason}`,
  );
  const verdict = decision.promoted ? 'The gate promoted the new model.' : 'The gate refused the new model.';
  return [table.toString(), '', ` ${bold(verdict)}`, ...rules].join('\n');
}

function rates(acceptance: Acceptance, id: string): string[] {
  const before = acceptance.before[id];
  const after = acceptance.after[id];
  const difference = acceptance.difference[id];
  return [
    before === undefined ? '' : rateText(before),
    after === undefined ? '' : rateText(after),
    difference === undefined ? '' : differenceText(difference),
  ];
}
