import assert from 'node:assert/strict';
import { test } from 'node:test';
import { PlumbError } from '@plumb/kit/errors';
import { smallConfig } from './testing-model.ts';
import { tokenise } from './tokeniser.ts';

test('words become tokens in order, whatever their case and punctuation', () => {
  assert.deepEqual([...tokenise(smallConfig, 'The red ball.')], [5, 4, 1, 0]);
  assert.deepEqual([...tokenise(smallConfig, '')], [0, 0, 0, 0]);
});

test('an unknown word is named, with the words that are known', () => {
  assert.throws(
    () => tokenise(smallConfig, 'the red elephant falls'),
    (error: unknown) =>
      error instanceof PlumbError &&
      error.code === 'INVALID_ARGUMENT' &&
      /"elephant".*ball blue falls/.test(error.message),
  );
});

test('a caption that is too long is refused, not cut', () => {
  assert.throws(() => tokenise(smallConfig, 'the red ball the blue ball'), /6 words.*at most 4/);
});
