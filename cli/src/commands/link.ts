import { Command, Option } from 'commander';
import { failedPrecondition } from '@plumb/kit/errors';
import { countOption, stateOption } from './options.ts';

/** `plumb link`: lets somebody else look at the dashboard. */
export function linkCommand(finish: (exitCode: number) => void): Command {
  return new Command('link')
    .description('print a link to the dashboard of the system that runs in a state folder')
    .addOption(stateOption())
    .addOption(
      new Option('--role <name>', 'read looks, train steers runs, admin does everything')
        .choices(['read', 'train', 'admin'])
        .default('read'),
    )
    .option('--name <name>', 'whom it is for; stands in the log', 'guest')
    .addOption(countOption('--days <number>', 'how long it holds').default(7))
    .addHelpText('after', '\nLinks for people who rate clips: `plumb labels link`.')
    .action(
      async (options: { state: string; role: 'read' | 'train' | 'admin'; name: string; days: number }) => {
        const { webAddress } = await import('../dashboard/web-address.ts');
        const { dashboardLink } = await import('../dashboard/dashboard-link.ts');
        const { state, role, name, days } = options;
        const running = await webAddress(state);
        if (running === undefined) {
          throw failedPrecondition(
            `nothing runs in ${state}; start it with \`plumb up\`, or name another folder with --state`,
          );
        }
        const link = await dashboardLink(running.folder, running.address, { name, roles: [role], days });
        process.stdout.write(`${link}\n`);
        finish(0);
      },
    );
}
