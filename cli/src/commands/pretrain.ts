import { createHash } from 'node:crypto';
import { mkdir, readFile, rename, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { Command, InvalidArgumentError } from 'commander';
import {
  decodeTrainingState,
  encodeModel,
  encodeTrainingState,
  parameterCount,
  type VideoModel,
} from '@plumb/diffusion';
import { contactSheet } from '@plumb/media';
import { openEngine, type Engine } from '@plumb/tensor-graph/engine';
import type { TrainingState } from '@plumb/tensor-graph';
import { heldOutAcceptance } from '../pretraining/acceptance.ts';
import { renderModelCard } from '../pretraining/model-card.ts';
import { pretrain } from '../pretraining/pretrain.ts';
import {
  pretrainingOptimisation,
  toyboxConfig,
  toyboxMixture,
  toyboxSampler,
} from '../pretraining/recipe.ts';

interface PretrainOptions {
  readonly steps: number;
  readonly seed: string;
  readonly output: string;
  readonly samplesPerPrompt: number;
}

/** `plumb pretrain`: makes the shipped weights from nothing. */
export function pretrainCommand(): Command {
  return new Command('pretrain')
    .description('make the built-in toybox model from nothing, with its manifest and model card')
    .option('--steps <n>', 'optimiser steps of 32 clips', wholeNumber, 3500)
    .option('--seed <text>', 'seed of weights, clips and noise', 'plumb')
    .option(
      '--output <folder>',
      'where model.safetensors, manifest.json and MODEL_CARD.md go',
      'models/toybox',
    )
    .option('--samples-per-prompt <n>', 'clips for each held-out prompt in the card', wholeNumber, 8)
    .action(async (options: PretrainOptions) => {
      const interrupt = new AbortController();
      process.once('SIGINT', () =>
        interrupt.abort(new Error('interrupted; the same command goes on from here')),
      );
      const engine = await openEngine({ form: 'process' });
      try {
        await run(engine, options, interrupt.signal);
      } finally {
        await engine.close();
      }
    });
}

async function run(engine: Engine, options: PretrainOptions, signal: AbortSignal): Promise<void> {
  await mkdir(options.output, { recursive: true });
  const optimisation = pretrainingOptimisation(options.steps);
  const settings = { config: toyboxConfig, optimisation, mixture: toyboxMixture, seed: options.seed };
  const settingsHash = createHash('sha256').update(JSON.stringify(settings)).digest('hex').slice(0, 12);
  const checkpointPath = join(options.output, `checkpoint-${settingsHash}.safetensors`);
  const state = await savedState(checkpointPath);
  if (state !== undefined) say(`going on from step ${state.step} (${checkpointPath})`);

  const losses: number[] = [];
  let trainingSeconds = 0;
  const model = await pretrain(engine, toyboxConfig, {
    seed: options.seed,
    optimisation,
    mixture: toyboxMixture,
    checkpointEvery: 250,
    signal,
    ...(state === undefined ? {} : { state }),
    onProgress: ({ step, loss, gradientNorm, secondsPerStep }) => {
      losses.push(loss);
      trainingSeconds += secondsPerStep;
      if (step % 50 === 0 || step === options.steps) {
        const left = ((options.steps - step) * trainingSeconds) / losses.length / 60;
        say(
          `step ${step}/${options.steps}  loss ${mean(losses.slice(-50)).toFixed(4)}  gradient norm ${gradientNorm.toFixed(3)}  ` +
            `${(trainingSeconds / losses.length).toFixed(3)} s a step  ${left.toFixed(0)} min left`,
        );
      }
    },
    checkpoint: async (saved, current) => {
      await replaceFile(checkpointPath, encodeTrainingState(saved));
      await sheet(engine, current, join(options.output, 'preview.png'), signal);
    },
  });

  const bytes = encodeModel(model);
  const sha256 = createHash('sha256').update(bytes).digest('hex');
  say('sampling the held-out prompts for the model card');
  const acceptance = [];
  for (const guidance of [toyboxSampler.guidance, 2, 1]) {
    const result = await heldOutAcceptance(engine, model, {
      sampler: { ...toyboxSampler, guidance },
      samplesPerPrompt: options.samplesPerPrompt,
      seed: 'model card',
      batch: 8,
      signal,
    });
    say(
      `guidance ${guidance}: ${(100 * result.overall.value).toFixed(1)}% accepted, ` +
        Object.entries(result.perCategory)
          .map(([category, { value }]) => `${category} ${(100 * value).toFixed(1)}%`)
          .join(', '),
    );
    acceptance.push({ guidance, result });
  }
  const manifest = {
    kind: 'plumb.pretraining',
    version: 1,
    ...settings,
    result: { sha256, bytes: bytes.length },
  };
  await replaceFile(join(options.output, 'model.safetensors'), bytes);
  await replaceFile(join(options.output, 'manifest.json'), `${JSON.stringify(manifest, null, 2)}\n`);
  await replaceFile(
    join(options.output, 'MODEL_CARD.md'),
    renderModelCard({
      version: `${toyboxConfig.name}@${sha256.slice(0, 12)}`,
      sha256,
      parameters: parameterCount(toyboxConfig),
      seed: options.seed,
      steps: options.steps,
      batchSize: optimisation.batchSize,
      mixture: toyboxMixture,
      finalLoss: mean(losses.slice(-100)),
      // Of all steps, also of those that an interrupted run took.
      trainingSeconds: (trainingSeconds / losses.length) * options.steps,
      sampler: toyboxSampler,
      acceptance,
    }),
  );
  await sheet(engine, model, join(options.output, 'preview.png'), signal);
  say(
    `wrote ${join(options.output, 'model.safetensors')} (${(bytes.length / 1e6).toFixed(1)} MB, SHA-256 ${sha256})`,
  );
}

/** One clip of every fourth held-out prompt, a row each. */
async function sheet(engine: Engine, model: VideoModel, path: string, signal: AbortSignal): Promise<void> {
  const { clips, overall } = await heldOutAcceptance(engine, model, {
    sampler: toyboxSampler,
    samplesPerPrompt: 1,
    seed: 'contact sheet',
    batch: 8,
    signal,
  });
  say(`contact sheet of ${clips.length} clips: ${(100 * overall.value).toFixed(0)}% accepted (${path})`);
  await replaceFile(
    path,
    await contactSheet(clips.filter((_, index) => index % 2 === 0).map(({ clip }) => clip)),
  );
}

async function savedState(path: string): Promise<TrainingState | undefined> {
  let bytes: Uint8Array;
  try {
    bytes = await readFile(path);
  } catch (error) {
    if (error instanceof Error && 'code' in error && error.code === 'ENOENT') return undefined;
    throw error;
  }
  return decodeTrainingState(bytes, path);
}

/** A reader sees the old file or the new one, never half of one. */
async function replaceFile(path: string, content: Uint8Array | string): Promise<void> {
  await writeFile(`${path}.part`, content);
  await rename(`${path}.part`, path);
}

function mean(values: readonly number[]): number {
  return values.reduce((sum, value) => sum + value, 0) / values.length;
}

function wholeNumber(text: string): number {
  const value = Number(text);
  if (!Number.isSafeInteger(value) || value < 1)
    throw new InvalidArgumentError('give a whole number of at least 1');
  return value;
}

function say(line: string): void {
  process.stderr.write(`${line}\n`);
}
