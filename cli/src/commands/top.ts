import { Command, InvalidArgumentError, Option } from 'commander';
import type { TopOptions } from '../top/top.ts';
import { numberOption, stateOption } from './options.ts';

export function topCommand(finish: (exitCode: number) => void): Command {
  return new Command('top')
    .description('show live rates, queues and stalls; Ctrl-C ends it')
    .addOption(stateOption())
    .addOption(
      new Option('--address <host:port>', "a service's metrics endpoint instead; may be repeated")
        .argParser((text: string, earlier: readonly string[]) => {
          if (!/^(\[[0-9a-fA-F:]+\]|[\w.-]+):\d{1,5}$/.test(text))
            throw new InvalidArgumentError('Give host:port.');
          return [...earlier, text];
        })
        .default([], "the embedded system's"),
    )
    .addOption(numberOption('--interval <seconds>', 'time between two looks').default(2))
    .option('--once', 'show it once; so it does where the output is no terminal')
    .option('--json', 'print JSON')
    .action(async (options: TopOptions) => {
      const { showTop } = await import('../top/top.ts');
      await showTop(options);
      finish(0);
    });
}
