import assert from 'node:assert/strict';
import { test } from 'node:test';
import { create } from '@bufbuild/protobuf';
import { SpendSchema } from '@plumb/proto/plumb/judge/v1/judge_pb.js';
import { spendTable } from './spend-table.ts';

const part = (judge: string, calls: number, amount: number) => ({
  judge,
  calls: BigInt(calls),
  usage: { inputTokens: BigInt(100 * calls), outputTokens: BigInt(10 * calls) },
  cost: { amount, currency: 'USD' },
  estimatedTokens: BigInt(calls),
});

/** The words and numbers of every line. */
function rowsOf(text: string): string[][] {
  return text
    .split('\n')
    .filter((line) => line.includes('│'))
    .map((line) =>
      line
        .split('│')
        .map((cell) => cell.trim())
        .filter(Boolean),
    );
}

test('every judge has a line, and all together one', () => {
  const { judge: _, ...all } = part('', 5, 0.375);
  const spend = create(SpendSchema, { ...all, judges: [part('strict', 3, 0.25), part('default', 2, 0.125)] });
  assert.deepEqual(rowsOf(spendTable(spend)).slice(1), [
    ['default', '2', '200', '20', '0.1250 USD', '2'],
    ['strict', '3', '300', '30', '0.2500 USD', '3'],
    ['all', '5', '500', '50', '0.3750 USD', '5'],
  ]);
});

test('one judge alone needs no sum', () => {
  const { judge: _, ...all } = part('', 2, 0.125);
  const rows = rowsOf(spendTable(create(SpendSchema, { ...all, judges: [part('default', 2, 0.125)] })));
  assert.deepEqual(
    rows.slice(1).map(([name]) => name),
    ['default'],
  );
});
