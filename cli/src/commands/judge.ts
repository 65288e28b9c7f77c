import { toJson } from '@bufbuild/protobuf';
import Table from 'cli-table3';
import { Command, Option } from 'commander';
import { invalidArgument } from '@plumb/kit/errors';
import { addConnectionOptions } from './connection-options.ts';
import type { ConnectionOptions } from './connection-options.ts';
import { countOption, stateOption } from './options.ts';

interface Where extends ConnectionOptions {
  readonly state: string;
  readonly json?: true;
}

/** `plumb judge`: ask, measure and pay for judges. */
export function judgeCommand(finish: (exitCode: number) => void): Command {
  const judge = new Command('judge').description('try, calibrate and budget the judges');
  judge.addCommand(listCommand(finish));
  judge.addCommand(tryCommand(finish));
  judge.addCommand(calibrateCommand(finish));
  judge.addCommand(spendCommand(finish));
  judge.addCommand(budgetCommand(finish));
  judge.addHelpText(
    'after',
    '\nAsks the judge service of the system that runs in the state folder, or starts one with the judges file that\nPLUMB_JUDGES_FILE names. docs/judge.md explains the file.',
  );
  return judge;
}

function subcommand(name: string, description: string): Command {
  const command = new Command(name).description(description).addOption(stateOption());
  return addConnectionOptions(command, 'a judge service that runs elsewhere').option(
    '--json',
    'print it as one JSON object, the last line of standard output',
  );
}

function print(options: Where, value: unknown, text: () => string): void {
  process.stdout.write(`${options.json === true ? JSON.stringify(value) : text()}\n`);
}

function listCommand(finish: (exitCode: number) => void): Command {
  return subcommand('list', 'list judges, panels and endpoints').action(async (options: Where) => {
    const { withJudge } = await import('../judging/with-judge.ts');
    const messages = await import('@plumb/proto/plumb/judge/v1/judge_pb.js');
    const { JudgeMode, EndpointState, ListJudgesResponseSchema, ListEndpointsResponseSchema } = messages;
    const exitCode = await withJudge(options, async (client) => {
      const judges = await client.listJudges({});
      const endpoints = await client.listEndpoints({});
      const value = {
        ...Object(toJson(ListJudgesResponseSchema, judges)),
        ...Object(toJson(ListEndpointsResponseSchema, endpoints)),
      };
      print(options, value, () => {
        const table = new Table({
          head: ['judge', 'mode', 'model', 'votes', 'calibrated', 'held out', 'members'],
          style: { head: [], border: [] },
        });
        for (const { name, mode, model, votes, calibrationHash, heldOut, members } of judges.judges) {
          const calibrated = calibrationHash === '' ? '' : calibrationHash.slice(0, 12);
          const held = heldOut ? 'yes' : '';
          table.push([
            name,
            JudgeMode[mode].toLowerCase(),
            model,
            votes,
            calibrated,
            held,
            members.join(', '),
          ]);
        }
        const places = new Table({
          head: ['endpoint', 'state', 'calls', 'allowed at a time', 'verdicts under way'],
          style: { head: [], border: [] },
        });
        for (const { name, state, callsInFlight, concurrency, verdictsInFlight } of endpoints.endpoints) {
          places.push([
            name,
            EndpointState[state].toLowerCase(),
            callsInFlight,
            concurrency,
            verdictsInFlight,
          ]);
        }
        const problems = judges.judges
          .filter(({ problem }) => problem !== '')
          .map(({ name, problem }) => `\n${name} cannot be asked: ${problem}`);
        return `${table.toString()}\n${places.toString()}${problems.join('')}`;
      });
    });
    finish(exitCode);
  });
}

function tryCommand(finish: (exitCode: number) => void): Command {
  return subcommand('try', 'one verdict, with the exact messages that are sent')
    .argument('<clip>', 'an animation, a video, a PNG film strip, or toybox:<seed>')
    .argument('[prompt]', 'what the clip was asked to show; a toybox clip has its own')
    .option('--judge <name>', 'which judge', 'default')
    .option('--against <clip>', 'the other clip, for a judge that compares')
    .addOption(
      new Option('--category <name>', 'category of the prompt').choices(['OR', 'MO', 'DO', 'DM', 'FD']),
    )
    .addOption(countOption('--frames <number>', 'frames of a film strip'))
    .option('--explain-only', 'print the messages and ask nobody')
    .action(
      async (
        name: string,
        given: string | undefined,
        options: Where & {
          judge: string;
          against?: string;
          category?: 'OR' | 'MO' | 'DO' | 'DM' | 'FD';
          frames?: number;
          explainOnly?: true;
        },
      ) => {
        const { readClip } = await import('../judging/clip-file.ts');
        const { categoryOf } = await import('../judging/labelled-set.ts');
        const { bodyText, preferenceText, verdictText } = await import('../judging/verdict-text.ts');
        const { withJudge } = await import('../judging/with-judge.ts');
        const { CompareResponseSchema, JudgeResponseSchema, Purpose } =
          await import('@plumb/proto/plumb/judge/v1/judge_pb.js');
        const { video, made } = await readClip(name, options.frames);
        const text = given ?? made?.caption;
        if (text === undefined)
          throw invalidArgument('prompt', 'is missing; say what the clip was asked to show');
        const category = options.category ?? made?.category;
        const other =
          options.against === undefined ? undefined : await readClip(options.against, options.frames);
        const asked = {
          judge: options.judge,
          prompt: { text, ...(category === undefined ? {} : { category: categoryOf[category] }) },
          purpose: Purpose.EVALUATION,
          explain: true,
          explainOnly: options.explainOnly === true,
        };
        const shown = (bodies: readonly string[], answer: string): string =>
          [
            ...bodies.map((body, index) => `Call ${index + 1} of ${bodies.length}:\n${bodyText(body)}\n`),
            answer,
          ].join('\n');
        const exitCode = await withJudge(options, async (client) => {
          if (other !== undefined) {
            const preference = await client.compare({ ...asked, first: video, second: other.video });
            print(options, toJson(CompareResponseSchema, preference), () =>
              shown(
                preference.requestBodies,
                asked.explainOnly ? '' : preferenceText(options.judge, preference),
              ),
            );
            return;
          }
          const response = await client.judge({ ...asked, video });
          print(options, toJson(JudgeResponseSchema, response), () =>
            shown(
              response.requestBodies,
              response.verdict === undefined ? '' : verdictText(response.verdict),
            ),
          );
        });
        finish(exitCode);
      },
    );
}

