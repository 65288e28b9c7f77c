import { CommanderError } from 'commander';
import { describeError, PlumbError } from '@plumb/kit/errors';
import { createProgram } from './program.ts';
import { logTailKey } from './supervisor/component.ts';

/** Wrong use of the command line; everything else that fails is 1. */
const usageExitCode = 2;

try {
  const program = await createProgram((exitCode) => {
    process.exitCode = exitCode;
  });
  await program.parseAsync();
} catch (error) {
  process.exitCode = report(error);
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
  process.stderr.write(`plumb: ${describeError(error)}\n`);
  const tail = error instanceof PlumbError ? error.metadata[logTailKey] : undefined;
  if (tail !== undefined && tail !== '') process.stderr.write(`${tail.replaceAll(/^/gm, '  | ')}\n`);
  return 1;
}
