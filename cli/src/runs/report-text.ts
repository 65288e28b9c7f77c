import Table from 'cli-table3';
import type { IterationReport, Report, Run, SignalReport } from '@plumb/proto/plumb/loop/v1/loop_pb.js';
import { categories } from '@plumb/charts';
import { differenceText, durationText, rateText } from '@plumb/charts/numbers';

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
  if (last !== undefined) parts.push('', `Iteration ${last.iteration} by category`, byCategory(last));
  for (const iteration of report.iterations) parts.push('', decision(iteration));
  if (report.manifest !== undefined) parts.push('', `Manifest: sha256 ${report.manifest.sha256}`);
  return parts.join('\n');
}

function curve(iterations: readonly IterationReport[]): string {
  const table = new Table({
    head: ['iteration', 'before', 'after', 'difference, points', 'held-out judge', 'promoted'],
    style: { head: [], border: [] },
  });
  for (const { iteration, before, after, difference, heldOut, decision: decided } of iterations) {
    const { overall } = before;
    const { overall: then } = after;
    const { overall: gain } = difference;
    const promoted = decided?.override?.promoted ?? decided?.promoted;
    table.push([
      String(iteration),
      overall === undefined ? '' : rateText(overall),
      then === undefined ? '' : rateText(then),
      gain === undefined ? '' : differenceText(gain),
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

function byCategory({ before, after, difference }: IterationReport): string {
  const table = new Table({
    head: ['category', 'before', 'after', 'difference, points'],
    style: { head: [], border: [] },
  });
  for (const { id, name } of categories) {
    const [first, second, gain] = [before[id], after[id], difference[id]];
    if (first === undefined || second === undefined || gain === undefined) continue;
    table.push([name, rateText(first), rateText(second), differenceText(gain)]);
  }
  return table.toString();
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
