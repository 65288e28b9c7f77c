import { acceptance, type Estimate } from '@plumb/evaluation';
import { openSampler, randomGenerator, type SamplerSettings, type VideoModel } from '@plumb/diffusion';
import type { Clip } from '@plumb/media';
import type { Engine } from '@plumb/tensor-graph/engine';
import { referee, toyboxPrompts } from '@plumb/toybox';

/** Acceptance of a model on the toybox's held-out prompts. */
export interface Acceptance {
  readonly overall: Estimate;
  readonly perCategory: Readonly<Record<string, Estimate>>;
  /** Share of clips that pass the picture checks. */
  readonly picture: number;
  readonly samples: number;
  /** The clips with their captions, in the order of prompts. */
  readonly clips: readonly { readonly caption: string; readonly clip: Clip; readonly accept: boolean }[];
}

/** Samples every held-out prompt and has the referee judge, without services: for model cards and benchmarks. */
export async function heldOutAcceptance(
  engine: Engine,
  model: VideoModel,
  options: {
    readonly sampler: SamplerSettings;
    readonly samplesPerPrompt: number;
    readonly seed: string;
    readonly batch: number;
    readonly signal?: AbortSignal;
  },
): Promise<Acceptance> {
  const items = toyboxPrompts
    .filter((prompt) => prompt.split === 'heldout')
    .flatMap((prompt) => Array.from({ length: options.samplesPerPrompt }, (_, index) => ({ prompt, index })));
  const sampler = openSampler(engine, model, options.batch);
  const clips = await sampler.sample(
    items.map(({ prompt, index }) => {
      const random = randomGenerator(options.seed, prompt.id, index);
      return {
        caption: prompt.text,
        seed: (BigInt(random.next() >>> 0) << 32n) | BigInt(random.next() >>> 0),
      };
    }),
    options.sampler,
    options.signal === undefined ? {} : { signal: options.signal },
  );
  const verdicts = clips.map((clip, index) => referee(clip, items[index]?.prompt.text ?? ''));
  const { overall, perCategory } = acceptance(
    items.map(({ prompt }, index) => ({
      promptId: prompt.id,
      category: prompt.category,
      value: verdicts[index]?.accept === true,
    })),
    { seed: 1 },
  );
  return {
    overall,
    perCategory,
    picture:
      verdicts.filter(({ checks }) => Object.values(checks.picture).every(({ pass }) => pass)).length /
      verdicts.length,
    samples: clips.length,
    clips: clips.map((clip, index) => ({
      clip,
      caption: items[index]?.prompt.text ?? '',
      accept: verdicts[index]?.accept === true,
    })),
  };
}
