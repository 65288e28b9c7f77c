import assert from 'node:assert/strict';
import { test } from 'node:test';
import { shapeRewards } from './shaping.ts';

const groups = ['a', 'a', 'a', 'b', 'b'];

test('eta scales and gamma shifts: eta (r - gamma)', () => {
  assert.deepEqual(
    shapeRewards([1, 2, 3, 4, 5], groups, { standardise: 'none', eta: 2, gamma: 1 }),
    [0, 2, 4, 6, 8],
  );
});

test('a negative eta turns a cost into a reward, and clipping comes last', () => {
  assert.deepEqual(
    shapeRewards([1, 2, 3.5, 4, 5], groups, { standardise: 'none', eta: -1, gamma: 3, clip: [-1, 1] }),
    [1, 1, -0.5, -1, -1],
  );
});

test('per-prompt standardisation: mean 0 and deviation 1 within a prompt, 0 without spread', () => {
  assert.deepEqual(
    shapeRewards([1, 2, 3, 0.1, 0.1], groups, { standardise: 'per-prompt', eta: 1, gamma: 0 }),
    [-1, 0, 1, 0, 0],
  );
});

test('a prompt with a single sample standardises to 0', () => {
  assert.deepEqual(shapeRewards([7], ['a'], { standardise: 'per-prompt', eta: 1, gamma: 0 }), [0]);
});
