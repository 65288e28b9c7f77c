import { Command, Option } from 'commander';
import type { DemoOptions } from '../demo/demo.ts';
import { countOption, numberOption, portOption, seedOption, stateOption } from './options.ts';

export function demoCommand(finish: (exitCode: number) => void): Command {
  return new Command('demo')
    .description('run one feedback loop on the built-in toybox world and show what it changed')
    .option('--json', 'print the result as one JSON object, the last line of standard output')
    .option('--fresh', 'start over instead of going on where the last start stopped')
    .option('--control', 'also finetune on the same samples without feedback, to compare')
    .addOption(stateOption())
    .option('--report <file>', 'where to write the report', 'report.html')
    .addOption(seedOption())
    .addOption(
      new Option('--algorithm <name>', 'how to learn from the labels').choices([
        'rwr',
        'filtered-sft',
        'sft',
        'dpo',
        'kto',
      ]),
    )
    .addOption(countOption('--samples-per-prompt <n>', 'clips for each training prompt'))
    .addOption(countOption('--heldout-samples <n>', 'clips for each held-out prompt from each model'))
    .addOption(countOption('--prompts-per-category <n>', 'only the first n training prompts of a category'))
    .addOption(countOption('--heldout-per-category <n>', 'only the first n held-out prompts of a category'))
    .addOption(countOption('--steps <n>', 'training steps'))
    .addOption(countOption('--batch-size <n>', 'clips in a training step'))
    .addOption(numberOption('--learning-rate <x>', 'highest learning rate'))
    .addOption(countOption('--adapter-rank <n>', 'train low-rank adapters of this rank, not all weights'))
    .addOption(
      countOption('--probe-every <n>', 'steps between held-out probes that stop over-optimisation early'),
    )
    .addOption(countOption('--sampler-steps <n>', 'denoising steps for a clip'))
    .addOption(numberOption('--guidance <x>', 'classifier-free guidance; 1 is none'))
    .addOption(new Option('--weights <file>', 'model to start from'))
    .addOption(new Option('--prompts <file>', 'prompt set'))
    .addOption(portOption())
    .addHelpText(
      'after',
      '\nWhat is not given is as in specs/toybox.yaml, of which the demo runs one iteration.\nCtrl-C stops everything in order; the same command goes on where it stopped.\nOptions that change the result make a run of their own.',
    )
    .action(async (options: DemoOptions, command: Command) => {
      // Loaded only now: help and complaints must not wait for it.
      const { demo } = await import('../demo/demo.ts');
      finish(await demo(options, repeatCommand(command)));
    });
}

/** The command line that makes the same run from nothing: every option that was given, besides those of one machine. */
function repeatCommand(command: Command): string {
  const parts = ['./plumb demo --fresh'];
  for (const option of command.options) {
    const name = option.attributeName();
    if (['json', 'fresh', 'state', 'report', 'port'].includes(name)) continue;
    if (command.getOptionValueSource(name) !== 'cli') continue;
    const value: unknown = command.getOptionValue(name);
    parts.push(value === true ? (option.long ?? '') : `${option.long ?? ''} ${String(value)}`);
  }
  return parts.join(' ');
}
