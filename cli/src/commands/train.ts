import { Command } from 'commander';
import type { TrainOptions } from '../training/train.ts';
import { addConnectionOptions } from './connection-options.ts';
import { portOption, stateOption } from './options.ts';

/** `plumb train`: one training job from a file. */
export function trainCommand(finish: (exitCode: number) => void): Command {
  const command = new Command('train')
    .description('train a model by a job spec: data set, base model, objective, optimisation')
    .argument('<file>', 'job spec in YAML or JSON; docs/training.md explains its settings')
    .option('--json', 'print the result as one JSON object, the last line of standard output')
    .addOption(stateOption())
    .option('--output <file>', 'where to write the trained model', 'model.safetensors')
    .option('--adapters-output <file>', 'where to write the adapters by themselves')
    .addOption(portOption());
  return addConnectionOptions(
    command,
    'a trainer that runs already, in the system of the same --state folder',
  )
    .addHelpText('after', '\nCtrl-C stops after a checkpoint; the same command goes on from there.')
    .action(async (file: string, options: TrainOptions) => {
      // Loaded only now: help and complaints must not wait for it.
      const { train } = await import('../training/train.ts');
      finish(await train(file, options));
    });
}
