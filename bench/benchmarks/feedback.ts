/**
 * How much of finetuning's gain is due to feedback: every algorithm and the unfiltered control (`sft`) on the same
 * samples and the same held-out seeds, over several training seeds. Runs without services, on the packages alone.
 */
import { readFile } from 'node:fs/promises';
import { parseArgs } from 'node:util';
import {
  decodeModel,
  parseOptimisationSettings,
  type SamplerSettings,
  type VideoModel,
} from '@plumb/diffusion';
import { pairedDifference, type PairedOutcome } from '@plumb/evaluation';
import type { Clip } from '@plumb/media';
import { freezeTrainingSet, type AlgorithmName, type LabelledSample } from '@plumb/objective';
import { drawClips, finetune as train, recipeFor } from '@plumb/study';
import { openEngine, type Engine } from '@plumb/tensor-graph/engine';
import { picturePasses, referee, toyboxPrompts, type ToyboxPrompt } from '@plumb/toybox';
import { printBench } from '../print-bench.ts';

const { values: options } = parseArgs({
  options: {
    json: { type: 'boolean', default: false },
    model: { type: 'string', default: 'models/toybox/model.safetensors' },
    seeds: { type: 'string', default: '3' },
    algorithms: { type: 'string', default: 'sft,filtered-sft,rwr,dpo,kto' },
    'samples-per-prompt': { type: 'string', default: '10' },
    'held-out-samples': { type: 'string', default: '8' },
    guidance: { type: 'string', default: '1.5' },
    steps: { type: 'string', default: '250' },
    /** These three replace the recipe's values for every algorithm but `sft`, whose loss takes no settings. */
    'learning-rate': { type: 'string' },
    settings: { type: 'string' },
    timesteps: { type: 'string' },
    ema: { type: 'string', default: '0.99' },
  },
});

const sampler: SamplerSettings = { steps: 20, guidance: 1.5, shift: 3.5 };

interface Judged {
  readonly id: string;
  readonly prompt: ToyboxPrompt;
  readonly clip: Clip;
  readonly accept: boolean;
  readonly picture: boolean;
}

async function sampleAndJudge(
  engine: Engine,
  model: VideoModel,
  prompts: readonly ToyboxPrompt[],
  perPrompt: number,
  settings: SamplerSettings,
  seed: string,
): Promise<Judged[]> {
  const drawn = await drawClips(engine, model, {
    prompts,
    samplesPerPrompt: perPrompt,
    sampler: settings,
    seed,
  });
  return drawn.map(({ prompt, index, clip }) => {
    const verdict = referee(clip, prompt.text);
    return {
      id: `${prompt.id}#${index}`,
      prompt,
      clip,
      accept: verdict.accept,
      picture: picturePasses(verdict),
    };
  });
}

async function finetune(
  engine: Engine,
  base: VideoModel,
  samples: readonly Judged[],
  algorithm: AlgorithmName,
  seed: number,
): Promise<VideoModel> {
  const own = algorithm !== 'sft';
  const settings = own ? (JSON.parse(options.settings ?? '{}') as object) : {};
  const recipe = recipeFor(algorithm, 'binary', { settings });
  const optimisation = parseOptimisationSettings({
    steps: Number(options.steps),
    batchSize: 32,
    learningRate: own
      ? Number(options['learning-rate'] ?? recipe.optimisation.learningRate)
      : recipe.optimisation.learningRate,
    emaDecay: Number(options.ema),
    warmupSteps: 10,
    timesteps:
      own && options.timesteps !== undefined ? JSON.parse(options.timesteps) : recipe.optimisation.timesteps,
  });
  const labelled: LabelledSample[] = samples.map((sample) => ({
    sampleId: sample.id,
    promptId: sample.prompt.id,
    category: sample.prompt.category,
    reward: sample.accept ? 1 : 0,
  }));
  const trained = await train(engine, {
    model: base,
    set: freezeTrainingSet(labelled, recipe.objective, seed),
    clips: new Map(samples.map(({ id, clip }) => [id, clip])),
    captions: new Map(samples.map(({ prompt }) => [prompt.id, prompt.text])),
    objective: recipe.objective,
    optimisation,
    seed,
    noiseSeed: `bench ${seed}`,
    onStep({ step, metrics }) {
      if (step % 50 !== 0) return;
      const values = Object.entries(metrics).map(([name, value]) => `${name} ${value.toFixed(4)}`);
      say(`    step ${step}: ${values.join(', ')}`);
    },
  });
  return trained.model;
}

function say(line: string): void {
  process.stderr.write(`${line}\n`);
}

const percent = (value: number): string => (100 * value).toFixed(1);

