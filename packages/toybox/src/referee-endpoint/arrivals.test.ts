import assert from 'node:assert/strict';
import { test } from 'node:test';
import { mostWithin } from './arrivals.ts';

test('the fullest window is found wherever it begins', () => {
  const arrivals = [0, 900, 1000, 1800, 1899, 5000].map((at) => ({ at, picture: '', tokens: at }));
  assert.equal(mostWithin(arrivals.toReversed(), 1000), 4, 'from 900 to 1899');
  assert.equal(mostWithin(arrivals, 999), 3, 'the end is not in it');
  assert.equal(
    mostWithin(arrivals, 1000, ({ tokens }) => tokens),
    900 + 1000 + 1800 + 1899,
  );
  assert.equal(mostWithin([], 1000), 0);
});
