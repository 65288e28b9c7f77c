import { createHash } from 'node:crypto';
import {
  decodeTrainingState,
  encodeTrainingState,
  modelHash,
  parseOptimisationSettings,
} from '@plumb/diffusion';
import type { VideoModel } from '@plumb/diffusion';
import { contentHash } from '@plumb/kit/content-hash';
import { dataLoss } from '@plumb/kit/errors';
import type { Clip } from '@plumb/media';
import { freezeTrainingSet, trainingSetHash } from '@plumb/objective';
import type { Prompt, PromptSet } from '@plumb/prompts';
import type { Engine } from '@plumb/tensor-graph/engine';
import { drawClips } from './draw-clips.ts';
import { formOf, labelledBy, sampleIdOf } from './feedback.ts';
import { finetune } from './finetune.ts';
import { recipeFor } from './recipes.ts';
import { cellRecordSchema, groupRecordSchema } from './records.ts';
import type { Arm, CellRecord, GroupRecord, ScoredClip, StudyRecords } from './records.ts';
import type { Scoring } from './score-clips.ts';
import { armId, armsOf, judgeRewards } from './spec.ts';
import type { StudySpec } from './spec.ts';

/** Steps between two records of a training under way: what a kill can cost. */
const checkpointEverySteps = 25;

/** What a study is made from. */
export interface Study {
  readonly spec: StudySpec;
  readonly model: VideoModel;
  readonly prompts: PromptSet;
  readonly scoring: Scoring;
  readonly engine: Engine;
  readonly records: StudyRecords;
  /** Told what begins, and what is done of it. */
  readonly onProgress: (progress: StudyProgress) => void;
  readonly signal?: AbortSignal;
}

/** Where a study is. */
export interface StudyProgress {
  /** Cells that are finished, of all. */
  readonly done: number;
  readonly cells: number;
  readonly doing: string;
  /** Steps of the training under way. */
  readonly step?: number;
  readonly steps?: number;
}

/** All that a study has found: what analyses and manifests are made from. */
export interface StudyData {
  readonly spec: StudySpec;
  readonly modelHash: string;
  readonly promptSetHash: string;
  readonly rewardHashes: Readonly<Record<string, string>>;
  readonly directions: ReadonlyMap<string, 'higher' | 'lower'>;
  /** By seed: what the model drew before any training, and what it would draw for the held-out prompts. */
  readonly groups: ReadonlyMap<number, { readonly train: GroupRecord; readonly heldOut: GroupRecord }>;
  /** In the order of seeds and arms. */
  readonly cells: readonly CellRecord[];
}

/** The prompts of a split, only the first so many of each category where the spec says so. */
function promptsOf({ prompts }: PromptSet, split: Prompt['split'], most = Infinity): Prompt[] {
  const taken = new Map<string, number>();
  return prompts.filter((prompt) => {
    if (prompt.split !== split) return false;
    const before = taken.get(prompt.category) ?? 0;
    taken.set(prompt.category, before + 1);
    return before < most;
  });
}

/**
 * Fills in every cell of the matrix that is not on record yet. Each step depends on its key alone: samples are drawn once a
 * seed and scored once with every reward, and a cell that is on record is not made again.
 */
export async function runStudy(study: Study): Promise<StudyData> {
  const { spec, model, prompts, scoring } = study;
  const arms = armsOf(spec);
  const base = modelHash(model);
  const train = promptsOf(prompts, 'train', spec.prompts.trainPerCategory);
  const heldOut = promptsOf(prompts, 'heldout', spec.prompts.heldoutPerCategory);
  const cells: CellRecord[] = [];
  const groups = new Map<number, { train: GroupRecord; heldOut: GroupRecord }>();
  const total = arms.length * spec.seeds.length;
  const tell = (doing: string, more: object = {}): void => {
    study.onProgress({ done: cells.length, cells: total, doing, ...more });
  };
  for (const seed of spec.seeds) {
    const drawn = { sampler: spec.sampler, rewards: scoring.hashes, model: base };
    tell(`seed ${seed}: samples to train on`);
    const training = await drawGroup(study, `samples/train-${seed}`, {
      prompts: train,
      samplesPerPrompt: spec.samplesPerPrompt,
      seed: `study train ${seed}`,
      inputs: { ...drawn, split: 'train', seed, prompts: idsOf(train), samples: spec.samplesPerPrompt },
      keepClips: true,
    });
    const evaluation = {
      ...drawn,
      split: 'heldout',
      seed,
      prompts: idsOf(heldOut),
      samples: spec.evaluation.samplesPerPrompt,
    };
    tell(`seed ${seed}: held-out samples before training`);
    const before = await drawGroup(study, `samples/heldout-${seed}`, {
      prompts: heldOut,
      samplesPerPrompt: spec.evaluation.samplesPerPrompt,
      seed: `study held-out ${seed}`,
      inputs: evaluation,
      keepClips: false,
    });
    groups.set(seed, { train: training.record, heldOut: before.record });
    for (const arm of arms) {
      cells.push(
        await fillCell(study, {
          arm,
          seed,
          base,
          train,
          heldOut,
          training,
          evaluation,
          tell,
        }),
      );
    }
  }
  tell('done');
  return {
    spec,
    modelHash: base,
    promptSetHash: prompts.sha256,
    rewardHashes: scoring.hashes,
    directions: scoring.directions,
    groups,
    cells,
  };
}

