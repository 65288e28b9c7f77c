import assert from 'node:assert/strict';
import { test } from 'node:test';
import { create } from '@bufbuild/protobuf';
import { ExportColumnSchema } from '@plumb/proto/plumb/loop/v1/loop_pb.js';
import { parquetReadObjects } from 'hyparquet';
import { jsonLines, parquet } from './export-run.ts';

const columns = Object.entries({
  id: 'text',
  iteration: 'integer',
  value: 'double',
  accepted: 'boolean',
  scored_at: 'timestamp',
  checks: 'json',
}).map(([name, type]) => create(ExportColumnSchema, { name, type }));
const rows = [
  ['a', 1, 0.5, true, '2026-01-02T03:04:05.678Z', '{"picture":true}'],
  ['b', 2, null, null, null, null],
];

test('Parquet gives back what was written, nulls and all', async () => {
  const bytes = parquet({ columns, rows });
  const file = bytes.buffer.slice(bytes.byteOffset, bytes.byteOffset + bytes.byteLength) as ArrayBuffer;
  const read = await parquetReadObjects({ file });
  assert.equal(read.length, 2);
  assert.deepEqual(
    [read[0]?.['id'], read[0]?.['iteration'], read[0]?.['value'], read[0]?.['accepted'], read[0]?.['checks']],
    ['a', 1, 0.5, true, '{"picture":true}'],
  );
  assert.deepEqual(read[0]?.['scored_at'], new Date('2026-01-02T03:04:05.678Z'));
  assert.deepEqual([read[1]?.['value'] ?? null, read[1]?.['scored_at'] ?? null], [null, null]);
  // An empty table still has its columns.
  assert.ok(parquet({ columns, rows: [] }).length > 0);
});

test('JSON lines hold JSON columns as values', () => {
  const [first, second] = jsonLines({ columns, rows })
    .trimEnd()
    .split('\n')
    .map((line) => JSON.parse(line) as unknown);
  assert.deepEqual(first, {
    id: 'a',
    iteration: 1,
    value: 0.5,
    accepted: true,
    scored_at: '2026-01-02T03:04:05.678Z',
    checks: { picture: true },
  });
  assert.deepEqual(second, {
    id: 'b',
    iteration: 2,
    value: null,
    accepted: null,
    scored_at: null,
    checks: null,
  });
});
