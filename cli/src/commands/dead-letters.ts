import { Command, InvalidArgumentError } from 'commander';
import type { DeadLetterOptions } from '../dead-letters/dead-letters.ts';
import { addConnectionOptions } from './connection-options.ts';
import { stateOption } from './options.ts';

/** `plumb dead-letters`: messages that were given up. */
export function deadLettersCommand(finish: (exitCode: number) => void): Command {
  const letters = new Command('dead-letters').description(
    'list, show and replay messages that were given up',
  );
  // Loaded only when a command runs: help and complaints must not wait for it.
  const load = async () => await import('../dead-letters/dead-letters.ts');
  letters.addCommand(
    subcommand('list', 'list the dead letters, oldest first, with why they were given up')
      .option('--run <id>', 'only those of this run')
      .action(async (options: DeadLetterOptions & { run?: string }) => {
        finish(await (await load()).listDeadLetters(options));
      }),
  );
  letters.addCommand(
    subcommand('show', 'show one dead letter')
      .argument('<number>', 'its number in the list', sequence)
      .action(async (number: bigint, options: DeadLetterOptions) => {
        finish(await (await load()).showDeadLetter(number, options));
      }),
  );
  letters.addCommand(
    subcommand('replay', 'publish dead letters once more, and remove them; put their cause right first')
      .argument(
        '[numbers...]',
        'their numbers in the list',
        (text, before: readonly bigint[] | undefined) => [...(before ?? []), sequence(text)],
      )
      .option('--run <id>', 'all those of this run')
      .option('--all', 'all of them')
      .action(
        async (numbers: readonly bigint[], options: DeadLetterOptions & { run?: string; all?: true }) => {
          finish(await (await load()).replayDeadLetters(numbers, options));
        },
      ),
  );
  return letters;
}

function sequence(text: string): bigint {
  if (!/^[1-9]\d{0,17}$/.test(text)) throw new InvalidArgumentError('Give a number of the list.');
  return BigInt(text);
}

function subcommand(name: string, description: string): Command {
  const command = new Command(name).description(description).addOption(stateOption());
  return addConnectionOptions(command, 'a loop service that runs elsewhere').option(
    '--json',
    'print the result as one JSON object, the last line of standard output',
  );
}
