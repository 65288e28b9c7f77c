import assert from 'node:assert/strict';
import { test } from 'node:test';
import fc from 'fast-check';
import { createRateWindow } from './rate-window.ts';

test('in no minute more arrives than is allowed, however long each call travels up to a second', () => {
  const demands = fc.array(
    fc.record({ gap: fc.nat(20_000), units: fc.integer({ min: 1, max: 5 }), travel: fc.nat(999) }),
    {
      minLength: 1,
      maxLength: 150,
    },
  );
  fc.assert(
    fc.property(demands, fc.integer({ min: 5, max: 1500 }), fc.boolean(), (all, perMinute, smooth) => {
      let clock = 0;
      const window = createRateWindow(perMinute, () => clock, smooth);
      const arrived: { at: number; units: number }[] = [];
      for (const { gap, units, travel } of all) {
        clock += gap;
        for (let wait = window.wait(units); wait > 0; wait = window.wait(units)) {
          assert.ok(wait <= 61_000);
          clock += wait;
        }
        window.take(units);
        arrived.push({ at: clock + travel, units });
      }
      for (const { at } of arrived) {
        const minute = arrived.filter((other) => other.at >= at && other.at < at + 60_000);
        const sum = minute.reduce((total, { units }) => total + units, 0);
        assert.ok(sum <= perMinute, `${sum} of ${perMinute}`);
      }
    }),
  );
});

test('high limits are kept in every second', () => {
  let clock = 0;
  const window = createRateWindow(6000, () => clock);
  for (let call = 0; call < 100; call += 1) {
    assert.equal(window.wait(1), 0);
    window.take(1);
  }
  assert.equal(Math.round(window.wait(1)), 1017, 'a sixtieth of a minute and a second');
  clock = 1017;
  assert.equal(window.wait(1), 0);
});

test('one request above the limit goes out alone, and a correction counts', () => {
  let clock = 0;
  const window = createRateWindow(100, () => clock, false);
  assert.equal(window.wait(500), 0);
  window.take(40);
  window.correct(20);
  assert.equal(window.wait(40), 0);
  assert.equal(window.wait(41), 61_000);
  assert.equal(window.wait(500), 61_000);
  clock = 61_000;
  assert.equal(window.wait(500), 0);
});
