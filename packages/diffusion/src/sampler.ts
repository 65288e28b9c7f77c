import { invalidArgument, PlumbError } from '@plumb/kit/errors';
import type { Clip, ClipShape } from '@plumb/media';
import type { Engine, TypedTensor } from '@plumb/tensor-graph/engine';
import { z } from 'zod';
import { clipShape, clipSize, type VideoModelConfig } from './config.ts';
import type { VideoModel } from './model-file.ts';
import { preconditioning, samplerStep } from './parameterisation.ts';
import { modelToClip } from './pixels.ts';
import { fillGaussian, randomGenerator } from './random.ts';
import { isGuided, samplingGraph } from './sampling-graph.ts';
import { samplerTimes } from './timesteps.ts';
import { tokenise } from './tokeniser.ts';

/** How clips are sampled. */
export const samplerSettingsSchema = z.strictObject({
  /** Denoising steps; more is slower and, up to about 25, better. */
  steps: z.int().min(1).max(1000),
  /** Classifier-free guidance: 1 samples the model as it is, more follows the caption at the price of variety. */
  guidance: z.number().min(0).max(30),
  /** Spends more steps on noisy times; 1 spaces them evenly. */
  shift: z.number().positive().max(100),
});

export type SamplerSettings = z.infer<typeof samplerSettingsSchema>;

/** One clip to sample. */
export interface SampleRequest {
  readonly caption: string;
  /** Of the initial noise: the same model, caption, settings and seed give the same clip bit for bit on one machine. */
  readonly seed: bigint;
  /** Run whose budget pays, where models cost money; nobody's unless given. */
  readonly account?: string;
}

/** A clip that was sampled. */
export type SampledClip = Clip & {
  /** What the decoder made it of, in the layout of the denoiser; models that work on pixels have none. */
  readonly latents?: TypedTensor;
};

/** Anything that makes clips of prompts: the toybox's model, or a pipeline with a text encoder and a decoder. */
export interface ClipSampler {
  /** Shape of the clips. */
  readonly format: ClipShape;
  /** Clips that share a call of the denoiser. */
  readonly batch: number;
  /** @throws PlumbError INVALID_ARGUMENT for a prompt that the model cannot take */
  check(caption: string): void;
  /**
   * Samples any number of clips, in order, with an error in the place of each clip whose values are not finite. Rows of a
   * batch do not see each other, so that one broken clip leaves its neighbours as they are.
   * @throws PlumbError INVALID_ARGUMENT for a prompt that the model cannot take or bad settings
   */
  sampleEach(
    requests: readonly SampleRequest[],
    settings: SamplerSettings,
    options?: { signal?: AbortSignal },
  ): Promise<(SampledClip | PlumbError)[]>;
  /** Frees the model in the engine; the engine stays open. No sampling may be under way. */
  close(): Promise<void>;
}

/** The built-in video model, loaded and ready to sample. */
export interface Sampler extends ClipSampler {
  readonly config: VideoModelConfig;
  /**
   * Samples any number of clips, in order.
   * @throws PlumbError INVALID_ARGUMENT for an unknown word or bad settings, INTERNAL for values that are not finite
   */
  sample(
    requests: readonly SampleRequest[],
    settings: SamplerSettings,
    options?: { signal?: AbortSignal },
  ): Promise<Clip[]>;
}

/** Steps between two looks at the signal and at the values: a clip that travelled with each would cost a tenth of the time. */
const stepsPerCall = 5;

let samplers = 0;

function scalar(value: number): TypedTensor {
  return { dtype: 'float32', shape: [1, 1, 1, 1, 1], data: Float32Array.of(value) };
}

/**
 * A sampler on an engine. Every call of the denoiser has exactly `batch` clips, the last one filled up, so that a
 * clip does not depend on how many others were asked for.
 */
