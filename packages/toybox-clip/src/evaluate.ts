/** How good the model is, on captions and clips that it was not trained on. */

import type { Clip } from '@plumb/media';
import { randomGenerator, uniform } from '@plumb/diffusion';
import { allEvents, captionOf, renderClip } from '@plumb/toybox';
import { openInThread } from '@plumb/tensor-graph/engine';
import type { Engine, TypedTensor } from '@plumb/tensor-graph/engine';
import { clipToFrames, clipValues, framesPerClip } from './clip-pixels.ts';
import { heldOutCaptions, preferencePair } from './data.ts';
import { framesPerPass, textOnnx, visionOnnx } from './export.ts';
import { captionTokens } from './tokenizer.ts';
import { size } from './towers.ts';
import type { WeightValues } from './train.ts';

/** Clips of held-out captions that find their caption among all held-out ones. */
export interface RetrievalResult {
  readonly clips: number;
  /** Captions that each clip chooses from. */
  readonly captions: number;
  /** Share whose own caption is first, and among the first five. */
  readonly at1: number;
  readonly at5: number;
}

/** The towers, ready to embed. */
export interface Embedder {
  /** Mean of the frames' unit embeddings. */
  clip(clip: Clip): Promise<Float64Array>;
  /** A unit embedding. */
  text(caption: string): Promise<Float64Array>;
  close(): Promise<void>;
}

/** Opens the exported towers in this thread. */
export async function openEmbedder(values: WeightValues): Promise<Embedder> {
  const engine = openInThread({ intraOpThreads: 1 });
  await engine.load('vision', visionOnnx(values));
  await engine.load('text', textOnnx(values));
  return {
    async clip(clip) {
      const data = new Float32Array((framesPerPass / framesPerClip) * clipValues);
      clipToFrames(clip, data);
      const pixel_values: TypedTensor = {
        dtype: 'float32',
        shape: [framesPerPass, 3, size.picture, size.picture],
        data,
      };
      const rows = await embeddings(engine, 'vision', { pixel_values }, 'image_embeds');
      const mean = new Float64Array(size.width);
      for (let frame = 0; frame < framesPerClip; frame += 1) {
        const row = unitRow(rows, frame);
        for (const [index, value] of row.entries()) mean[index] = (mean[index] ?? 0) + value / framesPerClip;
      }
      return mean;
    },
    async text(caption) {
      const input_ids: TypedTensor = {
        dtype: 'int32',
        shape: [1, size.textLength],
        data: captionTokens(caption, size.textLength),
      };
      return unitRow(await embeddings(engine, 'text', { input_ids }, 'text_embeds'), 0);
    },
    close: () => engine.close(),
  };
}

async function embeddings(
  engine: Engine,
  model: string,
  feeds: Record<string, TypedTensor>,
  output: string,
): Promise<Float32Array> {
  const data = (await engine.run(model, feeds))[output]?.data;
  if (!(data instanceof Float32Array)) throw new TypeError(`${model} gave no ${output}`);
  return data;
}

function unitRow(rows: Float32Array, row: number): Float64Array {
  const values = Float64Array.from(rows.subarray(row * size.width, (row + 1) * size.width));
  const length = Math.hypot(...values);
  return values.map((value) => value / length);
}

function dot(a: Float64Array, b: Float64Array): number {
  return a.reduce((total, value, index) => total + value * (b[index] ?? 0), 0);
}

/** Retrieval among the held-out captions, over clips that do what they say. */
export async function measureRetrieval(
  embedder: Embedder,
  clipsPerCaption: number,
): Promise<RetrievalResult> {
  const texts = await Promise.all(heldOutCaptions.map((caption) => embedder.text(caption)));
  const random = randomGenerator('toybox-clip retrieval');
  let [first, five, clips] = [0, 0, 0];
  for (const [own, caption] of heldOutCaptions.entries()) {
    for (let index = 0; index < clipsPerCaption; index += 1) {
      const clip = renderClip({ caption, wrongness: null, seed: Math.floor(uniform(random) * 2 ** 32) });
      const embedding = await embedder.clip(clip);
      const scores = texts.map((text) => dot(embedding, text));
      const better = scores.filter((score) => score > (scores[own] ?? 0)).length;
      clips += 1;
      if (better < 1) first += 1;
      if (better < 5) five += 1;
    }
  }
  return { clips, captions: heldOutCaptions.length, at1: first / clips, at5: five / clips };
}

/**
 * Share of clips of something pushed that score higher with their own direction in the caption than with the other one.
 * The frames of both directions are the same in another order.
 */
export async function measureDirection(embedder: Embedder, clipsPerCaption: number): Promise<number> {
  const random = randomGenerator('toybox-clip direction');
  let [right, clips] = [0, 0];
  for (const kind of ['push-left', 'push-right'] as const) {
    for (const event of allEvents[kind]) {
      const own = captionOf(event);
      const other = captionOf({ ...event, kind: kind === 'push-left' ? 'push-right' : 'push-left' });
      const [ownText, otherText] = [await embedder.text(own), await embedder.text(other)];
      for (let index = 0; index < clipsPerCaption; index += 1) {
        const seed = Math.floor(uniform(random) * 2 ** 32);
        const embedding = await embedder.clip(renderClip({ caption: own, wrongness: null, seed }));
        clips += 1;
        if (dot(embedding, ownText) > dot(embedding, otherText)) right += 1;
      }
    }
  }
  return right / clips;
}

/** Share of held-out pairs whose accepted clip has the higher score. */
export async function measurePreference(embedder: Embedder, pairs: number): Promise<number> {
  let right = 0;
  for (let index = 0; index < pairs; index += 1) {
    const { caption, accepted, rejected } = preferencePair('heldout', 'toybox-clip evaluation', index);
    const text = await embedder.text(caption);
    const [good, bad] = [await embedder.clip(accepted), await embedder.clip(rejected)];
    if (dot(good, text) > dot(bad, text)) right += 1;
  }
  return right / pairs;
}
