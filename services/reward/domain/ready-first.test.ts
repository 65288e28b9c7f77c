import assert from 'node:assert/strict';
import { test } from 'node:test';
import { readyFirst } from './ready-first.ts';

/** A source that counts what was read of it. */
function source(count: number) {
  const state = { read: 0, ended: false };
  async function* numbers() {
    try {
      for (let index = 0; index < count; index += 1) {
        state.read += 1;
        yield await Promise.resolve(index);
      }
    } finally {
      state.ended = true;
    }
  }
  return { state, numbers: numbers() };
}

test('results come as they are ready, all of them, once', async () => {
  const gates = Array.from({ length: 5 }, () => Promise.withResolvers<undefined>());
  const seen: number[] = [];
  for (const index of [4, 2]) gates[index]?.resolve(undefined);
  for await (const result of readyFirst(source(5).numbers, 5, async (index) => {
    await gates[index]?.promise;
    return index;
  })) {
    seen.push(result);
    if (seen.length === 2) for (const gate of gates) gate.resolve(undefined);
  }
  assert.deepEqual(
    seen.slice(0, 2).toSorted((a, b) => a - b),
    [2, 4],
  );
  assert.deepEqual(
    seen.toSorted((a, b) => a - b),
    [0, 1, 2, 3, 4],
  );
});

test('no more is read than there is room for', async () => {
  const { state, numbers } = source(100);
  const gate = Promise.withResolvers<undefined>();
  const results = readyFirst(numbers, 3, async (index) => {
    if (index > 0) await gate.promise;
    return index;
  });
  await results.next();
  // One is done and three more may be at work.
  assert.ok(state.read <= 4, `${state.read}`);
  gate.resolve(undefined);
  await results.return(undefined);
  assert.equal(state.ended, true, 'a reader that leaves ends the source');
});

test('an error ends it', async () => {
  const failing = readyFirst(source(3).numbers, 2, () => Promise.reject(new Error('broken')));
  await assert.rejects(async () => {
    for await (const _ of failing) assert.fail('there is no result');
  }, /broken/);
});
