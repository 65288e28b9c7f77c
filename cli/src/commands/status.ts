import Table from 'cli-table3';
import { Command } from 'commander';
import { failedPrecondition } from '@plumb/kit/errors';
import { runningComponents } from '../state/running-system.ts';
import { existingStateFolder } from '../state/state-folder.ts';
import { stateOption } from './options.ts';

export function statusCommand(finish: (exitCode: number) => void): Command {
  return new Command('status')
    .description('show what runs in a state folder; exit code 3 if nothing does')
    .addOption(stateOption())
    .option('--json', 'print it as one JSON object')
    .action(async (options: { state: string; json?: true }) => {
      const folder = await existingStateFolder(options.state);
      if (folder === undefined) {
        throw failedPrecondition(
          `${options.state} is not a Plumb state folder; \`./plumb demo\` makes one, or name another with --state`,
        );
      }
      const found = await runningComponents(folder);
      const running = found !== undefined;
      const components = found ?? [];
      if (options.json === true) {
        process.stdout.write(`${JSON.stringify({ running, components })}\n`);
      } else if (running) {
        const table = new Table({
          head: ['process', 'state', 'pid', 'address', 'restarts'],
          style: { head: [] },
        });
        for (const { name, state, pid, address, restarts } of components) {
          table.push([name, state, pid === undefined ? '' : String(pid), address, String(restarts)]);
        }
        process.stdout.write(`${table.toString()}\n`);
      } else {
        process.stdout.write(`Nothing runs in ${folder.path}.\n`);
      }
      finish(running ? 0 : 3);
    });
}
