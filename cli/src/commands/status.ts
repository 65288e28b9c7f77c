import Table from 'cli-table3';
import { Command } from 'commander';
import { z } from 'zod';
import { failedPrecondition } from '@plumb/kit/errors';
import { existingStateFolder, readJson } from '../state/state-folder.ts';
import { stateOption } from './options.ts';

const processesSchema = z.object({
  pid: z.number(),
  components: z.array(
    z.object({
      name: z.string(),
      state: z.string(),
      pid: z.number().optional(),
      address: z.string(),
      restarts: z.number(),
    }),
  ),
});

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
      const parsed = processesSchema.safeParse(await readJson(folder.entry('processes.json')));
      const running = parsed.success && isAlive(parsed.data.pid);
      const components = running ? parsed.data.components : [];
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

function isAlive(pid: number): boolean {
  try {
    return process.kill(pid, 0);
  } catch (error) {
    return (error as NodeJS.ErrnoException).code === 'EPERM';
  }
}
