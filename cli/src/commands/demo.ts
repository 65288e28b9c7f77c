import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { Command, Option } from 'commander';
import { demoDefaults } from '../demo-spec.ts';
import type { DemoOptions } from '../demo/demo.ts';
import { countOption, numberOption, portOption, seedOption, stateOption } from './options.ts';

const root = fileURLToPath(new URL('../../../', import.meta.url));

export function demoCommand(finish: (exitCode: number) => void): Command {
  return new Command('demo')
    .description('run one feedback loop on the built-in toybox world and show what it changed')
    .option('--json', 'print the result as one JSON object, the last line of standard output')
    .option('--fresh', 'start over instead of going on where the last start stopped')
    .option('--control', 'also finetune on the same samples without feedback, to compare')
    .addOption(stateOption())
    .option('--report <file>', 'where to write the report', 'report.html')
    .addOption(seedOption().default(demoDefaults.seed, String(demoDefaults.seed)))
    .addOption(
      new Option('--algorithm <name>', 'how to learn from the labels')
        .choices(['rwr', 'filtered-sft', 'sft', 'dpo', 'kto'])
        .default(demoDefaults.algorithm),
    )
    .addOption(
      countOption('--samples-per-prompt <n>', 'clips for each training prompt').default(
        demoDefaults.samplesPerPrompt,
      ),
    )
    .addOption(
      countOption('--heldout-samples <n>', 'clips for each held-out prompt from each model').default(
        demoDefaults.heldoutSamplesPerPrompt,
      ),
    )
    .addOption(countOption('--prompts-per-category <n>', 'only the first n training prompts of a category'))
    .addOption(countOption('--heldout-per-category <n>', 'only the first n held-out prompts of a category'))
    .addOption(countOption('--steps <n>', 'training steps').default(demoDefaults.steps))
    .addOption(countOption('--batch-size <n>', 'clips in a training step').default(demoDefaults.batchSize))
    .addOption(
      numberOption('--learning-rate <x>', 'highest learning rate').default(demoDefaults.learningRate),
    )
    .addOption(countOption('--adapter-rank <n>', 'train low-rank adapters of this rank, not all weights'))
    .addOption(
      countOption('--probe-every <n>', 'steps between held-out probes that stop over-optimisation early'),
    )
    .addOption(
      countOption('--sampler-steps <n>', 'denoising steps for a clip').default(demoDefaults.sampler.steps),
    )
    .addOption(
      numberOption('--guidance <x>', 'classifier-free guidance; 1 is none').default(
        demoDefaults.sampler.guidance,
      ),
    )
    .addOption(
      new Option('--weights <file>', 'model to start from').default(
        join(root, 'models/toybox/model.safetensors'),
        'the shipped toybox model',
      ),
    )
    .addOption(
      new Option('--prompts <file>', 'prompt set').default(
        join(root, 'prompts/toybox.json'),
        'the shipped one',
      ),
    )
    .addOption(portOption())
    .addHelpText(
      'after',
      '\nCtrl-C stops everything in order; the same command goes on where it stopped.\nOptions that change the result make a run of their own.',
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
    if (command.getOptionValueSource(name) !== 'cli' && name !== 'seed') continue;
    const value: unknown = command.getOptionValue(name);
    parts.push(value === true ? (option.long ?? '') : `${option.long ?? ''} ${String(value)}`);
  }
  return parts.join(' ');
}
