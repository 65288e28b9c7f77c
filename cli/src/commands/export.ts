import { Command, Option } from 'commander';
import type { ExportOptions } from '../runs/export-run.ts';
import { addConnectionOptions } from './connection-options.ts';
import { stateOption } from './options.ts';

/** `plumb export`: the ledger's rows of a run as files. */
export function exportCommand(finish: (exitCode: number) => void): Command {
  const command = new Command('export')
    .description('write all that the ledger holds of a run as Parquet or JSON lines, one file a table')
    .argument('<run>', 'id of a run')
    .addOption(stateOption());
  return addConnectionOptions(command, 'a loop service that runs elsewhere')
    .option('--output <folder>', 'where the files go', 'export')
    .addOption(
      new Option('--format <name>', 'format of the files').choices(['parquet', 'jsonl']).default('parquet'),
    )
    .option(
      '--table <name>',
      'only this table; may be repeated',
      (name: string, all: string[]) => [...all, name],
      [],
    )
    .option('--json', 'print the files as one JSON object')
    .action(async (id: string, options: ExportOptions) => {
      // Loaded only now: help and complaints must not wait for it.
      const { exportRun } = await import('../runs/export-run.ts');
      finish(await exportRun(id, options));
    });
}