const engine = await openEngine({ form: 'process' });
try {
  const base = decodeModel(await readFile(options.model), options.model);
  const train = toyboxPrompts.filter(({ split }) => split === 'train');
  const heldOut = toyboxPrompts.filter(({ split }) => split === 'heldout');
  const guidances = options.guidance.split(',').map(Number);
  const figures: Record<string, number> = {};
  const collected = new Map<string, PairedOutcome[]>();
  const pictures = new Map<string, { before: number[]; after: number[] }>();
  for (let seed = 1; seed <= Number(options.seeds); seed++) {
    const started = performance.now();
    const samples = await sampleAndJudge(
      engine,
      base,
      train,
      Number(options['samples-per-prompt']),
      sampler,
      `train ${seed}`,
    );
    say(
      `seed ${seed}: ${samples.length} training samples, ${percent(samples.filter(({ accept }) => accept).length / samples.length)}% accepted, ` +
        `${((performance.now() - started) / 1000).toFixed(0)} s`,
    );
    const before = new Map<number, Judged[]>();
    for (const guidance of guidances) {
      before.set(
        guidance,
        await sampleAndJudge(
          engine,
          base,
          heldOut,
          Number(options['held-out-samples']),
          { ...sampler, guidance },
          `held-out ${seed}`,
        ),
      );
    }
    for (const algorithm of options.algorithms.split(',') as AlgorithmName[]) {
      const model = await finetune(engine, base, samples, algorithm, seed);
      for (const guidance of guidances) {
        const after = await sampleAndJudge(
          engine,
          model,
          heldOut,
          Number(options['held-out-samples']),
          { ...sampler, guidance },
          `held-out ${seed}`,
        );
        const reference = before.get(guidance) ?? [];
        const pairs = after.map((sample, index): PairedOutcome => ({
          promptId: sample.prompt.id,
          category: sample.prompt.category,
          before: reference[index]?.accept === true ? 1 : 0,
          after: sample.accept ? 1 : 0,
        }));
        const key = `${algorithm} guidance ${guidance}`;
        collected.set(key, [...(collected.get(key) ?? []), ...pairs]);
        report(`  seed ${seed}, ${key}`, pairs);
        const share = (list: readonly Judged[]): number =>
          list.filter(({ picture }) => picture).length / list.length;
        say(`      picture checks pass: ${percent(share(reference))} -> ${percent(share(after))}`);
        const passed = pictures.get(key) ?? { before: [], after: [] };
        passed.before.push(share(reference));
        passed.after.push(share(after));
        pictures.set(key, passed);
      }
    }
  }
  say(
    '\n| algorithm | before | after | gain | against `sft` | picture checks | OR | MO | DO | DM | FD |\n' +
      `|${'---|'.repeat(11)}`,
  );
  for (const [key, pairs] of collected) {
    const { before, after, difference, perCategory } = pairedDifference(pairs, { seed: 1 });
    const name = key.replaceAll(' ', '_');
    figures[`${name}_before`] = before.value;
    figures[`${name}_after`] = after.value;
    figures[`${name}_gain`] = difference.value;
    figures[`${name}_gain_low`] = difference.lower;
    figures[`${name}_gain_high`] = difference.upper;
    const control = collected.get(key.replace(/^\S+/, 'sft'));
    const overControl = control === undefined || control === pairs ? undefined : against(pairs, control);
    if (overControl !== undefined) {
      figures[`${name}_over_sft`] = overControl.value;
      figures[`${name}_over_sft_low`] = overControl.lower;
      figures[`${name}_over_sft_high`] = overControl.upper;
    }
    const passed = pictures.get(key) ?? { before: [], after: [] };
    figures[`${name}_picture_checks_before`] = mean(passed.before);
    figures[`${name}_picture_checks_after`] = mean(passed.after);
    say(
      `| ${[
        guidances.length === 1 ? `\`${key.split(' ')[0] ?? key}\`` : key,
        percent(before.value),
        percent(after.value),
        interval(difference),
        overControl === undefined ? '' : interval(overControl),
        `${percent(mean(passed.before))} -> ${percent(mean(passed.after))}`,
        ...['OR', 'MO', 'DO', 'DM', 'FD'].map((category) => {
          const result = perCategory[category];
          return result === undefined ? '' : signed(result.difference.value);
        }),
      ].join(' | ')} |`,
    );
  }
  printBench({ bench: 'feedback', ratios: {}, figures }, options.json);
} finally {
  await engine.close();
}

/** The outcomes after one training against those after another, clip by clip on the same seeds. */
function against(pairs: readonly PairedOutcome[], control: readonly PairedOutcome[]) {
  return pairedDifference(
    pairs.map((pair, index) => {
      const other = control[index];
      if (other?.promptId !== pair.promptId) throw new TypeError('the two lists are not of the same clips');
      return { ...pair, before: other.after };
    }),
    { seed: 1 },
  ).difference;
}

function mean(values: readonly number[]): number {
  return values.reduce((sum, value) => sum + value, 0) / values.length;
}

function signed(share: number): string {
  return `${share < 0 ? '' : '+'}${percent(share)}`;
}

function interval({ value, lower, upper }: { value: number; lower: number; upper: number }): string {
  return `${signed(value)} [${percent(lower)}, ${percent(upper)}]`;
}

function report(label: string, pairs: readonly PairedOutcome[]): void {
  const { before, after, difference, perCategory } = pairedDifference(pairs, { seed: 1 });
  say(
    `${label}: ${percent(before.value)} -> ${percent(after.value)}, gain ${percent(difference.value)} [${percent(difference.lower)}, ${percent(difference.upper)}]`,
  );
  say(
    `      ${Object.entries(perCategory)
      .map(
        ([category, result]) =>
          `${category} ${percent(result.before.value)} -> ${percent(result.after.value)}`,
      )
      .join('  ')}`,
  );
}
