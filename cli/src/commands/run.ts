import { userInfo } from 'node:os';
import { Command, Option } from 'commander';
import type { ReplayOptions } from '../runs/replay.ts';
import type { RunOptions } from '../runs/run-commands.ts';
import { addConnectionOptions } from './connection-options.ts';
import { stateOption } from './options.ts';

/** `plumb run`: runs of the loop, from a spec in YAML to a promoted model. */
export function runCommand(finish: (exitCode: number) => void): Command {
  const runs = new Command('run').description('create, follow, steer, compare and repeat runs');
  // Loaded only when a command runs: help and complaints must not wait for it.
  const load = async () => await import('../runs/run-commands.ts');

  runs.addCommand(
    subcommand('create', 'make the run of a spec, and follow it to its end')
      .argument('<spec>', 'run spec in YAML or JSON; docs/runs.md explains it, specs/ has some')
      .option('--detach', 'do not follow it; needs a system that runs already (`./plumb up`)')
      .option('--idempotency-key <text>', 'idempotency key: the same key is the same run', undefined)
      .addHelpText(
        'after',
        '\nWithout a running system, one is started for the run. Ctrl-C stops; the same command goes on.',
      )
      .action(async (spec: string, options: RunOptions & { detach?: true; idempotencyKey?: string }) => {
        finish(await (await load()).createRun(spec, options));
      }),
  );
  runs.addCommand(
    subcommand('list', 'list the runs, newest first').action(async (options: RunOptions) => {
      finish(await (await load()).listRuns(options));
    }),
  );
  runs.addCommand(
    subcommand('watch', 'follow a run: stages, rates, queues, acceptance, spend, time left')
      .argument('<run>', 'id of a run')
      .action(async (id: string, options: RunOptions) => {
        finish(await (await load()).followRunById(id, options));
      }),
  );
  for (const [verb, description] of [
    ['pause', 'stop enqueuing work; what is in hand is finished and kept'],
    ['cancel', 'end a run for good'],
  ] as const) {
    runs.addCommand(
      subcommand(verb, description)
        .argument('<run>', 'id of a run')
        .action(async (id: string, options: RunOptions) => {
          finish(await (await load()).steerRun(verb, id, options));
        }),
    );
  }
  runs.addCommand(
    subcommand('resume', 'let a paused run go on; samples that failed are tried again')
      .argument('<run>', 'id of a run')
      .option('--budgets <spec>', 'take the budgets of this run spec from now on')
      .action(async (id: string, options: RunOptions & { budgets?: string }) => {
        finish(await (await load()).steerRun('resume', id, options));
      }),
  );
  runs.addCommand(
    subcommand('report', "print what each iteration brought, and the gate's decisions with their reasons")
      .argument('<run>', 'id of a run')
      .option('--output <file>', 'also write one HTML page, with charts and clips of the last iteration')
      .action(async (id: string, options: RunOptions & { output?: string }) => {
        finish(await (await load()).reportRun(id, options));
      }),
  );
  runs.addCommand(
    subcommand('diff', 'say in what two runs differ: spec, data, weights, clips, scores, decisions')
      .argument('<run>', 'id of a run, or the file of a run manifest')
      .argument('<other>', 'id of another, or a file')
      .action(async (a: string, b: string, options: RunOptions) => {
        finish(await (await load()).diffRuns(a, b, options));
      }),
  );
  runs.addCommand(
    subcommand('manifest', 'write the manifest of a run, from which it can be repeated')
      .argument('<run>', 'id of a run that has succeeded')
      .option('--output <file>', 'where to write it', 'run.json')
      .action(async (id: string, options: RunOptions & { output: string }) => {
        finish(await (await load()).writeManifest(id, options));
      }),
  );
  runs.addCommand(
    local('replay', 'repeat a run or an evaluation by its manifest on this machine, and say what differs')
      .argument('<manifest>', 'file or SHA-256 of a run manifest or an evaluation manifest')
      .option('--work <folder>', 'state folder of the repetition; it is removed first', '.plumb-replay')
      .addHelpText(
        'after',
        '\nNothing is taken over from the original but the weights that it began with: every clip is made and scored anew. They are\nread from the state folder, or from PLUMB_ARTIFACTS where there is none.\nExit code 0 when nothing differs, 4 when something does.',
      )
      .action(async (manifest: string, options: ReplayOptions) => {
        const { replay } = await import('../runs/replay.ts');
        finish(await replay(manifest, options));
      }),
  );
  runs.addCommand(
    subcommand('override', 'decide otherwise than the gate, with a reason that stays on record')
      .argument('<run>', 'id of a run')
      .addOption(new Option('--promote', 'promote the candidate that the gate refused').conflicts('refuse'))
      .option('--refuse', 'go back to the model before it')
      .option('--iteration <n>', 'which iteration; the latest with a decision unless given', Number)
      .requiredOption('--reason <text>', 'why')
      .option('--person <name>', 'who decides', userInfo().username)
      .action(
        async (
          id: string,
          options: RunOptions & {
            promote?: true;
            refuse?: true;
            iteration?: number;
            reason: string;
            person: string;
          },
        ) => {
          finish(await (await load()).overrideGate(id, options));
        },
      ),
  );
  return runs;
}

function subcommand(name: string, description: string): Command {
  return addConnectionOptions(local(name, description), 'a loop service that runs elsewhere');
}

/** A subcommand that calls no service elsewhere. */
function local(name: string, description: string): Command {
  return new Command(name)
    .description(description)
    .addOption(stateOption())
    .option('--json', 'print the result as one JSON object, the last line of standard output');
}
