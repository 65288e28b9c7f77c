import { resolve } from 'node:path';
import { controlSpec, demoSpec } from '../demo-spec.ts';
import type { DemoSize } from '../demo-spec.ts';
import { openLoop } from '../runs/loop-client.ts';
import { completeSpec, prepareRun } from '../runs/make-run.ts';
import { openProgressDisplay } from '../progress/progress-display.ts';
import { buildReport } from '../report/build-report.ts';
import { requireWritableFile, writeWhole } from '../state/state-folder.ts';
import type { PortName } from '../supervisor/port-names.ts';
import { withSystem } from '../with-system.ts';
import { runSpend } from '../judging/run-spend.ts';
import { collectReport } from './collect-report.ts';
import { acceptanceOf, countsOf } from './demo-result.ts';
import type { DemoResult } from './demo-result.ts';
import { resultTable } from './result-table.ts';
import { runDemo } from './run-demo.ts';

/** Options of `plumb demo`, as commander gives them. */
export interface DemoOptions extends Omit<DemoSize, 'weights' | 'prompts'> {
  readonly json?: true;
  readonly fresh?: true;
  readonly control?: true;
  readonly state: string;
  readonly report: string;
  readonly weights?: string;
  readonly prompts?: string;
  readonly port: Readonly<Partial<Record<PortName, number>>>;
}

/**
 * Runs the demo to its end, or until it is interrupted.
 * @returns the exit code
 */
export async function demo(options: DemoOptions, repeat: string): Promise<number> {
  const startedAt = performance.now();
  const reportPath = resolve(options.report);
  await requireWritableFile(reportPath, '--report');
  const { weights, prompts, ...size } = options;
  const file = await demoSpec({
    ...size,
    ...(weights === undefined ? {} : { weights: resolve(weights) }),
    ...(prompts === undefined ? {} : { prompts: resolve(prompts) }),
  });
  const prepared = await prepareRun(file);

  const display = openProgressDisplay(process.stderr);
  // With --json, standard output carries the one object and nothing else.
  const output = options.json === true ? process.stderr : process.stdout;
  let result: DemoResult | undefined;
  const exitCode = await withSystem(
    {
      state: options.state,
      fresh: options.fresh === true,
      ports: options.port,
      command: 'demo',
      notice: display.notice,
      stopNotice: 'Stopping in order; Ctrl-C again ends at once.',
    },
    async () => {},
    async (system, _prepared, signal) => {
      display.notice(`Ready after ${((performance.now() - startedAt) / 1000).toFixed(0)} s.`);
      display.notice(`Watch it: ${await system.dashboard()}`);
      const clients = await openLoop({ address: system.addresses.loop });
      const spec = await completeSpec(prepared, system.artifactFolder, clients.registry, signal).finally(
        () => {
          clients.close();
        },
      );
      const specs = options.control === true ? [spec, controlSpec(spec)] : [spec];
      const [main, control] = await runDemo(
        { loopAddress: system.addresses.loop, display, signal },
        spec.base,
        specs,
      );
      display.close();
      if (main === undefined) return;
      const data = await collectReport(main, {
        artifactFolder: system.artifactFolder,
        command: repeat,
        createdAt: new Date(),
        judging: await runSpend(system.addresses.judge, main.run.id),
        ...(control === undefined ? {} : { control }),
      });
      await writeWhole(reportPath, buildReport(data));
      output.write(
        `\n${resultTable(data.acceptance, data.decision, data.control?.acceptance, { stream: output })}\n\n`,
      );
      output.write(` Report: ${reportPath}\n`);
      result = {
        acceptance: data.acceptance,
        ...data.counts,
        promoted: data.decision.promoted,
        report: reportPath,
        seconds: Math.round(data.seconds * 10) / 10,
        ...(control === undefined
          ? {}
          : { control: { acceptance: acceptanceOf(control.report), ...countsOf(control.run) } }),
      };
    },
  ).finally(() => {
    display.close();
  });
  if (exitCode !== 0) display.notice('Stopped. The same command without --fresh goes on from here.');
  // Last, so that whoever reads the last line of standard output finds everything stopped and written.
  if (options.json === true && result !== undefined) process.stdout.write(`${JSON.stringify(result)}\n`);
  return exitCode;
}
