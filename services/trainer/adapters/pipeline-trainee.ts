import { randomUUID } from 'node:crypto';
import { rm } from 'node:fs/promises';
import { join } from 'node:path';
import {
  encodePeftAdapters,
  initialiseNetworkAdapters,
  latentExampleSource,
  networkAdapterTargets,
  networkTrainingProgram,
  openNetworkTraining,
  trainedNetworkAdapters,
} from '@plumb/diffusion';
import type { AdapterSettings, NetworkAdapterTarget, PeftAdapters, TextEmbedding } from '@plumb/diffusion';
import { dataLoss, failedPrecondition, invalidArgument, PlumbError } from '@plumb/kit/errors';
import type { ArtifactStore } from '@plumb/media';
import {
  fetchForTraining,
  mergeIntoFolder,
  openPipeline,
  pipelineDenoiser,
  rowsOfDenoiser,
  storeAdaptedPipeline,
} from '@plumb/pipelines';
import type { Device, FetchedPipeline, PipelineFolder } from '@plumb/pipelines';
import type { TrainingProgram } from '@plumb/tensor-graph';
import type { Engine } from '@plumb/tensor-graph/engine';
import { readSafetensors } from '@plumb/tensor-graph/safetensors';
import PQueue from 'p-queue';
import { checkFinite } from '../domain/divergence.ts';
import { inSpec, numericSeed } from '../domain/job-spec.ts';
import type { JobPlan, ModelReference } from '../domain/job-spec.ts';
import type { ManifestSample } from '../domain/labelled-samples.ts';
import { courseOf } from '../domain/trainee.ts';
import type { Trainee } from '../domain/trainee.ts';
import { named } from './named.ts';

/** Latents that are read at a time. */
const readConcurrency = 8;

/** How pipelines are trained here. */
export interface PipelineTraining {
  /** The part of an artifact store that is needed. */
  readonly artifacts: Pick<ArtifactStore, 'get' | 'put'>;
  /** Folder that pipelines are unpacked in. */
  readonly cache: string;
  readonly device: Device;
  /** Most memory for the latents of a data set, in bytes. */
  readonly maxDataSetBytes: number;
}

/**
 * A pipeline, of whose denoiser adapters are trained on latents. The base without its adapters is frozen; a base that has
 * adapters is trained on from them, and a reference is the base with other adapters or with none.
 * @throws PlumbError INVALID_ARGUMENT naming the field of the spec: a denoiser with an operator that has no gradient, adapters
 *   that do not fit it or are not those of the base, a reference of another pipeline
 */
