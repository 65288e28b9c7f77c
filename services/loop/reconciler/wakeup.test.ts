import assert from 'node:assert/strict';
import { describe, test } from 'node:test';
import { RunChanges } from './changes.ts';
import { Wakeup } from './wakeup.ts';

// Longer than any test may take: a wait that ends did not end by its time.
const forEver = 600_000;
const never = new AbortController().signal;

describe('wakeup', () => {
  test('a ring ends the wait', async () => {
    const wakeup = new Wakeup();
    const waiting = wakeup.wait(forEver, never);
    wakeup.ring();
    await waiting;
  });

  test('rings before a wait end it at once, and only it', async () => {
    const wakeup = new Wakeup();
    wakeup.ring();
    wakeup.ring();
    await wakeup.wait(forEver, never);
    const second = wakeup.wait(forEver, never);
    const turn = new Promise((resolve) => setImmediate(resolve, 'nothing happened'));
    assert.equal(await Promise.race([second, turn]), 'nothing happened');
    wakeup.ring();
    await second;
  });

  test('an abort ends the wait, and time does', async () => {
    const controller = new AbortController();
    const waiting = new Wakeup().wait(forEver, controller.signal);
    controller.abort();
    await waiting;
    await new Wakeup().wait(forEver, controller.signal);
    await new Wakeup().wait(1, never);
  });
});

describe('changes of a run', () => {
  test('a watcher gets the first state, and one look for many changes', async () => {
    const changes = new RunChanges();
    const controller = new AbortController();
    const watch = changes.watch('run', 1, controller.signal);
    assert.equal((await watch.next()).done, false);
    const next = watch.next();
    for (let change = 0; change < 5; change += 1) changes.notify('run');
    assert.equal((await next).done, false);
    const last = watch.next();
    changes.notify('another run');
    controller.abort();
    assert.equal((await last).done, true);
  });
});
