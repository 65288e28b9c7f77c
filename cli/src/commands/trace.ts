import { Command } from 'commander';
import type { TraceOptions } from '../trace/trace.ts';
import { addConnectionOptions } from './connection-options.ts';
import { stateOption } from './options.ts';

export function traceCommand(finish: (exitCode: number) => void): Command {
  const command = new Command('trace')
    .description('show where the time of a sample, an iteration or a run went, from the local span files')
    .argument(
      '[id]',
      'a sample (or the beginning of its id), a run, an iteration as <run>/<number>, or a trace; the last scored sample by default',
    )
    .addOption(stateOption())
    .option('--spans <folder>', 'folder of span files (PLUMB_SPAN_DIRECTORY) instead of the state folder')
    .option('--json', 'print JSON, one object a trace');
  return addConnectionOptions(
    command,
    'ask a loop service that reads the span files of all; then the id is that of a sample or a trace',
  )
    .addHelpText(
      'after',
      '\nIn the waterfall, # is on the critical path: what the end of the trace waited for.\n' +
        '`plumb status` and the report name runs; samples are listed by LoopService.ListSamples.',
    )
    .action(async (id: string | undefined, options: TraceOptions) => {
      const { printTrace } = await import('../trace/trace.ts');
      await printTrace(id, options);
      finish(0);
    });
}