export async function pipelineTrainee(
  plan: JobPlan,
  { artifacts, cache, device, maxDataSetBytes }: PipelineTraining,
): Promise<Trainee> {
  const { objective, optimisation, adapters: settings } = plan;
  if (settings === undefined) throw new TypeError('a plan for a pipeline has adapters');
  const fetch = ({ version, ...weights }: ModelReference): Promise<FetchedPipeline> =>
    named(`the weights of ${version}`, fetchForTraining(weights, artifacts, cache));
  const base = await fetch(plan.base);
  const { folder } = base;
  const reference = plan.reference.sha256 === plan.base.sha256 ? base : await fetch(plan.reference);
  if (reference.base.sha256 !== base.base.sha256) {
    throw invalidArgument(
      'spec.reference',
      `${plan.reference.version} is of pipeline ${reference.base.sha256.slice(0, 12)}, but ${plan.base.version} of ${base.base.sha256.slice(0, 12)}; use a reference of the same pipeline`,
    );
  }
  // One row a pass keeps memory small; kto estimates its reference point from a pass, and so has the whole batch in it.
  const rows = rowsOfDenoiser(folder) ?? (objective.algorithm === 'kto' ? optimisation.batchSize : 1);
  const denoiser = await pipelineDenoiser(folder, rows);
  const targets = inSpec(() => networkAdapterTargets(denoiser.network.linearLayers, settings));
  const startOf = ({ adapters }: FetchedPipeline, { version }: ModelReference) =>
    adapters === undefined ? undefined : sameAdapters(adapters, targets, settings, version);
  const start = startOf(base, plan.base);
  const frozen = startOf(reference, plan.reference);
  const options = {
    denoiser,
    adapters: settings,
    ...(frozen === undefined ? {} : { reference: frozen }),
    objective,
    optimisation,
  };
  const program = programOf(plan, () => networkTrainingProgram(options));
  const seed = plan.seed.toString();
  return {
    parameterCount: [folder.textEncoder, folder.denoiser, folder.decoder].reduce(
      (sum, { parameters }) => sum + parameters,
      0,
    ),
    maxTextTokens: folder.settings.maxTextTokens,
    async prepare({ set, samples, captions, signal }) {
      const latents = await readLatents(samples, { folder, artifacts, maxDataSetBytes, signal });
      const shared = {
        set,
        latents,
        batchSize: optimisation.batchSize,
        seed: numericSeed(plan.seed),
      };
      const prompts = [...new Set(set.items.map(({ promptId }) => promptId))];
      return {
        weightSpread: latentExampleSource({ ...shared, texts: new Map() }).weightSpread,
        async open(engine, state) {
          const { texts, emptyText } = await encodeTexts(engine, folder, {
            prompts,
            captions,
            device,
            signal,
          });
          const source = latentExampleSource({ ...shared, texts });
          const training = await openNetworkTraining(engine, {
            ...options,
            program,
            seed,
            device,
            emptyText,
            ...(start === undefined ? {} : { start }),
            ...(plan.anchorEverySteps === undefined
              ? {}
              : { anchorProbe: probeRows(source.probe(rows), rows) }),
            ...(state === undefined ? {} : { state }),
          });
          return courseOf(training, source, optimisation.steps);
        },
      };
    },
    async openSampler(engine, state, batch) {
      const values =
        state === undefined
          ? (start ?? initialiseNetworkAdapters(targets, seed))
          : trainedNetworkAdapters(targets, optimisation, state);
      const path = join(cache, `.probe-${randomUUID()}`);
      const merged = await mergeIntoFolder(
        folder,
        { ...settings, modules: targets.map(({ layer }) => layer.module), parameters: values },
        path,
      );
      const devices = { textEncoder: device, denoiser: device, decoder: device };
      const sampler = openPipeline(engine, merged, { batch, devices });
      return {
        ...sampler,
        async close() {
          await sampler.close();
          await rm(path, { recursive: true, force: true });
        },
      };
    },
    async store(state) {
      const values = trainedNetworkAdapters(targets, optimisation, state);
      checkFinite(values);
      const stored = await storeAdaptedPipeline(
        base.base,
        encodePeftAdapters(targets, settings, values),
        artifacts,
      );
      return { checkpoint: stored.manifest, adapters: stored.adapters };
    },
  };
}

/** Says of a model that cannot be differentiated which field of the spec names it. */
function programOf({ base }: JobPlan, make: () => TrainingProgram): TrainingProgram {
  try {
    return inSpec(make);
  } catch (thrown) {
    const error = PlumbError.from(thrown);
    if (error.code !== 'UNIMPLEMENTED') throw thrown;
    throw invalidArgument('spec.base', `${base.version} cannot be trained: ${error.message}`, {
      cause: thrown,
    });
  }
}

/**
 * Adapters of a version as the settings of a job have them.
 * @throws PlumbError INVALID_ARGUMENT where they are on other layers or of another rank
 */
function sameAdapters(
  { rank, alpha, modules, parameters }: PeftAdapters,
  targets: readonly NetworkAdapterTarget[],
  settings: AdapterSettings,
  version: string,
): Map<string, Float32Array> {
  if (rank !== settings.rank) {
    throw invalidArgument(
      'spec.adapters.rank',
      `is ${settings.rank}, but ${version} has adapters of rank ${rank}, which training goes on from; use ${rank}`,
    );
  }
  const wanted = new Set(targets.map(({ layer }) => layer.module));
  const other =
    modules.find((module) => !wanted.has(module)) ?? [...wanted].find((module) => !modules.includes(module));
  if (other !== undefined) {
    throw invalidArgument(
      'spec.adapters.targets',
      `${wanted.has(other) ? 'have' : 'leave out'} ${other}, other than the adapters of ${version}, which training goes on from; use the targets that it was trained with`,
    );
  }
  // Files have the factor alpha / rank within B, or an alpha of their own.
  const factor = alpha / rank / (settings.alpha / settings.rank);
  return new Map(
    [...parameters].map(([name, values]) => [
      name,
      name.endsWith('.lora_B.weight') && factor !== 1 ? values.map((value) => value * factor) : values,
    ]),
  );
}

