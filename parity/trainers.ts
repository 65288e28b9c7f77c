import { readFile } from 'node:fs/promises';
import { join } from 'node:path';
import {
  decodeModel,
  exampleSource,
  openTraining,
  parseAdapterSettings,
  parseOptimisationSettings,
} from '@plumb/diffusion';
import { decodeClip } from '@plumb/media';
import {
  dataSetManifestSchema,
  freezeTrainingSet,
  parseObjectiveSettings,
  trainingSetHash,
} from '@plumb/objective';
import type { LabelledSample, TrainingSet } from '@plumb/objective';
import type { Engine } from '@plumb/tensor-graph/engine';
import type { CaseFiles, TrainerCase } from './case-files.ts';
import { compare, float32, type Comparison } from './comparison.ts';
import { TRAINER_LIMIT } from './relative-error.ts';

/** Clips that the anchor distance is measured on, as the trainer service does. */
const probeClips = 8;

/** Folder of the files that the jobs read: `model.safetensors`, `data-set.json`, and clips by hash. */
export function trainerInputs(files: CaseFiles): string {
  return join(files.folder, 'trainers');
}

/** The data set's samples with what a reward said of them. */
async function readSamples(files: CaseFiles, reward: string) {
  const text = await readFile(join(trainerInputs(files), 'data-set.json'), 'utf8');
  const { samples } = dataSetManifestSchema.parse(JSON.parse(text));
  const labelled = samples.map(({ sampleId, promptId, category, scores }): LabelledSample => {
    const outcome = scores[reward];
    if (outcome === undefined) throw new TypeError(`sample ${sampleId} has no score of ${reward}`);
    const origin = { sampleId, promptId, category };
    return 'value' in outcome ? { ...origin, reward: outcome.value } : { ...origin, error: outcome.error };
  });
  return { samples, labelled };
}

/** The training set that the data step makes of a case. */
async function trainingSetOf(files: CaseFiles, one: TrainerCase): Promise<TrainingSet> {
  const { labelled } = await readSamples(files, one.reward);
  const seed = Number(BigInt.asUintN(53, BigInt(one.seed)));
  return freezeTrainingSet(labelled, parseObjectiveSettings(one.job.objective), seed);
}

/** Trains a job of trainers/torch on the engine, and compares every step. */
export async function measureTrainer(
  engine: Engine,
  files: CaseFiles,
  one: TrainerCase,
): Promise<Comparison[]> {
  const inputs = trainerInputs(files);
  const model = decodeModel(await readFile(join(inputs, 'model.safetensors')), one.name);
  const set = await trainingSetOf(files, one);
  if (one.trainingSetHash !== null && trainingSetHash(set) !== one.trainingSetHash) {
    throw new TypeError(`the data step makes another training set of ${one.name} than trainers/torch`);
  }
  const { samples } = await readSamples(files, one.reward);
  const clips = new Map(
    await Promise.all(
      samples.map(async ({ sampleId, video }) => {
        const { frameCount: frames, height, width, fps, sha256 } = video;
        const bytes = await readFile(join(inputs, 'artifacts', 'sha256', sha256.slice(0, 2), sha256));
        return [sampleId, await decodeClip(bytes, { frames, height, width, fps })] as const;
      }),
    ),
  );
  const optimisation = parseOptimisationSettings(one.job.optimisation);
  const source = exampleSource({
    config: model.config,
    set,
    clips,
    captions: new Map(samples.map(({ promptId, prompt }) => [promptId, prompt])),
    batchSize: optimisation.batchSize,
    seed: set.seed,
  });
  const { anchorEverySteps } = one.job;
  const training = await openTraining(engine, {
    model,
    objective: set.settings,
    optimisation,
    seed: one.seed,
    ...(one.job.adapters === undefined ? {} : { adapters: parseAdapterSettings(one.job.adapters) }),
    ...(anchorEverySteps === undefined ? {} : { anchorProbe: source.probe(probeClips) }),
  });
  const found = new Map<string, number[]>(one.metrics.map((name) => [name, []]));
  while (training.step < optimisation.steps) {
    const metrics = await training.advance(source.batch(training.step).examples);
    for (const [name, values] of found) {
      const value = metrics[name];
      if (value !== undefined) values.push(value);
    }
    if (anchorEverySteps !== undefined && training.step % anchorEverySteps === 0) {
      found.get('anchorDistance')?.push(await training.anchorDistance());
    }
  }
  await training.close();
  return Array.from(found, ([name, values]) => {
    const group = name === 'loss' ? 'jobs, losses' : 'jobs, gradient norms and metrics';
    const measured = float32([values.length], Float32Array.from(values));
    return compare(group, name, measured, files.tensor('trainers', one.name, name), TRAINER_LIMIT);
  });
}
