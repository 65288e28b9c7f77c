// Against Hugging Face transformers and Pillow: parity/clip_fixture.py made what is compared with.

import assert from 'node:assert/strict';
import { createHash } from 'node:crypto';
import { cp, mkdtemp, readFile, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { test } from 'node:test';
import type { Clip } from '@plumb/media';
import { openInThread } from '@plumb/tensor-graph/engine';
import { readOnnxFile } from '@plumb/tensor-graph/onnx-file';
import { changeWeights } from '@plumb/tensor-graph/onnx-weights';
import { openClipReward } from './clip-family.ts';
import { parseRewardDefinition } from './definition.ts';
import type { DefinitionOf, ImagePreprocessing } from './definition.ts';
import { preprocess, preprocessingOf } from './preprocess.ts';
import { hashFile } from './read-definitions.ts';
import { resample } from './resample.ts';
import type { Picture } from './resample.ts';
import type { RewardInput, RewardModule } from './reward.ts';
import { openTokeniser } from '@plumb/tokeniser';

interface Expected {
  readonly maxLength: number;
  readonly size: number;
  readonly logitScale: number;
  readonly frames: readonly { readonly width: number; readonly height: number }[];
  readonly prompts: readonly string[];
  readonly tokens: readonly (readonly number[])[];
  /** One row a frame, one column a prompt. */
  readonly scores: readonly (readonly number[])[];
  readonly resized: readonly {
    readonly frame: number;
    readonly filter: ImagePreprocessing['interpolation'];
    readonly width: number;
    readonly height: number;
    readonly sha256: string;
  }[];
}

const folder = fileURLToPath(new URL('../fixtures/clip', import.meta.url));
const file = (name: string): Promise<Buffer> => readFile(join(folder, name));
const expected = JSON.parse((await file('expected.json')).toString('utf8')) as Expected;
const rgb = await file('frames.rgb');
const frames: readonly Picture[] = expected.frames.map(({ width, height }, index) => {
  const before = expected.frames.slice(0, index).reduce((sum, one) => sum + one.width * one.height * 3, 0);
  return { width, height, data: rgb.subarray(before, before + width * height * 3) };
});
/** Token of the end, with which CLIP fills up. */
const endId = expected.tokens[0]?.at(-1) ?? 0;
const hash = (bytes: Uint8Array): string => createHash('sha256').update(bytes).digest('hex');

/** A definition over the fixture; `one-file` is the export with both towers. */
async function definitionOf(
  layout: 'two-files' | 'one-file',
  { padded = false, ...changes }: Readonly<Record<string, unknown>> & { readonly padded?: boolean } = {},
): Promise<DefinitionOf<'clip-score'>> {
  const reference = async (name: string) => ({ file: name, sha256: hash(await file(name)) });
  const both = layout === 'one-file';
  const definition = parseRewardDefinition(
    {
      format: 1,
      kind: 'clip-score',
      name: 'clip_score',
      version: '1',
      description: 'fixture',
      model: {
        vision: await reference(both ? 'both.onnx' : 'vision.onnx'),
        text: { ...(await reference(both ? 'both.onnx' : 'text.onnx')), mask: 'attention_mask' },
      },
      tokenizer: {
        ...(await reference('tokenizer.json')),
        maxLength: expected.maxLength,
        ...(padded ? { padId: endId } : {}),
      },
      image: await reference('preprocessor_config.json'),
      logitScale: expected.logitScale,
      framesPerPass: 4,
      ...changes,
    },
    'fixture',
  );
  assert.ok(definition.kind === 'clip-score');
  return definition;
}

async function open(definition: DefinitionOf<'clip-score'>): Promise<RewardModule> {
  return openClipReward(definition, folder, openInThread({ intraOpThreads: 1 }));
}

function clipOf(picture: Picture): Clip {
  return { frames: 1, fps: 8, ...picture, data: new Uint8Array(picture.data) };
}

/** Every frame, as a clip of its own, with every prompt. */
const everything: readonly RewardInput[] = frames.flatMap((frame) =>
  expected.prompts.map((prompt) => ({ clip: clipOf(frame), prompt })),
);

async function valuesOf(reward: RewardModule, inputs: readonly RewardInput[]): Promise<number[]> {
  return (await reward.score(inputs)).map((result) => {
    if ('error' in result) throw result.error;
    return result.score.value;
  });
}

test('resizing gives the bytes of Pillow, for every filter and all sizes', () => {
  for (const { frame, filter, width, height, sha256 } of expected.resized) {
    const picture = frames[frame];
    assert.ok(picture !== undefined);
    const { data } = resample(picture, width, height, filter);
    assert.equal(hash(data), sha256, `${filter} of ${picture.width}x${picture.height} to ${width}x${height}`);
  }
});

test('preprocessed pixels are those of CLIPImageProcessor', async () => {
  const settings = preprocessingOf(await file('preprocessor_config.json'), 'preprocessor_config.json');
  const bytes = await file('pixels.f32');
  const reference = new Float32Array(new Uint8Array(bytes).buffer);
  const size = 3 * expected.size ** 2;
  const ours = new Float32Array(frames.length * size);
  for (const [index, frame] of frames.entries()) preprocess(frame, settings, ours, index * size);
  const worst = ours.reduce(
    (most, value, index) => Math.max(most, Math.abs(value - (reference[index] ?? NaN))),
    0,
  );
  assert.ok(worst < 1e-6, `largest difference ${worst}`);
});

test('tokens are those of the reference, for long prompts and all of Unicode', async () => {
  const tokenise = openTokeniser(await file('tokenizer.json'), 'tokenizer.json', {
    maxLength: expected.maxLength,
  });
  for (const [index, prompt] of expected.prompts.entries()) {
    assert.deepEqual(tokenise(prompt).ids, expected.tokens[index], prompt);
  }
});

for (const [name, layout, changes] of [
  ['two files', 'two-files', {}],
  ['one file with both towers', 'one-file', {}],
  ['prompts filled up', 'two-files', { padded: true }],
] as const) {
  test(`scores are those of transformers to 1e-4: ${name}`, async () => {
    const reward = await open(await definitionOf(layout, changes));
    const values = await valuesOf(reward, everything);
    await reward.close();
    const reference = expected.scores.flat();
    assert.equal(values.length, reference.length);
    // The scores are cosines times 100; 1e-4 is of the scaled value.
    const worst = values.reduce(
      (most, value, index) => Math.max(most, Math.abs(value - (reference[index] ?? NaN))),
      0,
    );
    assert.ok(worst <= 1e-4, `largest difference ${worst}`);
    assert.ok(
      Math.max(...reference) - Math.min(...reference) > 10,
      'the scores differ enough to be compared',
    );
  });
}

test('a value does not depend on the company or the order, to the last bit', async () => {
  const reward = await open(await definitionOf('two-files'));
  const whole = await valuesOf(reward, everything);
  const order = everything.map((_, index) => (index * 31) % everything.length);
  const shuffled = await valuesOf(
    reward,
    order.map((index) => everything[index] as RewardInput),
  );
  assert.deepEqual(
    shuffled,
    order.map((index) => whole[index]),
  );
  for (const index of [0, 17, everything.length - 1]) {
    assert.deepEqual(await valuesOf(reward, [everything[index] as RewardInput]), [whole[index]]);
  }
  await reward.close();
});

test('one clip that cannot be scored leaves the others alone', async () => {
  const reward = await open(await definitionOf('two-files', { fps: 8 }));
  const [first, second] = everything as [RewardInput, RewardInput];
  const slow = { ...first, clip: { ...first.clip, fps: 4 } };
  const [good, bad, fine] = await reward.score([first, slow, second]);
  await reward.close();
  assert.ok(good !== undefined && 'score' in good);
  assert.ok(bad !== undefined && 'error' in bad && bad.error.reason === 'CLIP_MISMATCH');
  assert.ok(fine !== undefined && 'score' in fine);
});

test('towers with their weights in files of their own give the same scores, and other weights are refused', async (t) => {
  const elsewhere = await mkdtemp(join(tmpdir(), 'plumb-clip-weights-'));
  t.after(() => rm(elsewhere, { recursive: true }));
  await cp(folder, elsewhere, { recursive: true });
  const reference = async (name: string) => ({ file: name, sha256: await hashFile(join(elsewhere, name)) });
  const tower = async (name: string) => {
    const { weights } = await readOnnxFile(join(folder, `${name}.onnx`));
    const floats = [...weights].filter(([, { dtype, shape }]) => dtype === 'float32' && shape.length > 1);
    const same = new Map(floats.map(([weight]) => [weight, (values: Float32Array) => values]));
    const outside = `${name}-outside.onnx`;
    await changeWeights(join(folder, `${name}.onnx`), same, join(elsewhere, outside));
    return { ...(await reference(outside)), weights: await reference(`${outside}.changed.data`) };
  };
  const model = { vision: await tower('vision'), text: { ...(await tower('text')), mask: 'attention_mask' } };
  const inside = await open(await definitionOf('two-files'));
  const definition = await definitionOf('two-files', { model });
  const outside = await openClipReward(definition, elsewhere, openInThread({ intraOpThreads: 1 }));
  const inputs = everything.slice(0, 12);
  const [one, other] = [await valuesOf(inside, inputs), await valuesOf(outside, inputs)];
  for (const [index, value] of one.entries()) {
    assert.ok(Math.abs(value - (other[index] ?? Number.NaN)) < 1e-4, `${value} and ${other[index]}`);
  }
  await Promise.all([inside.close(), outside.close()]);

  const data = join(elsewhere, model.vision.weights.file);
  const bytes = await readFile(data);
  bytes[0] = (bytes[0] ?? 0) ^ 1;
  await writeFile(data, bytes);
  await assert.rejects(openClipReward(definition, elsewhere, openInThread({ intraOpThreads: 1 })), {
    code: 'DATA_LOSS',
    reason: 'MODEL_CORRUPT',
  });
});