/** Every row has an example, also where the set has fewer items. */
function probeRows<Example>(examples: readonly Example[], rows: number): Example[] {
  return Array.from({ length: rows }, (_, row) => examples[row % examples.length]).filter(
    (example) => example !== undefined,
  );
}

/** Every prompt once through the text encoder, which is unloaded again before training begins. */
async function encodeTexts(
  engine: Engine,
  folder: PipelineFolder,
  options: {
    readonly prompts: readonly string[];
    readonly captions: ReadonlyMap<string, string>;
    readonly device: Device;
    readonly signal: AbortSignal;
  },
): Promise<{ texts: Map<string, TextEmbedding>; emptyText: TextEmbedding }> {
  const { prompts, captions, device, signal } = options;
  const pipeline = openPipeline(engine, folder, { batch: 1, devices: { textEncoder: device } });
  const encode = async (prompt: string): Promise<TextEmbedding> => {
    const { embeddings, mask } = await pipeline.encode(prompt, signal);
    return { embeddings, mask: Float32Array.from(mask) };
  };
  try {
    const texts = new Map<string, TextEmbedding>();
    for (const id of prompts) {
      const caption = captions.get(id);
      if (caption === undefined) throw dataLoss(`the data set has no text for prompt ${id}`);
      texts.set(id, await encode(caption));
    }
    return { texts, emptyText: await encode('') };
  } finally {
    await pipeline.close();
  }
}

/** Latents by sample id, each verified by its hash. */
async function readLatents(
  samples: readonly ManifestSample[],
  options: Pick<PipelineTraining, 'artifacts' | 'maxDataSetBytes'> & {
    readonly folder: PipelineFolder;
    readonly signal: AbortSignal;
  },
): Promise<ReadonlyMap<string, Float32Array>> {
  const { folder, artifacts, maxDataSetBytes, signal } = options;
  const { latents: shape } = folder.plan;
  const length = shape.reduce((a, b) => a * b, 1);
  const bytes = samples.length * length * Float32Array.BYTES_PER_ELEMENT;
  if (bytes > maxDataSetBytes) {
    throw failedPrecondition(
      `the latents of the ${samples.length} clips of the data set take ${bytes} bytes in memory, above PLUMB_MAX_DATA_SET_BYTES=${maxDataSetBytes}; raise it or use fewer clips`,
      { reason: 'DATASET_UNUSABLE' },
    );
  }
  const read = new Map<string, Float32Array>();
  const queue = new PQueue({ concurrency: readConcurrency });
  // The first that cannot be read stops the others.
  const failed = new AbortController();
  const either = AbortSignal.any([signal, failed.signal]);
  try {
    await Promise.all(
      samples.map(({ sampleId, latents }) =>
        queue.add(async () => {
          either.throwIfAborted();
          if (latents === undefined) {
            throw failedPrecondition(
              `sample ${sampleId} of the data set has no latents, which a pipeline is trained on; sample it with store_latents, as runs do`,
              { reason: 'DATASET_UNUSABLE' },
            );
          }
          const what = `the latents of sample ${sampleId}`;
          const { tensors } = readSafetensors(await named(what, artifacts.get(latents.uri, latents.sha256)));
          const tensor = tensors.get('latents');
          const data = tensor?.data;
          if (!(data instanceof Float32Array) || tensor?.shape.join() !== shape.join()) {
            throw failedPrecondition(
              `${what} are ${tensor?.dtype ?? 'missing'} [${tensor?.shape.join(', ') ?? ''}]; the denoiser of ${folder.settings.name} takes float32 [${shape.join(', ')}]: they are another model's`,
              { reason: 'DATASET_UNUSABLE' },
            );
          }
          read.set(sampleId, data);
        }),
      ),
    );
  } finally {
    failed.abort();
  }
  signal.throwIfAborted();
  return read;
}
