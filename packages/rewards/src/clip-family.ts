/** Rewards by cosine of picture and prompt: CLIP score, and the preference models HPSv2 and PickScore. */

import { LRUCache } from 'lru-cache';
import { PlumbError, dataLoss } from '@plumb/kit/errors';
import { frameOf } from '@plumb/media';
import type { Engine, TypedTensor } from '@plumb/tensor-graph/engine';
import type { DefinitionOf, FileReference, ImagePreprocessing, ModelReference } from './definition.ts';
import { asFloat32 } from './float16.ts';
import { framesToScore } from './frames.ts';
import { outputSize, preprocess, preprocessingOf } from './preprocess.ts';
import { readModel, readReferenced } from './read-definitions.ts';
import type { Picture } from './resample.ts';
import type { RewardInput, RewardModule, RewardResult } from './reward.ts';
import { openTokeniser } from '@plumb/tokeniser';
import type { Tokens } from '@plumb/tokeniser';

type Definition = DefinitionOf<'clip-score' | 'preference'>;

/** Text embeddings that are kept. 4,096 of 1,024 numbers are 32 MiB. */
const rememberedTexts = 4096;

/** A unit vector. */
type Embedding = Float64Array;

/**
 * A reward of the CLIP family.
 *
 * The value is logitScale times the mean over the sampled frames of the cosine between frame and prompt; `detail`
 * `frame_minimum` and `frame_maximum` are its extremes over frames.
 *
 * @param folder where the paths of the definition start
 * @throws PlumbError DATA_LOSS for a model, tokeniser or preprocessor settings that cannot be read
 */
export async function openClipReward(
  definition: Definition,
  folder: string,
  engine: Engine,
): Promise<RewardModule> {
  const { model, tokenizer, logitScale, framesPerPass } = definition;
  const read = (file: FileReference): Promise<Uint8Array> => readReferenced(folder, file);
  const load = async (name: string, file: ModelReference): Promise<void> => {
    const { bytes, weightsFolder } = await readModel(folder, file);
    await engine.load(name, bytes, {
      device: model.device ?? 'cpu',
      ...(weightsFolder === undefined ? {} : { weightsFolder }),
    });
  };
  const image = await imageSettings(definition, read);
  const picture = outputSize(image);
  if (picture === undefined) {
    throw dataLoss(
      `reward '${definition.name}': image has no crop, so that pictures would differ in size; add one`,
    );
  }
  const tokenise = openTokeniser(await read(tokenizer), tokenizer.file, tokenizer);
  const together = model.vision.sha256 === model.text.sha256;
  await load('vision', model.vision);
  if (!together) await load('text', model.text);
  const textModel = together ? 'vision' : 'text';
  const frameSize = 3 * picture.width * picture.height;
  const texts = new LRUCache<string, Promise<Embedding>>({ max: rememberedTexts });

  function pixelTensor(frames: number, data = new Float32Array(frames * frameSize)): TypedTensor {
    const shape = [frames, 3, picture?.height ?? 0, picture?.width ?? 0];
    return model.vision.inputType === 'float16'
      ? { dtype: 'float16', shape, data: new Uint16Array(Float16Array.from(data).buffer) }
      : { dtype: 'float32', shape, data };
  }

  function tokenFeeds({ ids, mask }: Tokens): Record<string, TypedTensor> {
    const tensor = (values: readonly number[]): TypedTensor =>
      model.text.inputType === 'int64'
        ? { dtype: 'int64', shape: [1, values.length], data: BigInt64Array.from(values, BigInt) }
        : { dtype: 'int32', shape: [1, values.length], data: Int32Array.from(values) };
    return {
      [model.text.input]: tensor(ids),
      ...(model.text.mask === undefined ? {} : { [model.text.mask]: tensor(mask) }),
    };
  }

  /** A file with both towers wants all of its inputs; what the other tower makes of these is not asked for. */
  const idleTokens = together ? tokenFeeds(tokenise('')) : {};
  const idlePixels = together ? { [model.vision.input]: pixelTensor(1) } : {};

  async function embedText(prompt: string): Promise<Embedding> {
    const { output } = model.text;
    const result = await engine.run(textModel, { ...tokenFeeds(tokenise(prompt)), ...idlePixels }, [output]);
    return unitRow(rowsOf(result, output, 1, definition.name), 1, 0);
  }

  function textOf(prompt: string): Promise<Embedding> {
    const known = texts.get(prompt);
    if (known !== undefined) return known;
    const made = embedText(prompt);
    texts.set(prompt, made);
    // A failure is not remembered: the next one who asks tries again.
    made.catch(() => texts.delete(prompt));
    return made;
  }

  /** Unit embeddings of frames. Every pass is as large as every other, so that its bits do not depend on its company. */
  async function embedFrames(frames: readonly Picture[]): Promise<Embedding[]> {
    const found: Embedding[] = [];
    const { output } = model.vision;
    for (let start = 0; start < frames.length; start += framesPerPass) {
      const pass = frames.slice(start, start + framesPerPass);
      const pixels = new Float32Array(framesPerPass * frameSize);
      for (const [row, frame] of pass.entries()) preprocess(frame, image, pixels, row * frameSize);
      const tensor = pixelTensor(framesPerPass, pixels);
      const result = await engine.run('vision', { [model.vision.input]: tensor, ...idleTokens }, [output]);
      const rows = rowsOf(result, output, framesPerPass, definition.name);
      for (const row of pass.keys()) found.push(unitRow(rows, framesPerPass, row));
    }
    return found;
  }

  return {
    async score(inputs) {
      const prepared = inputs.map((input) => prepare(definition, input));
      const frames = prepared.flatMap((one) => ('pictures' in one ? one.pictures : []));
      const embedded = await embedFrames(frames);
      let next = 0;
      const results: RewardResult[] = [];
      for (const [index, one] of prepared.entries()) {
        if ('error' in one) {
          results.push(one);
          continue;
        }
        const own = embedded.slice(next, next + one.pictures.length);
        next += one.pictures.length;
        try {
          const text = await textOf(inputs[index]?.prompt ?? '');
          const cosines = own.map((frame) => logitScale * dot(frame, text));
          results.push({
            score: {
              value: cosines.reduce((total, cosine) => total + cosine, 0) / cosines.length,
              details: { frame_minimum: Math.min(...cosines), frame_maximum: Math.max(...cosines) },
            },
          });
        } catch (error) {
          results.push({ error: PlumbError.from(error) });
        }
      }
      return results;
    },
    close: () => engine.close(),
  };
}

