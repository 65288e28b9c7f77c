import Table from 'cli-table3';
import type { IterationReport, Report, Run, SignalReport } from '@plumb/proto/plumb/loop/v1/loop_pb.js';
import { categories } from '@plumb/charts';
import { differenceText, durationText, pValueText, rateText } from '@plumb/charts/numbers';

/** A run's report as text: the learning curve, acceptance by category of the last iteration, and every decision. */
export function reportText(run: Run, report: Report): string {
  const parts = [`${run.spec?.name ?? ''} (${run.id}), ${durationText(run.activeSeconds)} of work`];
  const evaluated = report.iterations.filter(({ before }) => before['overall'] !== undefined);
  if (evaluated.length === 0) return `${parts.join('\n')}\nNo iteration is evaluated yet.`;
  parts.push(
    '',
    'Learning curve: accepted on held-out prompts, % [95% interval], the same noise in every iteration',
    curve(evaluated),
  );
  const last = evaluated.at(-1);
  if (last !== undefined) {
    parts.push('', `Iteration ${last.iteration} by category`, byCategory(last));
    const others = otherRewards(last);
    if (others !== undefined) parts.push('', `Iteration ${last.iteration}, means of rewards`, others);
  }
  for (const iteration of report.iterations) parts.push('', decision(iteration));
  if (report.manifest !== undefined) parts.push('', `Manifest: sha256 ${report.manifest.sha256}`);
  return parts.join('\n');
}

function curve(iterations: readonly IterationReport[]): string {
  const table = new Table({
    head: [
      'iteration',
      'before',
      'after',
      'difference, points',
      'win rate',
      'p',
      'held-out judge',
      'promoted',
    ],
    style: { head: [], border: [] },
  });
  for (const one of iterations) {
    const { iteration, before, after, difference, heldOut, decision: decided } = one;
    const { overall } = before;
    const { overall: then } = after;
    const { overall: gain } = difference;
    const promoted = decided?.override?.promoted ?? decided?.promoted;
    table.push([
      String(iteration),
      overall === undefined ? '' : rateText(overall),
      then === undefined ? '' : rateText(then),
      gain === undefined ? '' : differenceText(gain),
      ...significance(one, 'overall'),
      signal(heldOut),
      promoted === undefined
        ? ''
        : `${promoted ? 'yes' : 'no'}${decided?.override === undefined ? '' : ', by hand'}`,
    ]);
  }
  return table.toString();
}

function signal(report: SignalReport | undefined): string {
  const { before, after } = report ?? {};
  if (before === undefined || after === undefined) return '';
  return `${before.rate.toPrecision(3)} → ${after.rate.toPrecision(3)}`;
}

/** Win rate in percent, and p-value. */
function significance({ winRate, pValue }: IterationReport, key: string): [string, string] {
  const [wins, p] = [winRate[key], pValue[key]];
  return [wins === undefined ? '' : rateText(wins), p === undefined ? '' : pValueText(p)];
}

function byCategory(iteration: IterationReport): string {
  const { before, after, difference } = iteration;
  const table = new Table({
    head: ['category', 'before', 'after', 'difference, points', 'win rate', 'p, Holm'],
    style: { head: [], border: [] },
  });
  for (const { id, name } of categories) {
    const [first, second, gain] = [before[id], after[id], difference[id]];
    if (first === undefined || second === undefined || gain === undefined) continue;
    table.push([
      name,
      rateText(first),
      rateText(second),
      differenceText(gain),
      ...significance(iteration, id),
    ]);
  }
  return `${table.toString()}\nMultiple comparisons: the p-values of the categories are corrected by Holm; the overall one is the planned test.`;
}

/** Means of the rewards beside the verdict, each in its own unit; nothing where none was measured. */
function otherRewards({ trained, heldOut, guards }: IterationReport): string | undefined {
  const rows = [
    ...(trained === undefined ? [] : [['trained on', trained] as const]),
    ...(heldOut === undefined ? [] : [['held out', heldOut] as const]),
    ...Object.values(guards).map((guard) => ['guard', guard] as const),
  ];
  if (rows.length === 0) return undefined;
  const table = new Table({
    head: ['reward', '', 'before', 'after', 'difference [95%]', 'win rate', 'p'],
    style: { head: [], border: [] },
  });
  for (const [role, { reward, before, after, difference, winRate, pValue }] of rows) {
    const figure = (value: number | undefined): string => value?.toPrecision(3) ?? '';
    table.push([
      reward,
      role,
      figure(before?.rate),
      figure(after?.rate),
      `${figure(difference?.mean)} [${figure(difference?.low)}, ${figure(difference?.high)}]`,
      winRate === undefined ? '' : rateText(winRate),
      pValueText(pValue),
    ]);
  }
  return `${table.toString()}\nThese p-values are not corrected for there being several.`;
}

function decision({
  iteration,
  beforeVersion,
  afterVersion,
  decision: decided,
  overOptimisation,
}: IterationReport): string {
  if (decided === undefined) return `Iteration ${iteration}: not decided yet.`;
  const lines = [
    `Iteration ${iteration}: the gate ${decided.promoted ? 'promoted' : 'refused'} ${afterVersion} over ${beforeVersion}.`,
    ...decided.rules.map(({ rule, passed, reason }) => `  ${passed ? 'met ' : 'FAIL'}  ${rule}: ${reason}`),
    ...overOptimisation.map((finding) => `  over-optimisation: ${finding}`),
  ];
  const { override } = decided;
  if (override !== undefined) {
    lines.push(
      `  ${override.person} ${override.promoted ? 'promoted' : 'refused'} it against the gate: ${override.reason}`,
    );
  }
  return lines.join('\n');
}
