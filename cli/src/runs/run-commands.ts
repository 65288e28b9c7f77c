import { resolve } from 'node:path';
import { create, toJson } from '@bufbuild/protobuf';
import { timestampDate } from '@bufbuild/protobuf/wkt';
import Table from 'cli-table3';
import { errorDetails, failedPrecondition, internal, invalidArgument } from '@plumb/kit/errors';
import { ReportSchema, RunSchema, RunState, Stage } from '@plumb/proto/plumb/loop/v1/loop_pb.js';
import type { Report, Run } from '@plumb/proto/plumb/loop/v1/loop_pb.js';
import { defaultStateFolder } from '../commands/options.ts';
import { collectReport } from '../demo/collect-report.ts';
import { openProgressDisplay } from '../progress/progress-display.ts';
import { shortDuration } from '../progress/run-progress.ts';
import { buildReport } from '../report/build-report.ts';
import { writeWhole } from '../state/state-folder.ts';
import { allSamples, persistently } from './loop-client.ts';
import type { LoopClient } from './loop-client.ts';
import { completeSpec, keyOfSpec, prepareRun, registerBase, resumeRun, startRun } from './make-run.ts';
import { differencesOf, readRunManifest } from './run-manifest-file.ts';
import type { RunManifest } from './run-manifest-file.ts';
import { reportText } from './report-text.ts';
import { readRunSpecFile } from './run-spec-file.ts';
import { unfinished, watchRun } from './watch-run.ts';
import { spendTable } from '../judging/spend-table.ts';
import type { ComponentName } from '../supervisor/embedded-system.ts';
import { withLoop } from './with-loop.ts';
import type { LoopConnection, LoopOptions } from './with-loop.ts';

/** Options that every `plumb run` command has. */
export interface RunOptions extends LoopOptions {
  readonly json?: true;
}

/** Exit code of a comparison that found differences. */
const differsExitCode = 4;
/** What answers questions where nothing runs. */
const questioned = ['nats-server', 'loop'] as const;
/** What a report takes: the judge keeps the accounts of what it has spent. */
const reported = ['nats-server', 'referee', 'judge', 'loop'] as const;

function print(options: RunOptions, value: unknown, text: () => string): void {
  process.stdout.write(`${options.json === true ? JSON.stringify(value) : text()}\n`);
}

function jsonOf(run: Run): unknown {
  // The spec holds every prompt; who wants it finds it in the manifest.
  const { spec: _spec, ...rest } = toJson(RunSchema, run, { registry: errorDetails }) as Record<
    string,
    unknown
  >;
  return { ...rest, name: run.spec?.name ?? '', iterations: run.spec?.iterations ?? 0 };
}

/** Asks a loop, starting it and its broker where nothing runs. */
async function ask(
  options: RunOptions,
  command: string,
  work: (connection: LoopConnection) => Promise<void>,
  only: readonly ComponentName[] = questioned,
): Promise<number> {
  return await withLoop({ ...options, command, only, notice: () => {} }, work);
}

/** `plumb run create` */
export async function createRun(
  path: string,
  options: RunOptions & { readonly detach?: true; readonly idempotencyKey?: string },
): Promise<number> {
  const prepared = await prepareRun(await readRunSpecFile(resolve(path)));
  const display = openProgressDisplay(process.stderr);
  let last: Run | undefined;
  const exitCode = await withLoop(
    { ...options, command: 'run', notice: display.notice },
    async ({ loop, registry, artifactFolder, temporary, signal }) => {
      if (options.detach === true && temporary) {
        throw failedPrecondition(
          `nothing runs in ${options.state}, so that nobody would do the work; start \`./plumb up\`, or leave --detach out`,
        );
      }
      const spec = await completeSpec(prepared, artifactFolder, registry, signal);
      await registerBase(registry, spec.base, signal);
      const key = options.idempotencyKey ?? keyOfSpec(spec);
      const run = await startRun(loop, spec, { key, notice: display.notice, signal });
      last = options.detach === true ? run : await watchRun(loop, run, display, signal);
    },
  ).finally(() => {
    display.close();
  });
  return finishWatching(options, last, exitCode, options.detach === true);
}