export function openSampler(engine: Engine, model: VideoModel, batch: number): Sampler {
  const { config } = model;
  const sessionName = `${config.name}-${samplers++}`;
  const loaded = new Map<boolean, Promise<string>>();
  const session = (guided: boolean): Promise<string> => {
    const known = loaded.get(guided);
    if (known !== undefined) return known;
    const name = `${sessionName}${guided ? '-guided' : ''}`;
    const opened = engine.load(name, samplingGraph(model, batch, guided)).then(() => name);
    loaded.set(guided, opened);
    return opened;
  };

  const sampleBatch = async (
    requests: readonly SampleRequest[],
    settings: SamplerSettings,
    signal: AbortSignal | undefined,
  ): Promise<(Clip | PlumbError)[]> => {
    const size = clipSize(config);
    const tokens = new Int32Array(batch * config.caption.maxWords);
    let x: Float32Array = new Float32Array(batch * size);
    for (let row = 0; row < batch; row++) {
      // Rows beyond the requests repeat the first.
      const request = requests[row] ?? requests[0];
      if (request === undefined) return [];
      tokens.set(tokenise(config, request.caption), row * config.caption.maxWords);
      fillGaussian(x.subarray(row * size, (row + 1) * size), randomGenerator('sample', request.seed));
    }
    const guided = isGuided(settings.guidance);
    const name = await session(guided);
    const shape = [...clipShape(config, batch)];
    const captions = { dtype: 'int32', shape: [batch, config.caption.maxWords], data: tokens } as const;
    const steps = samplerSteps(config, settings).map(({ time, ...factors }) => ({
      time: { dtype: 'float32' as const, shape: [1, 1], data: Float32Array.of(time) },
      skip: scalar(factors.skip),
      in: scalar(factors.in),
      out: scalar(factors.out),
      keep: scalar(factors.keep),
      move: scalar(factors.move),
      ...(guided ? { guidance: scalar(settings.guidance) } : {}),
    }));
    for (let step = 0; step < steps.length; step += stepsPerCall) {
      signal?.throwIfAborted();
      const { next } = await engine.iterate(
        name,
        { x: { dtype: 'float32', shape, data: x }, tokens: captions },
        { carry: { x: 'next' }, steps: steps.slice(step, step + stepsPerCall) },
      );
      if (next === undefined || !(next.data instanceof Float32Array)) {
        throw new TypeError('the sampling graph gave no float32 output named next');
      }
      x = next.data;
      // What is not finite stays so: with nothing else left the other steps would be spent for nothing.
      const noisy = x;
      if (requests.every((_, row) => !isRowFinite(config, noisy, row))) break;
    }
    return requests.map((_, row) =>
      isRowFinite(config, x, row) ? modelToClip(config, x, row * size) : notFinite(config),
    );
  };

  const sampleEach: Sampler['sampleEach'] = async (requests, settings, options = {}) => {
    const parsed = samplerSettingsSchema.safeParse(settings);
    if (!parsed.success) throw invalidArgument('sampler', z.prettifyError(parsed.error));
    // An unknown word anywhere is found before the first clip is sampled.
    for (const request of requests) tokenise(config, request.caption);
    const clips: (Clip | PlumbError)[] = [];
    for (let start = 0; start < requests.length; start += batch) {
      clips.push(...(await sampleBatch(requests.slice(start, start + batch), parsed.data, options.signal)));
    }
    return clips;
  };

  return {
    config,
    format: config.video,
    batch,
    check(caption) {
      tokenise(config, caption);
    },
    sampleEach,
    async sample(requests, settings, options) {
      const clips = await sampleEach(requests, settings, options);
      return clips.map((clip) => {
        if (clip instanceof PlumbError) throw clip;
        return clip;
      });
    },
    async close() {
      const sessions = await Promise.allSettled(loaded.values());
      loaded.clear();
      for (const opened of sessions) if (opened.status === 'fulfilled') await engine.unload(opened.value);
    },
  };
}

/** The scalar inputs of `samplingGraph` for each step, from noise to clip, besides guidance. */
export function samplerSteps(
  { parameterisation, sigmaData }: VideoModelConfig,
  { steps, shift }: Pick<SamplerSettings, 'steps' | 'shift'>,
): { time: number; skip: number; in: number; out: number; keep: number; move: number }[] {
  const times = samplerTimes(steps, shift);
  return Array.from({ length: steps }, (_, step) => {
    // The preconditioning has no limit at the very ends.
    const time = Math.min(Math.max(times[step] ?? 0, 1e-4), 1 - 1e-4);
    return {
      time,
      ...preconditioning(parameterisation, time, sigmaData),
      ...samplerStep(parameterisation, time, times[step + 1] ?? 0),
    };
  });
}

function isRowFinite(config: VideoModelConfig, x: Float32Array, row: number): boolean {
  const size = clipSize(config);
  for (let i = row * size; i < (row + 1) * size; i++) if (!Number.isFinite(x[i])) return false;
  return true;
}

function notFinite(config: VideoModelConfig): PlumbError {
  return new PlumbError({
    code: 'INTERNAL',
    reason: 'NUMERICS_NOT_FINITE',
    message: `model ${config.name} produced values that are not finite; its weights are damaged or its training diverged`,
  });
}
