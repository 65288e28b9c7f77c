import { Command } from 'commander';
import { addConnectionOptions } from './connection-options.ts';
import { stateOption } from './options.ts';
import type { RewardsOptions } from '../scoring/reward-commands.ts';

/** `plumb rewards`: what rewards there are, and their versions. */
export function rewardsCommand(finish: (exitCode: number) => void): Command {
  const rewards = new Command('rewards').description(
    'list rewards, compare candidates, read definitions anew',
  );
  // Loaded only when a command runs: help and complaints must not wait for it.
  const load = async () => await import('../scoring/reward-commands.ts');

  rewards.addCommand(
    subcommand('list', 'list the rewards with version, range and health').action(
      async (options: RewardsOptions) => {
        finish(await (await load()).listRewards(options));
      },
    ),
  );
  rewards.addCommand(
    subcommand('shadow', "print how the candidate in a reward's shadow compares with it")
      .argument('<name>', 'name of a reward')
      .action(async (name: string, options: RewardsOptions) => {
        finish(await (await load()).showShadow(name, options));
      }),
  );
  rewards.addCommand(
    subcommand('reload', 'have the reward service read its definitions anew, now')
      .addHelpText('after', '\nExit code 1 if a definition was refused; what was there before goes on.')
      .action(async (options: RewardsOptions) => {
        finish(await (await load()).reloadRewards(options));
      }),
  );
  return rewards;
}

function subcommand(name: string, description: string): Command {
  const command = new Command(name).description(description).addOption(stateOption());
  return addConnectionOptions(command, 'a reward service that runs elsewhere').option(
    '--json',
    'print it as one JSON object, the last line of standard output',
  );
}