/** `plumb run watch` */
export async function followRunById(id: string, options: RunOptions): Promise<number> {
  const display = openProgressDisplay(process.stderr);
  let last: Run | undefined;
  const exitCode = await withLoop(
    { ...options, command: 'run', notice: display.notice },
    async ({ loop, signal }) => {
      last = await watchRun(loop, await runOf(loop, id, signal), display, signal);
    },
  ).finally(() => {
    display.close();
  });
  return finishWatching(options, last, exitCode, false);
}

function finishWatching(
  options: RunOptions,
  run: Run | undefined,
  exitCode: number,
  detached: boolean,
): number {
  if (run === undefined || (run.state === RunState.RUNNING && !detached)) {
    process.stderr.write('Stopped. The same command goes on from here.\n');
    return exitCode;
  }
  if (!detached && run.state !== RunState.SUCCEEDED) {
    throw unfinished(run, {
      resume: `\`${commandOn(run, 'resume', options)}\``,
      startOver: 'another --idempotency-key',
    });
  }
  print(options, jsonOf(run), () => {
    const rest = detached ? 'watch' : 'report';
    return `${run.id}\n${commandOn(run, rest, options)}`;
  });
  return exitCode;
}

/** A command on a run that finds the same loop. */
function commandOn({ id }: Run, verb: string, { address, state }: RunOptions): string {
  const where =
    address !== undefined
      ? ` --address ${address}`
      : state === defaultStateFolder
        ? ''
        : ` --state ${/^[\w./-]+$/.test(state) ? state : JSON.stringify(state)}`;
  return `./plumb run ${verb} ${id}${where}`;
}

async function runOf(loop: LoopClient, id: string, signal: AbortSignal): Promise<Run> {
  const { run } = await persistently(() => loop.getRun({ id }, { signal }), signal);
  if (run === undefined) throw internal(new Error(`the loop gave no run for ${id}`));
  return run;
}

/** `plumb run list` */
export async function listRuns(options: RunOptions): Promise<number> {
  const runs: Run[] = [];
  const exitCode = await ask(options, 'run', async ({ loop, signal }) => {
    let pageToken = '';
    do {
      const token = pageToken;
      const page = await persistently(
        () => loop.listRuns({ pageSize: 200, pageToken: token }, { signal }),
        signal,
      );
      runs.push(...page.runs);
      pageToken = page.nextPageToken;
    } while (pageToken !== '');
  });
  if (exitCode !== 0) return exitCode;
  print(options, { runs: runs.map(jsonOf) }, () => {
    if (runs.length === 0) return 'There is no run.';
    const table = new Table({
      head: ['run', 'name', 'state', 'iteration', 'stage', 'accepted', 'created', 'work'],
      style: { head: [], border: [] },
    });
    for (const run of runs) table.push(rowOf(run));
    const reasons = runs
      .filter(({ error, state }) => error !== undefined && state !== RunState.RUNNING)
      .map(({ id, state, error }) => `${id} ${RunState[state].toLowerCase()}: ${error?.message ?? ''}`);
    return [table.toString(), ...reasons].join('\n');
  });
  return exitCode;
}

function rowOf(run: Run): string[] {
  const scored = Number(run.counts?.scored ?? 0n);
  return [
    run.id,
    run.spec?.name ?? '',
    RunState[run.state].toLowerCase(),
    `${run.iteration} of ${run.spec?.iterations ?? 0}`,
    Stage[run.stage].toLowerCase(),
    scored === 0 ? '' : `${((100 * Number(run.counts?.accepted ?? 0n)) / scored).toFixed(1)}%`,
    run.createTime === undefined ? '' : timestampDate(run.createTime).toISOString().slice(0, 19),
    shortDuration(run.activeSeconds),
  ];
}

