import Table from 'cli-table3';
import type { Cost, Spend, TokenUsage } from '@plumb/proto/plumb/judge/v1/judge_pb.js';

/** What the judges of a run have taken, for a terminal: a line for each and one for all. */
export function spendTable(spend: Spend): string {
  const table = new Table({
    head: ['judge', 'calls', 'tokens in', 'tokens out', 'price', 'of it estimated, tokens'],
    colAligns: ['left', 'right', 'right', 'right', 'right', 'right'],
    style: { head: [], border: [] },
  });
  const judges = spend.judges.toSorted((a, b) => (a.judge < b.judge ? -1 : 1));
  for (const one of judges) table.push([one.judge, ...cells(one)]);
  if (judges.length !== 1) table.push(['all', ...cells(spend)]);
  return table.toString();
}

interface Taken {
  readonly calls: bigint;
  readonly usage?: TokenUsage | undefined;
  readonly cost?: Cost | undefined;
  readonly estimatedTokens: bigint;
}

function cells({ calls, usage, cost, estimatedTokens }: Taken): string[] {
  return [
    String(calls),
    String(usage?.inputTokens ?? 0n),
    String(usage?.outputTokens ?? 0n),
    `${(cost?.amount ?? 0).toFixed(4)} ${cost?.currency ?? ''}`.trim(),
    String(estimatedTokens),
  ];
}
