import { Command, InvalidArgumentError, Option } from 'commander';
import type { LabelOptions } from '../labels/label-commands.ts';
import { addConnectionOptions } from './connection-options.ts';
import { countOption, stateOption } from './options.ts';

/** `plumb labels`: what people say of clips. */
export function labelsCommand(finish: (exitCode: number) => void): Command {
  const labels = new Command('labels').description('have people rate clips, and use what they say');
  // Loaded only when a command runs: help and complaints must not wait for it.
  const load = async () => await import('../labels/label-commands.ts');

  labels.addCommand(
    subcommand('open', 'choose clips of a run for people to rate; prints a link for each rater')
      .argument('<run>', 'id of a run that has clips')
      .addOption(
        new Option('--kind <name>', 'verdict: accept or reject a clip; preference: the better of two')
          .choices(['verdict', 'preference'])
          .default('verdict'),
      )
      .addOption(
        new Option(
          '--prompts <split>',
          "whose clips: of held-out prompts, or of training prompts, for a spec's labels",
        )
          .choices(['heldout', 'train'])
          .default('heldout'),
      )
      .addOption(countOption('--size <number>', 'clips, or pairs').default(100))
      .option('--name <text>', 'shown to the raters', 'Clips')
      .option('--raters <names>', 'pseudonyms, with commas between them', parseNames)
      .addOption(
        countOption('--toybox-checks <number>', 'mix in so many clips of the toybox, whose truth is known'),
      )
      .option('--known <labels>', 'mix in the clips of this file of labels (docs/judge.md, Calibration)')
      .option('--idempotency-key <text>', 'the same key is the same session', undefined)
      .action(
        async (
          run: string,
          options: LabelOptions & {
            kind: 'verdict' | 'preference';
            prompts: 'heldout' | 'train';
            size: number;
            name: string;
            raters?: readonly string[];
            toyboxChecks?: number;
            known?: string;
            idempotencyKey?: string;
          },
        ) => {
          finish(await (await load()).openSession(run, options));
        },
      ),
  );
  labels.addCommand(
    subcommand('list', 'list the sessions of a run, with what each rater has done')
      .argument('<run>', 'id of a run')
      .action(async (run: string, options: LabelOptions) => {
        finish(await (await load()).listSessions(run, options));
      }),
  );
  labels.addCommand(
    subcommand('link', 'print the link of one more rater')
      .argument('<session>', 'id of a session')
      .requiredOption('--rater <name>', 'pseudonym')
      .addOption(countOption('--days <number>', 'how long it holds').default(30))
      .action(async (session: string, options: LabelOptions & { rater: string; days: number }) => {
        finish(await (await load()).raterLink(session, options));
      }),
  );
  labels.addCommand(
    subcommand('agreement', 'how far raters agree with each other, with the judge and with every reward')
      .argument('<session>', 'id of a session')
      .action(async (session: string, options: LabelOptions) => {
        finish(await (await load()).printAgreement(session, options));
      }),
  );
  labels.addCommand(
    subcommand('export', 'write the labels of a run as a set for `plumb judge calibrate`')
      .argument('<run>', 'id of a run')
      .requiredOption('--output <folder>', 'where labels.jsonl and the clips go')
      .action(async (run: string, options: LabelOptions & { output: string }) => {
        finish(await (await load()).exportLabels(run, options));
      }),
  );
  return labels;
}

function subcommand(name: string, description: string): Command {
  const command = new Command(name).description(description).addOption(stateOption());
  return addConnectionOptions(command, 'a loop service that runs elsewhere').option(
    '--json',
    'print it as one JSON object, the last line of standard output',
  );
}

function parseNames(text: string): readonly string[] {
  const names = text.split(',').map((name) => name.trim());
  if (names.some((name) => !/^[a-z0-9][a-z0-9._-]{0,62}$/.test(name))) {
    throw new InvalidArgumentError('Give names of lower-case letters, digits and . _ - with commas between.');
  }
  return names;
}
