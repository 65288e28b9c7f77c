/**
 * How much of finetuning's gain is due to feedback: every algorithm and the unfiltered control (`sft`) on the same
 * samples and the same held-out seeds, over several seeds; with `--iterations`, each iteration samples from the model of the
 * one before. Runs without services, on the packages alone. It may be stopped: with `--state` it goes on where it was.
 */
import { readFile, writeFile } from 'node:fs/promises';
import { fileURLToPath } from 'node:url';
import { parseArgs } from 'node:util';
import {
  decodeModel,
  encodeModel,
  parseOptimisationSettings,
  type SamplerSettings,
  type VideoModel,
} from '@plumb/diffusion';
import type { Clip } from '@plumb/media';
import { freezeTrainingSet, type AlgorithmName, type LabelledSample } from '@plumb/objective';
import { drawClips, finetune as train, recipeFor } from '@plumb/study';
import { openEngine, type Engine } from '@plumb/tensor-graph/engine';
import { picturePasses, referee, toyboxPrompts, type ToyboxPrompt } from '@plumb/toybox';
import { openCheckpoints, type Evaluation, type HeldOutOutcome } from '../feedback/checkpoints.ts';
import { controlOf, gainFigures, gainLine, gainTable, type Gain } from '../feedback/gain-table.ts';
import { printBench } from '../print-bench.ts';

const { values: options } = parseArgs({
  options: {
    json: { type: 'boolean', default: false },
    model: { type: 'string', default: 'models/toybox/model.safetensors' },
    seeds: { type: 'string', default: '3' },
    iterations: { type: 'string', default: '1' },
    algorithms: { type: 'string', default: 'sft,filtered-sft,rwr,dpo,kto' },
    'samples-per-prompt': { type: 'string', default: '10' },
    'held-out-samples': { type: 'string', default: '8' },
    guidance: { type: 'string', default: '1.5' },
    steps: { type: 'string', default: '250' },
    /** A folder that keeps what is done; the same settings go on there, others are refused. */
    state: { type: 'string' },
    /** Puts the table into docs/training.md, or into docs/runs.md for several iterations. */
    write: { type: 'boolean', default: false },
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

const engine = await openEngine({ form: 'process' });
try {
  const bytes = await readFile(options.model);
  const base = decodeModel(bytes, options.model);
  const split = (wanted: string): ToyboxPrompt[] => toyboxPrompts.filter((prompt) => prompt.split === wanted);
  const [trainPrompts, heldOut] = [split('train'), split('heldout')];
  const guidances = options.guidance.split(',').map(Number);
  const algorithms = options.algorithms.split(',') as AlgorithmName[];
  const { json, write, state, seeds, iterations, algorithms: _, ...settings } = options;
  const checkpoints = await openCheckpoints(state, settings, bytes);
  const gains = new Map<string, Gain>();

  const evaluate = async (model: VideoModel, seed: number): Promise<Evaluation> => {
    const outcomes: Record<string, HeldOutOutcome[]> = {};
    for (const guidance of guidances) {
      const judged = await sampleAndJudge(
        engine,
        model,
        heldOut,
        Number(options['held-out-samples']),
        { ...sampler, guidance },
        `held-out ${seed}`,
      );
      outcomes[guidance] = judged.map(({ prompt, accept, picture }) => ({
        promptId: prompt.id,
        category: prompt.category,
        accept,
        picture,
      }));
    }
    return outcomes;
  };

  for (let seed = 1; seed <= Number(seeds); seed++) {
    const before = await checkpoints.evaluated(`seed-${seed}-before`, () => evaluate(base, seed));
    /** Samples of the base, which the first iteration of every algorithm shares. */
    let shared: Judged[] | undefined;
    for (const algorithm of algorithms) {
      /** The model that the next iteration begins with; read only if there is one to be made. */
      let latest = (): Promise<VideoModel> => Promise.resolve(base);
      for (let iteration = 1; iteration <= Number(iterations); iteration++) {
        const key = `seed-${seed}-${algorithm}-${iteration}`;
        const draw = (model: VideoModel): Promise<Judged[]> =>
          sampleAndJudge(
            engine,
            model,
            trainPrompts,
            Number(options['samples-per-prompt']),
            sampler,
            iteration === 1 ? `train ${seed}` : `train ${seed} ${iteration}`,
          );
        let after = await checkpoints.evaluation(key);
        if (after === undefined) {
          const from = await latest();
          const samples = iteration === 1 ? (shared ??= await draw(from)) : await draw(from);
          const accepted = samples.filter(({ accept }) => accept).length / samples.length;
          say(`${key}: ${samples.length} samples, ${(100 * accepted).toFixed(1)}% accepted`);
          const model = await finetune(engine, from, samples, algorithm, seed);
          after = await evaluate(model, seed);
          await checkpoints.keepModel(key, encodeModel(model), after);
          latest = () => Promise.resolve(model);
        } else {
          latest = async () => decodeModel(await checkpoints.model(key), key);
        }
        for (const guidance of guidances) {
          const one: Gain = {
            algorithm,
            iteration,
            guidance,
            before: before[guidance] ?? [],
            after: after[guidance] ?? [],
          };
          say(`  ${key}, guidance ${guidance}: ${gainLine(one)}`);
          const group = `${algorithm} ${iteration} ${guidance}`;
          const sum = gains.get(group);
          gains.set(
            group,
            sum === undefined
              ? one
              : { ...one, before: [...sum.before, ...one.before], after: [...sum.after, ...one.after] },
          );
        }
      }
    }
  }

  const all = [...gains.values()];
  const table = gainTable(all);
  say(`\n${table}`);
  if (write) {
    const clips = Number(seeds) * heldOut.length * Number(options['held-out-samples']);
    const size =
      `${seeds} ${seeds === '1' ? 'seed' : 'seeds'} of sampling, training and evaluation, ` +
      `${trainPrompts.length * Number(options['samples-per-prompt'])} training clips an iteration, ${clips} held-out clips from each model.`;
    const page = iterations === '1' ? 'docs/training.md' : 'docs/runs.md';
    await replaceTable(page, `${size}\n\n${table}`);
  }
  const figures: Record<string, number> = {};
  for (const gain of all) {
    const name = [
      gain.algorithm,
      ...(iterations === '1' ? [] : [`iteration_${gain.iteration}`]),
      `guidance_${gain.guidance}`,
    ].join('_');
    for (const [figure, value] of Object.entries(gainFigures(gain, controlOf(gain, all))))
      figures[`${name}_${figure}`] = value;
  }
  printBench({ bench: 'feedback', ratios: {}, figures }, json);
} finally {
  await engine.close();
}

/** Puts a table between the two comments of a page that mark its place. */
async function replaceTable(page: string, table: string): Promise<void> {
  const [start, end] = ['<!-- npm run bench -- feedback --write -->\n', '<!-- end -->'];
  const path = fileURLToPath(new URL(`../../${page}`, import.meta.url));
  const text = await readFile(path, 'utf8');
  const from = text.indexOf(start);
  const to = text.indexOf(end, from);
  if (from < 0 || to < 0) throw new Error(`${page} has no lines ${start.trim()} and ${end}; put them back`);
  await writeFile(path, `${text.slice(0, from)}${start}\n${table}\n\n${text.slice(to)}`);
}