/** `plumb run pause|resume|cancel` */
export async function steerRun(
  verb: 'pause' | 'resume' | 'cancel',
  id: string,
  options: RunOptions & { readonly budgets?: string },
): Promise<number> {
  const budgets =
    options.budgets === undefined
      ? undefined
      : (await readRunSpecFile(resolve(options.budgets))).spec.budgets;
  if (options.budgets !== undefined && budgets === undefined) {
    throw invalidArgument('--budgets', `${options.budgets} has no budgets; name a run spec that has some`);
  }
  let run: Run | undefined;
  const exitCode = await ask(options, 'run', async ({ loop, signal }) => {
    const idempotencyKey = `${verb}.${id}.${process.pid}.${Date.now()}`;
    if (verb === 'resume') run = await resumeRun(loop, id, signal, budgets);
    else if (verb === 'pause') {
      run = (await persistently(() => loop.pauseRun({ id, idempotencyKey }, { signal }), signal)).run;
    } else run = (await persistently(() => loop.cancelRun({ id, idempotencyKey }, { signal }), signal)).run;
  });
  if (run === undefined) return exitCode;
  const seen = run;
  print(options, jsonOf(seen), () => `${seen.id} is ${RunState[seen.state].toLowerCase()}.`);
  return exitCode;
}

/** `plumb run report` */
export async function reportRun(
  id: string,
  options: RunOptions & { readonly output?: string },
): Promise<number> {
  const work = async ({ loop, artifactFolder, signal }: LoopConnection): Promise<void> => {
    const run = await runOf(loop, id, signal);
    const { report } = await persistently(() => loop.getReport({ runId: id }, { signal }), signal);
    if (report === undefined) throw internal(new Error(`run ${id} has no report`));
    if (options.output !== undefined) {
      if (artifactFolder === undefined) {
        throw failedPrecondition(
          'the page shows clips, and the artifact store of that address is out of reach; set PLUMB_ARTIFACTS to it, or leave --output out',
        );
      }
      const page = await collectReport(
        { run, report, samples: await allSamples(loop, id, signal) },
        { artifactFolder, command: commandOn(run, 'report', options), createdAt: new Date() },
      );
      await writeWhole(resolve(options.output), buildReport(page));
    }
    print(options, { run: jsonOf(run), report: toJson(ReportSchema, create(ReportSchema, report)) }, () =>
      [reportText(run, report), judgingText(report)].join(''),
    );
  };
  return await ask(options, 'run', work, reported);
}

function judgingText({ judging }: Report): string {
  if (judging === undefined || judging.calls === 0n) return '';
  return `\n\nJudging\n${spendTable(judging)}`;
}

/** `plumb run manifest` */
export async function writeManifest(
  id: string,
  options: RunOptions & { readonly output: string },
): Promise<number> {
  const output = resolve(options.output);
  return await ask(options, 'run', async ({ loop, artifactFolder, signal }) => {
    const { bytes, sha256 } = await readRunManifest(await runOf(loop, id, signal), artifactFolder);
    await writeWhole(output, bytes);
    print(options, { manifest: output, sha256 }, () => output);
  });
}

/** `plumb run diff` */
export async function diffRuns(a: string, b: string, options: RunOptions): Promise<number> {
  let differences: readonly string[] = [];
  const exitCode = await ask(options, 'run', async ({ loop, artifactFolder, signal }) => {
    const read = async (name: string): Promise<RunManifest> =>
      (
        await readRunManifest(
          /^run-[0-9a-f]{16}$/.test(name) ? await runOf(loop, name, signal) : name,
          artifactFolder,
        )
      ).manifest;
    differences = await differencesOf(await read(a), await read(b), artifactFolder);
  });
  if (exitCode !== 0) return exitCode;
  print(options, { differences }, () =>
    differences.length === 0 ? 'Nothing differs.' : differences.join('\n'),
  );
  return differences.length === 0 ? exitCode : differsExitCode;
}

/** `plumb run override` */
export async function overrideGate(
  id: string,
  options: RunOptions & {
    readonly promote?: true;
    readonly refuse?: true;
    readonly iteration?: number;
    readonly reason: string;
    readonly person: string;
  },
): Promise<number> {
  if (options.promote === options.refuse) {
    throw invalidArgument('--promote', 'say either --promote or --refuse');
  }
  const promote = options.promote === true;
  const { iteration = 0, reason, person } = options;
  const idempotencyKey = `override.${id}.${process.pid}.${Date.now()}`;
  return await ask(options, 'run', async ({ loop, signal }) => {
    const request = { runId: id, iteration, promote, reason, person, idempotencyKey };
    const { promoted } = await persistently(() => loop.overrideDecision(request, { signal }), signal);
    const version = promoted?.version ?? '';
    print(options, { promoted: version }, () => `${version} is promoted now.`);
  });
}
