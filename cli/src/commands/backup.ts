import { Command } from 'commander';

const environment =
  '\nPLUMB_DATABASE_URL, PLUMB_ARTIFACTS, PLUMB_NATS_URL and the other settings of the broker say where; docs/backup.md has the steps.';

/** `plumb backup`: ledger, registry and artifacts of a deployment. */
export function backupCommand(finish: (exitCode: number) => void): Command {
  const backup = new Command('backup').description('back a deployment up, and bring it back');
  backup.addCommand(
    new Command('create')
      .description(
        'copy the ledger, the buckets of the broker and every artifact that they name into a folder',
      )
      .requiredOption('--output <folder>', 'a new folder')
      .option('--json', 'print it as one JSON object')
      .addHelpText('after', environment)
      .action(async ({ output, json }: { output: string; json?: true }) => {
        const { makeBackup } = await import('../backup/make-backup.ts');
        const { backedUp } = await import('../backup/backed-up.ts');
        const result = await makeBackup(await backedUp(process.env), output);
        const lost =
          result.missing.length === 0
            ? ''
            : `\n${result.missing.length} artifacts are named and not in the store, the first ${result.missing[0] ?? ''}; states of training that were superseded are among them.`;
        process.stdout.write(
          json === true
            ? `${JSON.stringify(result)}\n`
            : `${result.folder}: the ledger and ${result.artifacts} artifacts (${Math.round(result.bytes / 2 ** 20)} MiB).${lost}\n`,
        );
        finish(0);
      }),
  );
  backup.addCommand(
    new Command('restore')
      .description('bring a backup into an empty deployment, before its services start')
      .argument('<folder>', 'what `plumb backup create` wrote')
      .addHelpText('after', environment)
      .action(async (folder: string) => {
        const { restoreBackup } = await import('../backup/restore-backup.ts');
        const { backedUp } = await import('../backup/backed-up.ts');
        const artifacts = await restoreBackup(folder, await backedUp(process.env));
        process.stdout.write(
          `Restored the ledger, the registry and ${artifacts} artifacts. Start the services now.\n`,
        );
        finish(0);
      }),
  );
  return backup;
}
