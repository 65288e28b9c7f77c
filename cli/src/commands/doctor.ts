import { Command } from 'commander';
import { stateOption } from './options.ts';

/** Exit code of a deployment in which something does not work. */
const failedExitCode = 1;

/** `plumb doctor`: what is wrong with a deployment, and what to do about it. */
export function doctorCommand(finish: (exitCode: number) => void): Command {
  return new Command('doctor')
    .description('check a deployment from inside, and say what to fix')
    .addOption(stateOption())
    .option('--json', 'print it as one JSON object')
    .addHelpText(
      'after',
      '\nLooks at the deployment that PLUMB_NATS_URL and the other settings of services describe or, where that is not set, at the\n' +
        'system that runs in the state folder. Asks no judge for a verdict. Exit code 1 when something fails. See docs/doctor.md.',
    )
    .action(async (options: { state: string; json?: true }) => {
      const { examine } = await import('../doctor/examine.ts');
      const { findingsText } = await import('../doctor/findings-text.ts');
      const { where, findings } = await examine(options.state, process.env);
      const failed = findings.some(({ result }) => result === 'fail');
      process.stdout.write(
        `${options.json === true ? JSON.stringify({ where, ok: !failed, findings }) : findingsText(where, findings)}\n`,
      );
      finish(failed ? failedExitCode : 0);
    });
}
