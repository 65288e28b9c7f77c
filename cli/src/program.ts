import { readFile } from 'node:fs/promises';
import { Command } from 'commander';
import { z } from 'zod';
import { deadLettersCommand } from './commands/dead-letters.ts';
import { demoCommand } from './commands/demo.ts';
import { backupCommand } from './commands/backup.ts';
import { doctorCommand } from './commands/doctor.ts';
import { pretrainCommand } from './commands/pretrain.ts';
import { labelsCommand } from './commands/labels.ts';
import { linkCommand } from './commands/link.ts';
import { judgeCommand } from './commands/judge.ts';
import { modelsCommand } from './commands/models.ts';
import { exportCommand } from './commands/export.ts';
import { planCommand } from './commands/plan.ts';
import { promptsCommand } from './commands/prompts.ts';
import { rewardsCommand } from './commands/rewards.ts';
import { runCommand } from './commands/run.ts';
import { scoreCommand } from './commands/score.ts';
import { statusCommand } from './commands/status.ts';
import { studyCommand } from './commands/study.ts';
import { testCommand } from './commands/test.ts';
import { topCommand } from './commands/top.ts';
import { traceCommand } from './commands/trace.ts';
import { trainCommand } from './commands/train.ts';
import { upCommand } from './commands/up.ts';

const manifestSchema = z.object({ version: z.string() });

/**
 * The whole command line.
 * @param finish is told the exit code of the command that ran
 */
export async function createProgram(finish: (exitCode: number) => void): Promise<Command> {
  const manifest: unknown = JSON.parse(await readFile(new URL('../package.json', import.meta.url), 'utf8'));
  const { version } = manifestSchema.parse(manifest);
  const program = new Command('plumb')
    .description('Plumb improves text-to-video models with AI feedback.')
    .version(version, '--version', 'print the version')
    .helpOption('-h, --help', 'print this help')
    .helpCommand('help [command]', 'print the help of a command')
    .addHelpText('after', '\nStart with `./plumb demo`: one feedback loop on this machine, in some minutes.');
  for (const make of [
    demoCommand,
    upCommand,
    linkCommand,
    statusCommand,
    doctorCommand,
    backupCommand,
    topCommand,
    traceCommand,
    deadLettersCommand,
    runCommand,
    studyCommand,
    exportCommand,
    planCommand,
    promptsCommand,
    trainCommand,
    modelsCommand,
    judgeCommand,
    labelsCommand,
    scoreCommand,
    rewardsCommand,
    testCommand,
    pretrainCommand,
  ]) {
    program.addCommand(make(finish));
  }
  for (const command of allCommands(program)) {
    command
      .exitOverride()
      // main.ts prints the error, on one line.
      .configureOutput({ outputError: () => {} })
      .showSuggestionAfterError(true)
      .allowExcessArguments(false);
  }
  return program;
}

/** A command and all below it. */
export function allCommands(command: Command): Command[] {
  return [command, ...command.commands.flatMap(allCommands)];
}
