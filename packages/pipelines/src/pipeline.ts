import { fillGaussian, randomGenerator, samplerSettingsSchema } from '@plumb/diffusion';
import type { ClipSampler, SampledClip, SampleRequest, SamplerSettings } from '@plumb/diffusion';
import { invalidArgument, PlumbError } from '@plumb/kit/errors';
import type { Clip } from '@plumb/media';
import type { Engine, TypedTensor } from '@plumb/tensor-graph/engine';
import { LRUCache } from 'lru-cache';
import { z } from 'zod';
import { openComponents } from './component-sessions.ts';
import type { ComponentSessions, Device } from './component-sessions.ts';
import { toElements, toFloats } from './elements.ts';
import type { Component, PipelineFolder } from './pipeline-folder.ts';
import { combine } from './schedulers/scheduler.ts';
import { decodeTiled } from './tiles.ts';
import type { DecodedFrames, TileSize } from './tiles.ts';

/** How a pipeline is run. */
export interface PipelineOptions {
  /** Clips that share a call of the denoiser. */
  readonly batch: number;
  /**
   * With guidance, `batched` runs both passes in one call of twice the rows; `split` runs them one after the other in
   * half the memory. `batched` unless given.
   */
  readonly guidancePasses?: 'batched' | 'split';
  /** Bytes that the weights on one device may take together; no limit unless given. */
  readonly memoryBudgetBytes?: number;
  /** `cpu` unless given. */
  readonly devices?: { readonly textEncoder?: Device; readonly denoiser?: Device; readonly decoder?: Device };
  /** Decodes in tiles; in one piece unless given or the decoder was exported for a smaller size. */
  readonly tile?: TileSize;
}

/** Share of a tile that overlaps, where the decoder's own size makes tiles necessary. */
const defaultOverlap = 0.25;
/** Embeddings of prompts that are kept: of T5-XXL they are 8 MB each at 512 tokens. */
const keptPrompts = 64;

/** A prompt as the denoiser takes it. */
export interface TextInput {
  /** [tokens, width] */
  readonly embeddings: Float32Array;
  /** 1 for a token, 0 for padding. */
  readonly mask: readonly number[];
}

/** A pipeline, ready to sample. */
export interface Pipeline extends ClipSampler {
  readonly folder: PipelineFolder;
  readonly components: ComponentSessions;
  /** A prompt as the text encoder gives it; the most recent ones are kept. */
  encode(prompt: string, signal?: AbortSignal): Promise<TextInput>;
  /**
   * Final latents of clips from given noise.
   * @param noise one array of `plan.latents` for each prompt, N(0, 1)
   * @param random further noise for schedulers that add some: a fresh draw for a clip
   */
  denoise(
    prompts: readonly string[],
    noise: readonly Float32Array[],
    settings: SamplerSettings,
    options?: { signal?: AbortSignal; random?: (clip: number, step: number) => Float32Array },
  ): Promise<Float32Array[]>;
  /** Frames of one clip's final latents. */
  decode(latents: Float32Array, options?: { signal?: AbortSignal }): Promise<DecodedFrames>;
}

/**
 * A pipeline on an engine. Nothing is loaded yet. Every call of the denoiser has the same number of rows, filled up
 * where there are fewer, so that a clip does not depend on its companions.
 * @throws PlumbError RESOURCE_EXHAUSTED for a component that is over the memory budget
 */
