import assert from 'node:assert/strict';
import { test } from 'node:test';
import { setImmediate as turn } from 'node:timers/promises';
import fc from 'fast-check';
import { createRoom } from './room.ts';

const never = new AbortController().signal;

test('whoever finds no room waits for it in turn, and one who leaves holds nobody up', async () => {
  const room = createRoom(10);
  const first = await room.take(6, never);
  const order: string[] = [];
  const left = new AbortController();
  const second = room.take(8, left.signal).catch((error: unknown) => {
    order.push(`left: ${String(error)}`);
  });
  const third = (async () => {
    await room.take(4, never);
    order.push('third');
  })();
  await turn();
  assert.deepEqual(order, [], 'the third fits and does not overtake');
  left.abort('gone');
  await second;
  await third;
  assert.deepEqual(new Set(order), new Set(['left: gone', 'third']));
  first[Symbol.dispose]();
  first[Symbol.dispose]();
  const rest = await room.take(6, never);
  rest.resize(0);
  await room.take(6, never);
});

test('what needs more than there is gets all of it, and a share that grew is missing to the next', async () => {
  const room = createRoom(10);
  const all = await room.take(1000, never);
  let came = false;
  const next = room.take(1, never).then((share) => {
    came = true;
    return share;
  });
  await turn();
  assert.equal(came, false);
  all.resize(9);
  const small = await next;
  small.resize(30);
  all[Symbol.dispose]();
  let again = false;
  const last = (async () => {
    await room.take(1, never);
    again = true;
  })();
  await turn();
  assert.equal(again, false);
  small[Symbol.dispose]();
  await last;
});

test('never more than there is, and everybody gets in', async () => {
  await fc.assert(
    fc.asyncProperty(fc.array(fc.integer({ min: 0, max: 12 }), { maxLength: 50 }), async (sizes) => {
      const room = createRoom(10);
      let held = 0;
      let served = 0;
      await Promise.all(
        sizes.map(async (size) => {
          using _ = await room.take(size, never);
          const counted = Math.min(size, 10);
          held += counted;
          assert.ok(held <= 10);
          await Promise.resolve();
          held -= counted;
          served += 1;
        }),
      );
      assert.equal(served, sizes.length);
    }),
  );
});
