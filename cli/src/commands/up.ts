import { once } from 'node:events';
import { Command } from 'commander';
import { portNames } from '../supervisor/port-names.ts';
import type { PortName } from '../supervisor/port-names.ts';
import { portOption, stateOption } from './options.ts';

interface UpOptions {
  readonly state: string;
  readonly port: Readonly<Partial<Record<PortName, number>>>;
}

export function upCommand(finish: (exitCode: number) => void): Command {
  return new Command('up')
    .description('run the whole system on this machine until Ctrl-C')
    .addOption(stateOption())
    .addOption(portOption())
    .action(async (options: UpOptions) => {
      const notice = (line: string): void => {
        process.stderr.write(`${line}\n`);
      };
      const { withSystem } = await import('../with-system.ts');
      const exitCode = await withSystem(
        {
          state: options.state,
          fresh: false,
          ports: options.port,
          command: 'up',
          notice,
          stopNotice: 'Stopping in order; Ctrl-C again ends at once.',
        },
        async () => {},
        async ({ addresses, dashboard }, _prepared, signal) => {
          for (const name of portNames) process.stdout.write(`${name.padEnd(13)} ${addresses[name]}\n`);
          process.stdout.write(`dashboard     ${await dashboard()}\n`);
          notice('Ready. Ctrl-C stops it.');
          if (!signal.aborted) await once(signal, 'abort');
        },
      );
      // Ctrl-C is how this command ends; only being told to end by the system is an interruption.
      finish(exitCode === 130 ? 0 : exitCode);
    });
}