export function openPipeline(engine: Engine, folder: PipelineFolder, options: PipelineOptions): Pipeline {
  const { plan, scheduler, settings, textEncoder, denoiser, decoder } = folder;
  const { batch, guidancePasses = 'batched', devices = {} } = options;
  const components = openComponents(
    engine,
    [
      { component: textEncoder, device: devices.textEncoder ?? 'cpu' },
      { component: denoiser, device: devices.denoiser ?? 'cpu' },
      { component: decoder, device: devices.decoder ?? 'cpu' },
    ],
    options.memoryBudgetBytes,
  );
  const size = plan.latents.reduce((a, b) => a * b, 1);
  const feed = (
    component: Component,
    name: string,
    shape: readonly number[],
    values: Float32Array | readonly number[],
  ) => toElements(component.inputs.find((input) => input.name === name)?.dtype ?? 'float32', shape, values);
  const fixedRows = (component: Component, input: string): number | undefined => {
    const rows = component.inputs.find(({ name }) => name === input)?.shape[0] ?? -1;
    return rows === -1 ? undefined : rows;
  };

  const texts = new LRUCache<string, TextInput>({ max: keptPrompts });
  const encode = async (prompt: string, signal?: AbortSignal): Promise<TextInput> => {
    const known = texts.get(prompt);
    if (known !== undefined) return known;
    const { ids, mask } = folder.tokenise(prompt);
    const rows = fixedRows(textEncoder, 'input_ids') ?? 1;
    const repeated = (values: readonly number[]): number[] =>
      Array.from({ length: rows }, () => values).flat();
    const shape = [rows, ids.length];
    const output = await components.run(
      textEncoder,
      {
        input_ids: feed(textEncoder, 'input_ids', shape, repeated(ids)),
        ...(plan.text.masked
          ? { attention_mask: feed(textEncoder, 'attention_mask', shape, repeated(mask)) }
          : {}),
      },
      signal,
    );
    const all = toFloats(textEncoder.output.name, output);
    const embeddings = all.slice(0, all.length / rows);
    const width = embeddings.length / ids.length;
    if (plan.text.zeroPadding) embeddings.fill(0, width * mask.reduce((sum, value) => sum + value, 0));
    const text = { embeddings, mask };
    texts.set(prompt, text);
    return text;
  };

  /** Predictions for rows of latents and texts, in calls of equal size. */
  const predict = async (
    rows: readonly { readonly latents: Float32Array; readonly text: TextInput }[],
    timestep: number,
    rowsPerCall: number,
    signal: AbortSignal | undefined,
  ): Promise<Float32Array[]> => {
    const results: Float32Array[] = [];
    for (let start = 0; start < rows.length; start += rowsPerCall) {
      const part = rows.slice(start, start + rowsPerCall);
      // Rows that are missing repeat the first.
      const full = Array.from({ length: rowsPerCall }, (_, row) => part[row] ?? part[0]);
      const [first] = part;
      if (first === undefined) break;
      const latents = new Float32Array(rowsPerCall * size);
      const text = new Float32Array(rowsPerCall * first.text.embeddings.length);
      for (const [row, value] of full.entries()) {
        latents.set(value?.latents ?? [], row * size);
        text.set(value?.text.embeddings ?? [], row * first.text.embeddings.length);
      }
      const tokens = first.text.mask.length;
      const feeds: Record<string, TypedTensor> = {
        ...plan.constants(rowsPerCall),
        hidden_states: feed(denoiser, 'hidden_states', [rowsPerCall, ...plan.latents], latents),
        timestep: feed(
          denoiser,
          'timestep',
          [rowsPerCall],
          Array.from({ length: rowsPerCall }, () => timestep),
        ),
        encoder_hidden_states: feed(
          denoiser,
          'encoder_hidden_states',
          [rowsPerCall, tokens, first.text.embeddings.length / tokens],
          text,
        ),
      };
      const { maskInput } = plan.text;
      if (maskInput !== undefined) {
        const masks = full.flatMap((value) => value?.text.mask ?? []);
        feeds[maskInput] = feed(denoiser, maskInput, [rowsPerCall, tokens], masks);
      }
      const output = toFloats(denoiser.output.name, await components.run(denoiser, feeds, signal));
      for (const row of part.keys()) results.push(output.slice(row * size, (row + 1) * size));
    }
    return results;
  };

  const startOptions = (sampler: SamplerSettings) => ({
    ...(plan.sigmas === undefined || !scheduler.isFlow ? {} : { sigmas: plan.sigmas(sampler.steps) }),
    ...(scheduler.dynamicShift === undefined ? {} : { mu: scheduler.dynamicShift(plan.sequenceLength) }),
    ...(sampler.shift === 1 ? {} : { shift: sampler.shift }),
  });

  const denoise: Pipeline['denoise'] = async (prompts, noise, sampler, { signal, random } = {}) => {
    const guided = sampler.guidance !== 1;
    const conditional: TextInput[] = [];
    for (const prompt of prompts) conditional.push(await encode(prompt, signal));
    const unconditional = guided ? await encode(settings.negativePrompt, signal) : undefined;
    const rowsPerCall =
      fixedRows(denoiser, 'hidden_states') ?? (guided && guidancePasses === 'batched' ? 2 * batch : batch);
    const final: Float32Array[] = [];
    for (let start = 0; start < prompts.length; start += batch) {
      const clips = noise.slice(start, start + batch);
      const count = clips.length;
      // The solver keeps state of a whole batch, so the clips of one are put together.
      const joined = new Float32Array(count * size);
      for (const [row, values] of clips.entries()) {
        if (values.length !== size) {
          throw invalidArgument('noise', `has ${values.length} numbers for a clip; the latents have ${size}`);
        }
        joined.set(values, row * size);
      }
      const stepper = scheduler.start(sampler.steps, startOptions(sampler));
      let latents: Float32Array = joined;
      for (const [index, timestep] of stepper.timesteps.entries()) {
        signal?.throwIfAborted();
        const now = latents;
        const rowsOf = (text: (clip: number) => TextInput | undefined) =>
          Array.from({ length: count }, (_, clip) => ({
            latents: now.subarray(clip * size, (clip + 1) * size),
            text: text(clip) ?? { embeddings: new Float32Array(), mask: [] },
          }));
        const rows = [
          ...rowsOf((clip) => conditional[start + clip]),
          ...(unconditional === undefined ? [] : rowsOf(() => unconditional)),
        ];
        const predictions = await predict(rows, timestep, rowsPerCall, signal);
        const prediction = new Float32Array(count * size);
        for (let clip = 0; clip < count; clip++) {
          const conditioned = predictions[clip] ?? new Float32Array();
          const plain = predictions[count + clip];
          prediction.set(
            plain === undefined
              ? conditioned
              : combine([1 - sampler.guidance, plain], [sampler.guidance, conditioned]),
            clip * size,
          );
        }
        latents = stepper.step(index, prediction, now, () => {
          const added = new Float32Array(count * size);
          for (let clip = 0; clip < count; clip++) {
            if (random === undefined)
              throw new TypeError('this scheduler adds noise, and there is none to add');
            added.set(random(start + clip, index), clip * size);
          }
          return added;
        });
      }
      for (let clip = 0; clip < count; clip++) final.push(latents.slice(clip * size, (clip + 1) * size));
    }
    return final;
  };
  const decode: Pipeline['decode'] = async (latents, { signal } = {}) => {
    const shape = decoder.inputs.find(({ name }) => name === 'latents')?.shape ?? [];
    const [, , , tall = -1, wide = -1] = shape;
    const exported =
      tall === -1 || wide === -1 ? undefined : { height: tall, width: wide, overlap: defaultOverlap };
    const rows = fixedRows(decoder, 'latents') ?? 1;
    const one = async (part: { shape: readonly number[]; data: Float32Array }): Promise<DecodedFrames> => {
      const repeated = new Float32Array(rows * part.data.length);
      for (let row = 0; row < rows; row++) repeated.set(part.data, row * part.data.length);
      const output = await components.run(
        decoder,
        { latents: feed(decoder, 'latents', [rows, ...part.shape], repeated) },
        signal,
      );
      const all = toFloats(decoder.output.name, output);
      const [, , frames = 0, height = 0, width = 0] = output?.shape ?? [];
      return { frames, height, width, data: all.slice(0, all.length / rows) };
    };
    const input = plan.toDecoder(latents);
    const tile = exported ?? options.tile;
    return tile === undefined ? one(input) : decodeTiled(input, tile, plan.spatialScale, one);
  };

  // Batches that do not fit together would push each other's components out at every step.
  let turn: Promise<unknown> = Promise.resolve();
  const exclusively = <T>(work: () => Promise<T>): Promise<T> => {
    if (components.allFit) return work();
    const mine = turn.then(work);
    turn = mine.catch(() => undefined);
    return mine;
  };

  return {
    folder,
    components,
    format: settings,
    batch,
    check(prompt) {
      folder.tokenise(prompt);
    },
    encode,
    denoise,
    decode,
    async sampleEach(requests: readonly SampleRequest[], sampler, { signal } = {}) {
      const parsed = samplerSettingsSchema.safeParse(sampler);
      if (!parsed.success) throw invalidArgument('sampler', z.prettifyError(parsed.error));
      return await exclusively(async () => {
        const draw = (seed: bigint, step: number): Float32Array =>
          fillGaussian(new Float32Array(size), randomGenerator('sample', seed, step));
        const latents = await denoise(
          requests.map(({ caption }) => caption),
          requests.map(({ seed }) => draw(seed, -1)),
          parsed.data,
          {
            ...(signal === undefined ? {} : { signal }),
            random: (clip, step) => draw(requests[clip]?.seed ?? 0n, step),
          },
        );
        const clips: (SampledClip | PlumbError)[] = [];
        for (const values of latents) {
          const frames = values.every(Number.isFinite)
            ? await decode(values, signal === undefined ? {} : { signal })
            : undefined;
          if (frames === undefined || !frames.data.every(Number.isFinite)) {
            clips.push(notFinite(folder));
            continue;
          }
          clips.push({
            ...toClip(frames, settings.fps),
            latents: { dtype: 'float32', shape: plan.latents, data: values },
          });
        }
        return clips;
      });
    },
    close: () => components.close(),
  };
}

function notFinite({ settings }: PipelineFolder): PlumbError {
  return new PlumbError({
    code: 'INTERNAL',
    reason: 'NUMERICS_NOT_FINITE',
    message: `model ${settings.name} produced values that are not finite; its weights are damaged, its training diverged, or half precision is too small for it`,
  });
}

/** Frames in -1 to 1 as a clip; values beyond are cut. */
export function toClip({ frames, height, width, data }: DecodedFrames, fps: number): Clip {
  const plane = height * width;
  const pixels = new Uint8Array(frames * plane * 3);
  for (let channel = 0; channel < 3; channel++) {
    for (let frame = 0; frame < frames; frame++) {
      const from = (channel * frames + frame) * plane;
      const to = frame * plane * 3 + channel;
      for (let i = 0; i < plane; i++) {
        const unit = Math.min(Math.max((data[from + i] ?? 0) / 2 + 0.5, 0), 1);
        pixels[to + 3 * i] = Math.round(unit * 255);
      }
    }
  }
  return { frames, height, width, fps, data: pixels };
}
