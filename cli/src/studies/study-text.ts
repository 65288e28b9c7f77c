import { styleText } from 'node:util';
import Table from 'cli-table3';
import { points } from '@plumb/charts/numbers';
import { intervalText, pValueText } from '../report/study-page.ts';
import { plainBorders } from '../table-borders.ts';
import type { StudyResult } from './study-result.ts';

/** A study's result for a terminal. */
export function studyText({ headline, analysis }: StudyResult, stream: NodeJS.WriteStream): string {
  const bold = (text: string): string => styleText('bold', text, { stream });
  const head = [
    'Accepted, % [95% interval]',
    'Before',
    'After',
    'Gain, points',
    'Over sft',
    'p, Holm',
    'Gate',
  ];
  const table = new Table({
    head: head.map(bold),
    colAligns: head.map((_, column) => (column === 0 ? 'left' : 'right')),
    style: { head: [], border: [] },
    chars: plainBorders,
  });
  for (const { id, truth, gate, overOptimisation } of analysis.arms) {
    const over = analysis.overControl.find(({ arm }) => arm === id);
    table.push([
      id,
      points(truth.before.value),
      points(truth.after.value),
      intervalText(truth.difference),
      over === undefined ? '' : intervalText(over.difference),
      over === undefined ? '' : pValueText(over.adjustedPValue),
      `${gate.decision === 'promote' ? 'promotes' : 'refuses'}${overOptimisation.detected ? ', over-optimised' : ''}`,
    ]);
  }
  const against = analysis.binaryAgainst.map(
    ({ arm, against, difference, adjustedPValue }) =>
      `   ${arm} over ${against}: ${intervalText(difference)}, p ${pValueText(adjustedPValue)} (Holm)`,
  );
  return [table.toString(), '', ` ${bold(headline)}.`, ...against].join('\n');
}