function calibrateCommand(finish: (exitCode: number) => void): Command {
  return subcommand('calibrate', 'measure judges against labels, and fit their confidence to them')
    .argument('[labels]', 'labels, one JSON object a line; clips of the toybox without it')
    .option('--judge <names>', 'judges to compare, with commas between them', 'default')
    .addOption(
      countOption('--toybox <clips>', 'clips of the toybox, labelled by how they were made').default(300),
    )
    .addOption(countOption('--seed <number>', 'first clip of the toybox', 0).default(1_000_000))
    .addOption(
      new Option('--method <name>', 'kind of mapping').choices(['platt', 'isotonic']).default('platt'),
    )
    .option('--output <folder>', 'where the page and the calibrations go', 'judge-calibration')
    .action(
      async (
        labels: string | undefined,
        options: Where & {
          judge: string;
          toybox: number;
          seed: number;
          method: 'platt' | 'isotonic';
          output: string;
        },
      ) => {
        const { calibrateJudges } = await import('../judging/calibrate-judges.ts');
        const { calibrationTable } = await import('../judging/calibration-table.ts');
        const { withJudge } = await import('../judging/with-judge.ts');
        const exitCode = await withJudge(options, async (client, signal) => {
          const result = await calibrateJudges(
            client,
            { ...options, labels, judges: options.judge.split(',').map((name) => name.trim()) },
            (line) => {
              process.stderr.write(`${line}\n`);
            },
            signal,
          );
          print(options, result, () =>
            [
              calibrationTable(result.reports),
              '',
              `Page: ${result.page}`,
              ...Object.entries(result.calibrations).map(([name, path]) => `Calibration of ${name}: ${path}`),
            ].join('\n'),
          );
        });
        finish(exitCode);
      },
    );
}

function spendCommand(finish: (exitCode: number) => void): Command {
  return subcommand('spend', 'what a run has spent on judging')
    .argument('<run>', 'id of the run')
    .action(async (runId: string, options: Where) => {
      await onAccount(options, finish, { runId, budget: undefined });
    });
}

function budgetCommand(finish: (exitCode: number) => void): Command {
  return subcommand('budget', 'set what a run may spend on judging; verdicts that wait for money go on')
    .argument('<run>', 'id of the run')
    .addOption(countOption('--tokens <number>', 'input and output tokens; no limit without it', 0))
    .option('--cost <amount>', 'money, in the currency of the judges file; no limit without it')
    .action(async (runId: string, options: Where & { tokens?: number; cost?: string }) => {
      const cost = options.cost === undefined ? undefined : Number(options.cost);
      if (cost !== undefined && !(cost >= 0)) {
        throw invalidArgument('--cost', `is '${options.cost}'; give a number of 0 or more`);
      }
      const budget = {
        ...(options.tokens === undefined ? {} : { tokens: BigInt(options.tokens) }),
        ...(cost === undefined ? {} : { cost }),
      };
      await onAccount(options, finish, { runId, budget });
    });
}

async function onAccount(
  options: Where,
  finish: (exitCode: number) => void,
  { runId, budget }: { runId: string; budget: { tokens?: bigint; cost?: number } | undefined },
): Promise<void> {
  const { withJudge } = await import('../judging/with-judge.ts');
  const { SpendSchema } = await import('@plumb/proto/plumb/judge/v1/judge_pb.js');
  const exitCode = await withJudge(options, async (client) => {
    const { spend } =
      budget === undefined ? await client.getSpend({ runId }) : await client.setBudget({ runId, budget });
    if (spend === undefined) throw new TypeError('the judge service gave no account');
    print(options, toJson(SpendSchema, spend), () => {
      const tokens = (spend.usage?.inputTokens ?? 0n) + (spend.usage?.outputTokens ?? 0n);
      const limits = [
        `${tokens} tokens${spend.budget?.tokens === undefined ? '' : ` of ${spend.budget.tokens}`}`,
        `${(spend.cost?.amount ?? 0).toFixed(4)}${spend.budget?.cost === undefined ? '' : ` of ${spend.budget.cost}`} ${spend.cost?.currency ?? ''}`,
        `${spend.calls} calls`,
      ];
      if (spend.estimatedCalls > 0n)
        limits.push(`of them ${spend.estimatedCalls} estimated, ${spend.estimatedTokens} tokens`);
      const state = spend.exhausted ? '\nThe budget is used up: verdicts wait until it is raised.' : '';
      return `${runId}: ${limits.join(', ')}${state}`;
    });
  });
  finish(exitCode);
}
