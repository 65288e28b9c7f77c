import { invalidArgument, notFound } from '@plumb/kit/errors';
import type { Clip } from '@plumb/media';
import { captionOf, categories, parseCaption } from './captions.ts';
import type { Category, Event } from './captions.ts';
import { pretrainingEvents, toyboxPrompts } from './prompt-split.ts';
import { seededRandom } from './random.ts';
import type { Random } from './random.ts';
import { draw } from './renderer.ts';
import { play } from './world.ts';
import { describeMeaningful, wrongnessesOf } from './wrongness.ts';
import type { Wrongness } from './wrongness.ts';

/** The picture: 8 frames of 24x24 at 8 frames per second unless told otherwise. */
export type PictureOptions = {
  /** Width and height in pixels, 8 to 1024; default 24. */
  readonly size?: number;
  /** Number of frames, 4 to 256, over the same span of world time; default 8. */
  readonly frames?: number;
  /** Playback rate; default 8. */
  readonly fps?: number;
};

export type ClipRequest = PictureOptions &
  ({ readonly caption: string } | { readonly promptId: string }) & {
    /** Null for a clip that does what the caption says. */
    readonly wrongness: Wrongness | null;
    /** A 32-bit whole number; the same request gives the same bytes. */
    readonly seed: number;
  };

function withinRange(field: string, value: number, low: number, high: number): number {
  if (!Number.isInteger(value) || value < low || value > high) {
    throw invalidArgument(field, `is ${value}; give a whole number from ${low} to ${high}`);
  }
  return value;
}

function renderEvent(
  event: Event,
  wrongness: Wrongness | null,
  random: Random,
  picture: PictureOptions,
): Clip {
  const size = withinRange('size', picture.size ?? 24, 8, 1024);
  const frames = withinRange('frames', picture.frames ?? 8, 4, 256);
  const fps = withinRange('fps', picture.fps ?? 8, 1, 240);
  return draw(play(event, wrongness, random, frames), size, fps);
}

function captionFor(request: ClipRequest): string {
  if ('caption' in request) return request.caption;
  const prompt = toyboxPrompts.find(({ id }) => id === request.promptId);
  if (prompt === undefined) {
    throw notFound('prompt', request.promptId, { fix: 'ids run from toybox/OR/01 to toybox/FD/32' });
  }
  return prompt.text;
}

/**
 * Plays and draws a clip of a caption, right or wrong in the named way. Positions, sizes and speeds vary with the seed.
 *
 * @throws PlumbError INVALID_ARGUMENT for a caption outside the grammar (naming the word), a wrongness that makes no
 * sense for it, or a picture out of range; NOT_FOUND for an unknown prompt id
 */
export function renderClip(request: ClipRequest): Clip {
  const event = parseCaption(captionFor(request));
  if (request.wrongness !== null && !wrongnessesOf(event).includes(request.wrongness)) {
    throw invalidArgument('wrongness', `is "${request.wrongness}", but ${describeMeaningful(event)}`);
  }
  return renderEvent(event, request.wrongness, seededRandom(request.seed), request);
}

/** A clip to pretrain on. */
export type TrainingClip = {
  readonly caption: string;
  readonly category: Category;
  readonly clip: Clip;
  /** What is wrong with it; null when it is right. A model that is pretrained never sees this. */
  readonly wrongness: Wrongness | null;
};

export type TrainingOptions = PictureOptions & {
  /** Share of clips that go wrong, 0..1; default 0.45. More makes a worse model, with more to gain from feedback. */
  readonly wrongShare?: number;
  /** Where captions come from: all that can be said except the held-out prompts (default), or only the held-out ones. */
  readonly split?: 'train' | 'heldout';
  /** How often each category is drawn, relative to the others; default 1 each. */
  readonly categoryWeights?: Readonly<Partial<Record<Category, number>>>;
};

function pickCategory(random: Random, weights: TrainingOptions['categoryWeights']): Category {
  const weighted = categories.map((category) => ({ category, weight: weights?.[category] ?? 1 }));
  const bad = weighted.find(({ weight }) => !(weight >= 0 && Number.isFinite(weight)));
  if (bad !== undefined) {
    throw invalidArgument(`categoryWeights.${bad.category}`, `is ${bad.weight}; give a number of 0 or more`);
  }
  let rest = random.between(
    0,
    weighted.reduce((sum, { weight }) => sum + weight, 0),
  );
  for (const { category, weight } of weighted) {
    if (rest < weight) return category;
    rest -= weight;
  }
  throw invalidArgument('categoryWeights', 'are all 0; give at least one category a weight above 0');
}

/**
 * One draw from the deliberately noisy pretraining distribution: categories by weight, both kinds of event of a category
 * equally often, captions evenly, and a share of clips that do not do what their caption says.
 *
 * @throws PlumbError INVALID_ARGUMENT for options out of range
 */
export function sampleTrainingClip(seed: number, options: TrainingOptions = {}): TrainingClip {
  const wrongShare = options.wrongShare ?? 0.45;
  if (!(wrongShare >= 0 && wrongShare <= 1)) {
    throw invalidArgument('wrongShare', `is ${wrongShare}; give a share from 0 to 1`);
  }
  const random = seededRandom(seed);
  const category = pickCategory(random, options.categoryWeights);
  const event =
    options.split === 'heldout'
      ? parseCaption(
          random.pick(
            toyboxPrompts.filter((prompt) => prompt.category === category && prompt.split === 'heldout'),
          ).text,
        )
      : random.pick(random.pick(pretrainingEvents(category)));
  const wrongness = random.chance(wrongShare) ? random.pick(wrongnessesOf(event)) : null;
  return {
    caption: captionOf(event),
    category,
    wrongness,
    clip: renderEvent(event, wrongness, random, options),
  };
}
