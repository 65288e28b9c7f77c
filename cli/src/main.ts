import { CommanderError } from 'commander';
import type { Command } from 'commander';
import { describeError, PlumbError } from '@plumb/kit/errors';
import { allCommands, createProgram } from './program.ts';
import { logTailKey } from './supervisor/component.ts';

/** Wrong use of the command line; everything else that fails is 1. */
const usageExitCode = 2;

try {
  const program = await createProgram((exitCode) => {
    process.exitCode = exitCode;
  });
  await program.parseAsync(nameUnknownFlags(program, process.argv.slice(2)), { from: 'user' });
} catch (error) {
  process.exitCode = report(error);
}

/**
 * Takes the value off an unknown `--flag=value`, so that the complaint names the flag alone and finds the nearest one.
 */
function nameUnknownFlags(program: Command, args: readonly string[]): string[] {
  const known = new Set(allCommands(program).flatMap(({ options }) => options.map(({ long }) => long)));
  return args.map((arg) => {
    const flag = /^(--[^=]+)=/.exec(arg)?.[1];
    return flag === undefined || known.has(flag) ? arg : flag;
  });
}

function report(error: unknown): number {
  if (error instanceof CommanderError) {
    // Help and version end this way too, with code 0 and nothing to complain about.
    if (error.exitCode === 0) return 0;
    // `plumb` alone has printed its help.
    if (error.code === 'commander.help') return usageExitCode;
    const text = error.message.replace(/^error: /, '').replaceAll(/\s*\n\s*/g, ' ');
    process.stderr.write(`plumb: ${text}\n`);
    return usageExitCode;
  }
  // A foreseen error says all in its message; of any other, whatever there is helps.
  const foreseen = error instanceof PlumbError && error.code !== 'INTERNAL';
  process.stderr.write(
    `plumb: ${foreseen ? error.message.replaceAll(/\s*\n\s*/g, ' ') : describeError(error)}\n`,
  );
  const tail = error instanceof PlumbError ? error.metadata[logTailKey] : undefined;
  if (tail !== undefined && tail !== '') process.stderr.write(`${tail.replaceAll(/^/gm, '  | ')}\n`);
  return 1;
}
