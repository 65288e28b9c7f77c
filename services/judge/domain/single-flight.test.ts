import assert from 'node:assert/strict';
import { test } from 'node:test';
import { createSingleFlight } from './single-flight.ts';

const never = new AbortController().signal;

test('identical work in flight is done once, and anew afterwards', async () => {
  const flights = createSingleFlight<number>();
  let runs = 0;
  const gate = Promise.withResolvers<number>();
  const work = (): Promise<number> => {
    runs += 1;
    return gate.promise;
  };
  const both = [flights.run('a', never, work), flights.run('a', never, work), flights.run('b', never, work)];
  gate.resolve(7);
  assert.deepEqual(await Promise.all(both), [7, 7, 7]);
  assert.equal(runs, 2);
  await flights.run('a', never, work);
  assert.equal(runs, 3);
});

test('the work goes on while somebody waits, and is aborted when nobody does', async () => {
  const flights = createSingleFlight<number>();
  const started = Promise.withResolvers<AbortSignal>();
  const work = (signal: AbortSignal): Promise<number> => {
    started.resolve(signal);
    return new Promise((_, reject) => signal.addEventListener('abort', () => reject(signal.reason)));
  };
  const [first, second] = [new AbortController(), new AbortController()];
  const stays = flights.run('a', second.signal, work);
  const leaves = flights.run('a', first.signal, work);
  const signal = await started.promise;
  first.abort(new Error('first left'));
  await assert.rejects(leaves, /first left/);
  assert.equal(signal.aborted, false);
  second.abort(new Error('second left'));
  await assert.rejects(stays, /second left/);
  assert.equal(signal.aborted, true);
});

test('a failure reaches everybody and is not kept', async () => {
  const flights = createSingleFlight<number>();
  const fail = (): Promise<number> => Promise.reject(new Error('broken'));
  const both = await Promise.allSettled([flights.run('a', never, fail), flights.run('a', never, fail)]);
  assert.deepEqual(
    both.map((one) => one.status),
    ['rejected', 'rejected'],
  );
  assert.equal(await flights.run('a', never, () => Promise.resolve(1)), 1);
});
