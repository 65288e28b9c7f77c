import assert from 'node:assert/strict';
import { test } from 'node:test';
import { asCompleted } from './as-completed.ts';

test('values come in the order in which they are done', async () => {
  const [a, b, c] = [
    Promise.withResolvers<string>(),
    Promise.withResolvers<string>(),
    Promise.withResolvers<string>(),
  ];
  const values = asCompleted([a.promise, b.promise, c.promise]);
  b.resolve('b');
  assert.equal((await values.next()).value, 'b');
  c.resolve('c');
  assert.equal((await values.next()).value, 'c');
  a.resolve('a');
  assert.equal((await values.next()).value, 'a');
  assert.equal((await values.next()).done, true);
});

test('the first rejection is thrown and later ones are nobody’s', async () => {
  const [a, b] = [Promise.withResolvers<string>(), Promise.withResolvers<string>()];
  const values = asCompleted([a.promise, b.promise]);
  b.reject(new Error('first'));
  await assert.rejects(values.next(), /first/);
  a.reject(new Error('second'));
});
