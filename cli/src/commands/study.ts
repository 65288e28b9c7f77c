import { Command } from 'commander';
import type { StudyOptions } from '../studies/study-commands.ts';
import { defaultStudies } from '../studies/default-studies.ts';
import { countOption } from './options.ts';

/** `plumb study`: a matrix of trainings on shared samples, and one report of what follows. */
export function studyCommand(finish: (exitCode: number) => void): Command {
  const studies = new Command('study').description(
    'compare algorithms, rewards and judge noise on the toybox',
  );
  // Loaded only when a command runs: help and complaints must not wait for it.
  const load = async () => await import('../studies/study-commands.ts');

  studies.addCommand(
    subcommand('run', 'fill in every cell of a study that is missing, and write its report')
      .argument('<spec>', 'study in YAML; docs/studies.md explains it, studies/ has two')
      .addOption(countOption('--threads <n>', 'threads of the engine; one for each core unless given'))
      .addHelpText('after', '\nCtrl-C stops; the same command goes on, also after a kill.')
      .action(async (spec: string, options: StudyOptions & { threads?: number }) => {
        finish(await (await load()).runStudyCommand(spec, options));
      }),
  );
  studies.addCommand(
    subcommand('list', 'list the studies that were run, with their answers').action(
      async (options: StudyOptions) => {
        finish(await (await load()).listStudies(options));
      },
    ),
  );
  studies.addCommand(
    subcommand('show', 'print what a study found')
      .argument('<name>', 'name of a study')
      .action(async (name: string, options: StudyOptions) => {
        finish(await (await load()).showStudy(name, options, 'table'));
      }),
  );
  studies.addCommand(
    subcommand('report', 'print where the report of a study lies')
      .argument('<name>', 'name of a study')
      .action(async (name: string, options: StudyOptions) => {
        finish(await (await load()).showStudy(name, options, 'report'));
      }),
  );
  return studies;
}

function subcommand(name: string, description: string): Command {
  return new Command(name)
    .description(description)
    .option('--studies <folder>', 'where studies keep what they have', defaultStudies)
    .option('--json', 'print the result as one JSON object, the last line of standard output');
}
