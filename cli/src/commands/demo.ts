import { join, resolve } from 'node:path';
import { fileURLToPath } from 'node:url';
import { Command, Option } from 'commander';
import { controlSpec, demoDefaults, demoSpec } from '../demo-spec.ts';
import type { DemoSize } from '../demo-spec.ts';
import { collectReport } from '../demo/collect-report.ts';
import { acceptanceOf, countsOf } from '../demo/demo-result.ts';
import type { DemoResult } from '../demo/demo-result.ts';
import { readPrompts } from '../demo/demo-prompts.ts';
import { resultTable } from '../demo/result-table.ts';
import { runDemo } from '../demo/run-demo.ts';
import { readModel, requireKnownWords, storeModel } from '../demo/shipped-model.ts';
import { openProgressDisplay } from '../progress/progress-display.ts';
import { buildReport } from '../report/build-report.ts';
import { requireWritableFile, writeWhole } from '../state/state-folder.ts';
import type { PortName } from '../supervisor/embedded-system.ts';
import { withSystem } from '../with-system.ts';
import { countOption, numberOption, portOption, seedOption, stateOption } from './options.ts';

interface DemoOptions {
  readonly json?: true;
  readonly fresh?: true;
  readonly control?: true;
  readonly state: string;
  readonly report: string;
  readonly weights: string;
  readonly prompts: string;
  readonly port: Readonly<Partial<Record<PortName, number>>>;
  readonly seed: bigint;
  readonly algorithm: string;
  readonly samplesPerPrompt: number;
  readonly heldoutSamples: number;
  readonly promptsPerCategory?: number;
  readonly heldoutPerCategory?: number;
  readonly steps: number;
  readonly batchSize: number;
  readonly learningRate: number;
  readonly samplerSteps: number;
  readonly guidance: number;
}

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
      finish(await demo(options, repeatCommand(command)));
    });
}

async function demo(options: DemoOptions, repeat: string): Promise<number> {
  const startedAt = performance.now();
  const reportPath = resolve(options.report);
  await requireWritableFile(reportPath, '--report');
  const model = await readModel(resolve(options.weights));
  const prompts = await readPrompts(resolve(options.prompts), {
    train: options.promptsPerCategory,
    heldout: options.heldoutPerCategory,
  });
  requireKnownWords(model.config, prompts.prompts, options.prompts);

  const display = openProgressDisplay(process.stderr);
  // With --json, standard output carries the one object and nothing else.
  const output = options.json === true ? process.stderr : process.stdout;
  display.notice('Starting nats-server, the referee and the five services ...');
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
    async (state) => storeModel(model, state.entry('artifacts')),
    async (system, base, signal) => {
      display.notice(`Ready after ${((performance.now() - startedAt) / 1000).toFixed(0)} s.`);
      const spec = demoSpec(sizeOf(options), {
        base,
        prompts: [...prompts.prompts],
        promptSetHash: prompts.hash,
      });
      const specs = options.control === true ? [spec, controlSpec(spec)] : [spec];
      const [main, control] = await runDemo(
        { loopAddress: system.addresses.loop, display, signal },
        base,
        specs,
      );
      display.close();
      if (main === undefined) return;
      const data = await collectReport(main, {
        artifactFolder: system.artifactFolder,
        command: repeat,
        createdAt: new Date(),
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

function sizeOf(options: DemoOptions): DemoSize {
  return { ...options, heldoutSamplesPerPrompt: options.heldoutSamples };
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
