/**
 * How much of finetuning's gain is due to feedback: every algorithm and the unfiltered control (`sft`) on the same
 * samples and the same held-out seeds, over several training seeds. Runs without services, on the packages alone.
 */
import { readFile } from 'node:fs/promises';
import { parseArgs } from 'node:util';
import {
  clipSize,
  clipToModel,
  decodeModel,
  openSampler,
  openTraining,
  parseOptimisationSettings,
  randomGenerator,
  tokenise,
  trainedModel,
  type OptimisationSettings,
  type SamplerSettings,
  type TrainingExample,
  type VideoModel,
} from '@plumb/diffusion';
import { pairedDifference, type PairedOutcome } from '@plumb/evaluation';
import type { Clip } from '@plumb/media';
import {
  freezeTrainingSet,
  mismatchPrompts,
  parseObjectiveSettings,
  planBatches,
  type LabelledSample,
} from '@plumb/objective';
import { openEngine, type Engine } from '@plumb/tensor-graph/engine';
import { referee, toyboxPrompts, type ToyboxPrompt } from '@plumb/toybox';
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
    /** These three replace the recipe's value for every algorithm but `sft`, whose loss takes no settings. */
    'learning-rate': { type: 'string' },
    settings: { type: 'string' },
    timesteps: { type: 'string' },
    ema: { type: 'string', default: '0.99' },
  },
});

/** How one algorithm is trained on the toybox. The forward projections share a recipe, and so do the margins. */
interface Recipe {
  readonly learningRate: number;
  readonly timesteps: object;
  readonly settings: object;
}
const forward: Recipe = {
  learningRate: 4e-4,
  timesteps: { kind: 'logit-normal', mean: 1.3, std: 1.3 },
  settings: {},
};
/** Motion is decided in the noisy times; the SFT anchor keeps the pictures (docs/training.md). */
const margins = { learningRate: 1e-4, timesteps: { kind: 'window', low: 0.6, high: 1 } };
const recipes: Readonly<Record<string, Recipe>> = {
  sft: forward,
  'filtered-sft': forward,
  rwr: forward,
  dpo: { ...margins, settings: { beta: 500, sftAnchor: 3 } },
  // kto's anchor counts rejected clips as 0: with balanced classes 6 is as strong as dpo's 3.
  kto: { ...margins, settings: { beta: 500, sftAnchor: 6 } },
};
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
  const items = prompts.flatMap((prompt) =>
    Array.from({ length: perPrompt }, (_, index) => ({ prompt, index })),
  );
  const clips = await openSampler(engine, model, 8).sample(
    items.map(({ prompt, index }) => {
      const random = randomGenerator(seed, prompt.id, index);
      return {
        caption: prompt.text,
        seed: (BigInt(random.next() >>> 0) << 32n) | BigInt(random.next() >>> 0),
      };
    }),
    settings,
  );
  return clips.map((clip, position) => {
    const item = items[position];
    if (item === undefined) throw new TypeError('the sampler gave more clips than were asked for');
    const verdict = referee(clip, item.prompt.text);
    return {
      id: `${item.prompt.id}#${item.index}`,
      prompt: item.prompt,
      clip,
      accept: verdict.accept,
      picture: Object.values(verdict.checks.picture).every(({ pass }) => pass),
    };
  });
}

async function finetune(
  engine: Engine,
  base: VideoModel,
  samples: readonly Judged[],
  algorithm: string,
  seed: number,
): Promise<VideoModel> {
  const recipe = recipes[algorithm] ?? forward;
  const own = algorithm !== 'sft';
  const objective = parseObjectiveSettings({
    algorithm,
    ...(own && options.settings !== undefined ? (JSON.parse(options.settings) as object) : recipe.settings),
  });
  const optimisation: OptimisationSettings = parseOptimisationSettings({
    steps: Number(options.steps),
    batchSize: 32,
    learningRate: own ? Number(options['learning-rate'] ?? recipe.learningRate) : recipe.learningRate,
    emaDecay: Number(options.ema),
    warmupSteps: 10,
    timesteps: own && options.timesteps !== undefined ? JSON.parse(options.timesteps) : recipe.timesteps,
  });
  const byId = new Map(
    samples.map((sample) => {
      const clip = new Float32Array(clipSize(base.config));
      clipToModel(base.config, sample.clip, clip);
      return [sample.id, { clip, tokens: tokenise(base.config, sample.prompt.text) }] as const;
    }),
  );
  const labelled: LabelledSample[] = samples.map((sample) => ({
    sampleId: sample.id,
    promptId: sample.prompt.id,
    category: sample.prompt.category,
    reward: sample.accept ? 1 : 0,
  }));
  const set = freezeTrainingSet(labelled, objective, seed);
  const plan = planBatches(set.items, {
    seed,
    batchSize: optimisation.batchSize,
    balance: objective.balance,
    weighting: 'weighting' in objective ? objective.weighting : 'resample',
  });
  const find = (id: string) => {
    const found = byId.get(id);
    if (found === undefined) throw new TypeError(`no sample ${id}`);
    return found;
  };
  const training = await openTraining(engine, {
    model: base,
    objective,
    optimisation,
    seed: `bench ${seed}`,
  });
  const losses: number[] = [];
  for (let step = 0; step < optimisation.steps; step++) {
    const { indices, lossWeights } = plan.batch(step);
    const items = [...indices].map((index) => {
      const item = set.items[index];
      if (item === undefined) throw new TypeError(`no item ${index}`);
      return item;
    });
    const mismatch = algorithm === 'kto' ? mismatchPrompts(items.map((item) => item.promptId)) : undefined;
    const idOf = (item: (typeof items)[number]): string =>
      item.kind === 'pair' ? item.chosenId : item.sampleId;
    const examples = items.map((item, row): TrainingExample => {
      const other = mismatch === undefined ? undefined : items[mismatch[row] ?? row];
      return {
        ...find(idOf(item)),
        weight: lossWeights[row] ?? 1,
        ...(item.kind === 'pair' ? { rejected: find(item.rejectedId).clip } : {}),
        ...(item.kind === 'labelled-sample' ? { accepted: item.accepted } : {}),
        ...(other === undefined ? {} : { mismatchedTokens: find(idOf(other)).tokens }),
      };
    });
    const metrics = await training.advance(examples);
    losses.push(metrics.loss);
    if ((step + 1) % 50 === 0) {
      say(
        `    step ${step + 1}: ${Object.entries(metrics)
          .map(([name, value]) => `${name} ${value.toFixed(4)}`)
          .join(', ')}`,
      );
    }
  }
  const model = trainedModel(base, optimisation, await training.state());
  await training.close();
  return model;
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
    for (const algorithm of options.algorithms.split(',')) {
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
