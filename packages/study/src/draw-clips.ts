import { openSampler, randomGenerator } from '@plumb/diffusion';
import type { SamplerSettings, VideoModel } from '@plumb/diffusion';
import type { Clip } from '@plumb/media';
import type { Prompt } from '@plumb/prompts';
import type { Engine } from '@plumb/tensor-graph/engine';

/** Clips that share a call of the denoiser, as in the generator service. */
const batch = 8;

/** A clip with the prompt it was drawn for. */
export interface DrawnClip<Asked extends Prompt = Prompt> {
  readonly prompt: Asked;
  /** From 0, within the prompt. */
  readonly index: number;
  readonly clip: Clip;
}

/**
 * Draws the same number of clips for every prompt. Equal seeds give equal noise for every model, so that differences
 * between models are paired.
 */
export async function drawClips<Asked extends Prompt>(
  engine: Engine,
  model: VideoModel,
  options: {
    readonly prompts: readonly Asked[];
    readonly samplesPerPrompt: number;
    readonly sampler: SamplerSettings;
    readonly seed: string;
    readonly signal?: AbortSignal;
  },
): Promise<DrawnClip<Asked>[]> {
  const { prompts, samplesPerPrompt, sampler: settings, seed, signal } = options;
  const wanted = prompts.flatMap((prompt) =>
    Array.from({ length: samplesPerPrompt }, (_, index) => ({ prompt, index })),
  );
  const sampler = openSampler(engine, model, batch);
  try {
    const clips = await sampler.sample(
      wanted.map(({ prompt, index }) => {
        const random = randomGenerator(seed, prompt.id, index);
        return {
          caption: prompt.text,
          seed: (BigInt(random.next() >>> 0) << 32n) | BigInt(random.next() >>> 0),
        };
      }),
      settings,
      signal === undefined ? {} : { signal },
    );
    return wanted.flatMap((item, place) => {
      const clip = clips[place];
      return clip === undefined ? [] : [{ ...item, clip }];
    });
  } finally {
    await sampler.close();
  }
}