/** The frames of one input, or why it cannot be scored. */
function prepare(
  definition: Definition,
  { clip }: RewardInput,
): { readonly pictures: readonly Picture[] } | { readonly error: PlumbError } {
  try {
    const { width, height } = clip;
    const pictures = framesToScore(definition, clip).map((index) => ({
      width,
      height,
      data: frameOf(clip, index),
    }));
    return { pictures };
  } catch (error) {
    return { error: PlumbError.from(error) };
  }
}

async function imageSettings(
  { image }: Definition,
  read: (file: FileReference) => Promise<Uint8Array>,
): Promise<ImagePreprocessing> {
  return 'file' in image ? preprocessingOf(await read(image), image.file) : image;
}

/** The rows of a model's output, as they are. */
function rowsOf(
  result: Readonly<Record<string, TypedTensor>>,
  output: string,
  rows: number,
  reward: string,
): Float32Array {
  const tensor = result[output];
  const values = asFloat32(tensor);
  if (values === undefined || tensor?.shape.length !== 2 || tensor.shape[0] !== rows) {
    throw dataLoss(
      `reward '${reward}': output ${output} is ${tensor?.dtype ?? 'missing'} [${tensor?.shape.join(', ') ?? ''}]; ` +
        `embeddings are float32 or float16 [${rows}, width]`,
      { reason: 'MODEL_CORRUPT' },
    );
  }
  return values;
}

function unitRow(rows: Float32Array, count: number, row: number): Embedding {
  const width = rows.length / count;
  const values = Float64Array.from(rows.subarray(row * width, (row + 1) * width));
  const length = Math.sqrt(dot(values, values));
  return values.map((value) => value / length);
}

function dot(a: Embedding, b: Embedding): number {
  let sum = 0;
  for (const [index, value] of a.entries()) sum += value * (b[index] ?? 0);
  return sum;
}