function idsOf(prompts: readonly Prompt[]): object {
  return Object.fromEntries(prompts.map(({ id, text }) => [id, text]));
}

interface DrawnGroup {
  readonly record: GroupRecord;
  /** By sample id; empty where pixels are not kept. */
  readonly clips: ReadonlyMap<string, Clip>;
}

/** Draws and scores a group, or reads it where it is on record. */
async function drawGroup(
  study: Study,
  name: string,
  options: {
    readonly prompts: readonly Prompt[];
    readonly samplesPerPrompt: number;
    readonly seed: string;
    readonly inputs: Readonly<Record<string, unknown>>;
    readonly keepClips: boolean;
  },
): Promise<DrawnGroup> {
  const { engine, model, scoring, records, signal } = study;
  const key = contentHash({ kind: 'plumb.study.group', version: 1, ...options.inputs });
  const found = await readRecord(records, `${name}.json`, groupRecordSchema);
  if (found?.key === key) {
    const clips = options.keepClips
      ? unpackClips(model, found.clips, await records.read(`${name}.rgb`), `${name}.rgb`)
      : new Map<string, Clip>();
    return { record: found, clips };
  }
  const started = performance.now();
  const drawn = await drawClips(engine, model, {
    prompts: options.prompts,
    samplesPerPrompt: options.samplesPerPrompt,
    sampler: study.spec.sampler,
    seed: options.seed,
    ...(signal === undefined ? {} : { signal }),
  });
  const clips = await scoring.score(drawn);
  const record: GroupRecord = { format: 1, key, clips, seconds: secondsSince(started) };
  if (options.keepClips)
    await records.write(`${name}.rgb`, Buffer.concat(drawn.map(({ clip }) => clip.data)));
  // The record is what counts: it comes last.
  await writeRecord(records, `${name}.json`, record);
  const byId = drawn.map(
    ({ prompt, index, clip }) => [sampleIdOf({ promptId: prompt.id, index }), clip] as const,
  );
  return { record, clips: new Map(options.keepClips ? byId : []) };
}

function unpackClips(
  { config }: VideoModel,
  rows: readonly ScoredClip[],
  bytes: Uint8Array | undefined,
  name: string,
): Map<string, Clip> {
  const { frames, height, width, fps } = config.video;
  const size = frames * height * width * 3;
  return new Map(
    rows.map((row, place) => {
      const data = bytes?.slice(place * size, (place + 1) * size) ?? new Uint8Array();
      if (createHash('sha256').update(data).digest('hex') !== row.sha256) {
        throw dataLoss(`${name} does not hold the clip of ${sampleIdOf(row)}; remove ${name} and its .json`);
      }
      return [sampleIdOf(row), { frames, height, width, fps, data }] as const;
    }),
  );
}

