/** Batches of rendered clips: every clip is fresh, and follows from the seed and the number of the step alone. */

import type { Clip } from '@plumb/media';
import { randomGenerator, uniform } from '@plumb/diffusion';
import {
  captionOf,
  categories,
  parseCaption,
  pretrainingEvents,
  referee,
  renderClip,
  toyboxPrompts,
  wrongnessesOf,
} from '@plumb/toybox';
import { clipToFrames, clipValues } from './clip-pixels.ts';
import { captionTokens } from './tokenizer.ts';
import { size } from './towers.ts';

/** Captions that may be trained on: all that can be said but the held-out prompts, by kind of event. */
const trainingKinds: readonly (readonly string[])[] = categories.flatMap((category) =>
  pretrainingEvents(category).map((events) => events.map((event) => captionOf(event))),
);

/** The held-out prompts, on which the model is measured. */
export const heldOutCaptions: readonly string[] = toyboxPrompts
  .filter(({ split }) => split === 'heldout')
  .map(({ text }) => text);

/** Draws from a stream of its own for each purpose and place. */
class Draws {
  readonly #random;
  constructor(...parts: readonly (string | number)[]) {
    this.#random = randomGenerator(...parts);
  }
  below(limit: number): number {
    return Math.floor(uniform(this.#random) * limit);
  }
  seed(): number {
    return this.below(2 ** 32);
  }
  pick<T>(list: readonly T[]): T {
    const found = list[this.below(list.length)];
    if (found === undefined) throw new TypeError('nothing to pick from');
    return found;
  }
}

/** Clips with their captions, as inputs of `contrastiveGraph`. */
export interface ContrastiveBatch {
  readonly frames: Float32Array;
  readonly tokens: Int32Array;
}

/** Clips that do what their captions say, every kind of event equally often; no caption is there twice. */
export function contrastiveBatch(seed: string, step: number, batch: number): ContrastiveBatch {
  const draws = new Draws(seed, 'contrastive', step);
  const frames = new Float32Array(batch * clipValues);
  const tokens = new Int32Array(batch * size.textLength);
  const taken = new Set<string>();
  while (taken.size < batch) {
    const caption = draws.pick(draws.pick(trainingKinds));
    if (taken.has(caption)) continue;
    const row = taken.size;
    taken.add(caption);
    const clip = renderClip({ caption, wrongness: null, seed: draws.seed() });
    clipToFrames(clip, frames.subarray(row * clipValues, (row + 1) * clipValues));
    tokens.set(captionTokens(caption, size.textLength), row * size.textLength);
  }
  return { frames, tokens };
}

/** A caption with a clip that the referee accepts for it and one that it rejects. */
export interface PreferencePair {
  readonly caption: string;
  readonly accepted: Clip;
  readonly rejected: Clip;
}

/** Share of rejected clips that show another caption, the rest do their own wrongly. */
const otherCaptionShare = 0.25;

/** A pair whose caption comes from the training captions, or from the held-out ones. */
export function preferencePair(split: 'train' | 'heldout', seed: string, index: number): PreferencePair {
  const draws = new Draws(seed, 'preference', split, index);
  const caption = split === 'train' ? draws.pick(draws.pick(trainingKinds)) : draws.pick(heldOutCaptions);
  const wrongnesses = wrongnessesOf(parseCaption(caption));
  const judged = (accept: boolean): Clip => {
    // The referee agrees with the renderer 99 times in 100, so this ends soon.
    for (;;) {
      const another = !accept && draws.below(1000) < otherCaptionShare * 1000;
      const shown = another ? draws.pick(draws.pick(trainingKinds)) : caption;
      const wrongness = accept || another ? null : draws.pick(wrongnesses);
      const clip = renderClip({ caption: shown, wrongness, seed: draws.seed() });
      if (referee(clip, caption).accept === accept) return clip;
    }
  };
  return { caption, accepted: judged(true), rejected: judged(false) };
}

/** Pairs as inputs of `preferenceGraph`. */
export interface PreferenceBatch {
  readonly accepted: Float32Array;
  readonly rejected: Float32Array;
  readonly tokens: Int32Array;
}

/** The training pairs of a step. */
export function preferenceBatch(seed: string, step: number, batch: number): PreferenceBatch {
  const accepted = new Float32Array(batch * clipValues);
  const rejected = new Float32Array(batch * clipValues);
  const tokens = new Int32Array(batch * size.textLength);
  for (let row = 0; row < batch; row += 1) {
    const pair = preferencePair('train', seed, step * batch + row);
    const [start, end] = [row * clipValues, (row + 1) * clipValues];
    clipToFrames(pair.accepted, accepted.subarray(start, end));
    clipToFrames(pair.rejected, rejected.subarray(start, end));
    tokens.set(captionTokens(pair.caption, size.textLength), row * size.textLength);
  }
  return { accepted, rejected, tokens };
}
