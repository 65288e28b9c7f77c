import { invalidArguments } from '@plumb/kit/errors';
import type { Kysely } from 'kysely';
import { exportRows, exportTables } from './adapters/ledger/export.ts';
import type { ColumnType } from './adapters/ledger/export.ts';
import type { RunRow } from './adapters/ledger/runs.ts';
import type { Tables } from './adapters/ledger/tables.ts';

interface ExportMessage {
  readonly table: string;
  readonly columns: { readonly name: string; readonly type: ColumnType }[];
  readonly rows: string[];
}

/**
 * A run's rows, table by table.
 * @throws PlumbError INVALID_ARGUMENT for tables that there are not
 */
export async function* exportRun(
  database: Kysely<Tables>,
  run: RunRow,
  tables: readonly string[],
): AsyncGenerator<ExportMessage, void, undefined> {
  const known = Object.keys(exportTables);
  const unknown = tables.flatMap((table, index) =>
    known.includes(table)
      ? []
      : [
          {
            field: `tables[${index}]`,
            description: `'${table}' is unknown; use some of ${known.join(', ')}`,
          },
        ],
  );
  if (unknown.length > 0) throw invalidArguments(unknown);
  for (const [name, table] of Object.entries(exportTables)) {
    if (tables.length > 0 && !tables.includes(name)) continue;
    const columns = Object.entries(table.columns).map(([column, type]) => ({ name: column, type }));
    for await (const rows of exportRows(database, table, run.id)) {
      yield { table: name, columns, rows: rows.map((row) => JSON.stringify(row)) };
    }
  }
}
