import { mkdir } from 'node:fs/promises';
import { join, resolve } from 'node:path';
import { dataLoss } from '@plumb/kit/errors';
import type { ExportColumn } from '@plumb/proto/plumb/loop/v1/loop_pb.js';
import { parquetWriteBuffer } from 'hyparquet-writer';
import { writeWhole } from '../state/state-folder.ts';
import { withLoop } from './with-loop.ts';
import type { LoopOptions } from './with-loop.ts';

/** Options of `plumb export`. */
export interface ExportOptions extends LoopOptions {
  readonly output: string;
  readonly format: 'parquet' | 'jsonl';
  readonly table: readonly string[];
  readonly json?: true;
}

interface Table {
  readonly columns: readonly ExportColumn[];
  readonly rows: unknown[][];
}

/** Writes a run's tables as files; gives the exit code. */
export async function exportRun(id: string, options: ExportOptions): Promise<number> {
  const folder = resolve(options.output);
  const files: { file: string; rows: number }[] = [];
  const exitCode = await withLoop(
    { ...options, command: 'export', only: ['nats-server', 'loop'], notice: () => {} },
    async ({ loop, signal }) => {
      await mkdir(folder, { recursive: true });
      const tables = new Map<string, Table>();
      for await (const message of loop.exportRun({ runId: id, tables: [...options.table] }, { signal })) {
        const table = tables.get(message.table) ?? { columns: message.columns, rows: [] };
        for (const row of message.rows) table.rows.push(rowOf(row, message.table));
        tables.set(message.table, table);
      }
      for (const [name, table] of tables) {
        const file = join(folder, `${name}.${options.format}`);
        await writeWhole(file, options.format === 'jsonl' ? jsonLines(table) : parquet(table));
        files.push({ file, rows: table.rows.length });
      }
    },
  );
  const text = files.map(({ file, rows }) => `${file}  ${rows} rows`).join('\n');
  process.stdout.write(`${options.json === true ? JSON.stringify({ files }) : text}\n`);
  return exitCode;
}

function rowOf(text: string, table: string): unknown[] {
  const row: unknown = JSON.parse(text);
  if (!Array.isArray(row)) throw dataLoss(`the loop sent a row of ${table} that is no array`);
  return row;
}

/** Columns of type json become the value that they hold; timestamps stay text. */
export function jsonLines({ columns, rows }: Table): string {
  return rows
    .map((row) => {
      const entries = columns.map(({ name, type }, index) => {
        const value = row[index] ?? null;
        return [name, type === 'json' && typeof value === 'string' ? (JSON.parse(value) as unknown) : value];
      });
      return `${JSON.stringify(Object.fromEntries(entries))}\n`;
    })
    .join('');
}

const parquetTypes = {
  text: 'STRING',
  integer: 'INT32',
  double: 'DOUBLE',
  boolean: 'BOOLEAN',
  timestamp: 'TIMESTAMP',
  json: 'STRING',
} as const;

/** One file with a column for each of the table; all may be null. JSON stays text, for readers that do not know the type. */
export function parquet({ columns, rows }: Table): Uint8Array {
  const buffer = parquetWriteBuffer({
    columnData: columns.map(({ name, type }, index) => ({
      name,
      type: parquetTypes[type as keyof typeof parquetTypes],
      nullable: true,
      data: rows.map((row) => {
        const value = row[index] ?? null;
        return type === 'timestamp' && typeof value === 'string' ? new Date(value) : value;
      }),
    })),
  });
  return new Uint8Array(buffer);
}