/** Trains and evaluates one cell, or reads it where it is on record. */
async function fillCell(
  study: Study,
  options: {
    readonly arm: Arm;
    readonly seed: number;
    readonly base: string;
    readonly train: readonly Prompt[];
    readonly heldOut: readonly Prompt[];
    readonly training: DrawnGroup;
    readonly evaluation: Readonly<Record<string, unknown>>;
    readonly tell: (doing: string, more?: object) => void;
  },
): Promise<CellRecord> {
  const { spec, engine, model, scoring, records, signal } = study;
  const { arm, seed, training, tell } = options;
  const settings = spec.settings[arm.algorithm];
  const recipe = recipeFor(arm.algorithm, formOf(arm.reward), {
    beta: arm.beta,
    lowerIsBetter: scoring.directions.get(arm.reward ?? '') === 'lower',
    ...(settings === undefined ? {} : { settings }),
  });
  const optimisation = parseOptimisationSettings({ ...spec.optimisation, ...recipe.optimisation });
  const key = contentHash({
    kind: 'plumb.study.cell',
    version: 1,
    arm,
    seed,
    base: options.base,
    samples: training.record.key,
    objective: recipe.objective,
    optimisation,
    evaluation: options.evaluation,
  });
  const name = `cells/${key.slice(0, 24)}`;
  const found = await readRecord(records, `${name}.json`, cellRecordSchema);
  if (found?.key === key) return found;

  const label = `seed ${seed}, ${armId(arm)}`;
  tell(`${label}: training`);
  const started = performance.now();
  const set = freezeTrainingSet(labelledBy(arm, training.record.clips, seed), recipe.objective, seed);
  const statePath = `${name}.state`;
  const state = await records.read(statePath);
  const losses: number[] = [];
  const tail = Math.max(1, Math.round(optimisation.steps / 10));
  const trained = await finetune(engine, {
    model,
    set,
    clips: training.clips,
    captions: new Map(options.train.map(({ id, text }) => [id, text])),
    objective: recipe.objective,
    optimisation,
    seed,
    noiseSeed: `study ${seed}`,
    resume: state === undefined ? undefined : decodeTrainingState(state, statePath),
    ...(signal === undefined ? {} : { signal }),
    async onStep({ step, metrics, state: readState }) {
      losses.push(metrics['loss'] ?? Number.NaN);
      tell(`${label}: training`, { step, steps: optimisation.steps });
      // A training that goes on later sees all the steps of the tail again, so that its record is the same.
      if (step % checkpointEverySteps === 0 && step <= optimisation.steps - tail) {
        await records.write(statePath, encodeTrainingState(await readState()));
      }
    },
  });
  const seconds = secondsSince(started);
  tell(`${label}: held-out samples after training`);
  const drawn = await drawClips(engine, trained.model, {
    prompts: options.heldOut,
    samplesPerPrompt: spec.evaluation.samplesPerPrompt,
    sampler: spec.sampler,
    seed: `study held-out ${seed}`,
    ...(signal === undefined ? {} : { signal }),
  });
  const { effectiveSampleSize, uninformativePromptRatio, acceptanceRate, items } = set.statistics;
  const last = losses.slice(-tail);
  const record: CellRecord = {
    format: 1,
    key,
    seed,
    arm,
    trainingSetHash: trainingSetHash(set),
    weightsHash: modelHash(trained.model),
    set: { items, effectiveSampleSize, uninformativePromptRatio, acceptanceRate },
    training: {
      steps: optimisation.steps,
      loss: last.reduce((sum, loss) => sum + loss, 0) / last.length,
      anchorDistance: trained.anchorDistance,
      seconds,
    },
    heldOut: await scoring.score(drawn),
  };
  await writeRecord(records, `${name}.json`, record);
  await records.remove(statePath);
  return record;
}

/** The rewards of a spec that must be loaded: those trained on that are not the judge's, and the guards. */
export function rewardsNeededBy(spec: StudySpec): readonly string[] {
  const judges: readonly string[] = Object.values(judgeRewards);
  const trained = armsOf(spec).flatMap(({ reward }) => (reward === undefined ? [] : [reward]));
  return [...new Set([...trained, ...spec.evaluation.guards])].filter((name) => !judges.includes(name));
}

function secondsSince(started: number): number {
  return Math.round(performance.now() - started) / 1000;
}

async function writeRecord(records: StudyRecords, name: string, record: object): Promise<void> {
  await records.write(name, new TextEncoder().encode(`${JSON.stringify(record)}\n`));
}

/** @throws PlumbError DATA_LOSS for a record that is no longer what was written */
async function readRecord<T>(
  records: StudyRecords,
  name: string,
  schema: { safeParse(value: unknown): { success: true; data: T } | { success: false } },
): Promise<T | undefined> {
  const bytes = await records.read(name);
  if (bytes === undefined) return undefined;
  let value: unknown;
  try {
    value = JSON.parse(new TextDecoder('utf-8', { fatal: true }).decode(bytes));
  } catch (error) {
    throw dataLoss(`${name} is damaged; remove it, and the same command makes it anew`, { cause: error });
  }
  const parsed = schema.safeParse(value);
  if (parsed.success) return parsed.data;
  throw dataLoss(`${name} is not what this version writes; remove it, and the same command makes it anew`);
}
