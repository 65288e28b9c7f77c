import assert from 'node:assert/strict';
import { describe, test } from 'node:test';
import * as fc from 'fast-check';
import { selectPairs } from './pairs.ts';
import type { PairSettings } from './pairs.ts';
import { keyedGenerator } from './randomness.ts';

const candidatesFrom = (rewards: readonly number[]) =>
  rewards.map((reward, index) => ({ sampleId: `s${index}`, reward, accepted: reward >= 0.5 }));

const settings = (changes: Partial<PairSettings> = {}): PairSettings => ({
  pairs: 'binary',
  maxPairsPerPrompt: 64,
  maxUsesPerSample: 1,
  minMargin: 0,
  ...changes,
});

const rejectedBy = (seed: number): string =>
  selectPairs(candidatesFrom([1, 0, 0, 0]), settings(), keyedGenerator(seed))
    .map(({ rejected }) => rejected.sampleId)
    .join();

describe('selectPairs', () => {
  test('never repeats a pair, never uses a clip beyond its limit, never exceeds the number of pairs', () => {
    fc.assert(
      fc.property(
        fc.array(fc.double({ min: 0, max: 1, noNaN: true }), { maxLength: 16 }),
        fc.record({
          pairs: fc.constantFrom('binary' as const, 'best-worst' as const, 'margin' as const),
          maxPairsPerPrompt: fc.integer({ min: 1, max: 40 }),
          maxUsesPerSample: fc.integer({ min: 1, max: 5 }),
          minMargin: fc.double({ min: 0, max: 0.5, noNaN: true }),
        }),
        fc.integer(),
        (rewards, chosenSettings, seed) => {
          const pairs = selectPairs(candidatesFrom(rewards), chosenSettings, keyedGenerator(seed));
          assert.ok(pairs.length <= chosenSettings.maxPairsPerPrompt);
          const keys = pairs.map(({ chosen, rejected }) => `${chosen.sampleId}>${rejected.sampleId}`);
          assert.equal(new Set(keys).size, keys.length);
          const uses = new Map<string, number>();
          for (const { chosen, rejected } of pairs) {
            for (const { sampleId } of [chosen, rejected]) uses.set(sampleId, (uses.get(sampleId) ?? 0) + 1);
            assert.ok(chosen.reward > rejected.reward);
            if (chosenSettings.pairs === 'binary') assert.ok(chosen.accepted && !rejected.accepted);
            else assert.ok(chosen.reward - rejected.reward >= chosenSettings.minMargin);
          }
          assert.ok([...uses.values()].every((count) => count <= chosenSettings.maxUsesPerSample));
        },
      ),
    );
  });

  test('binary takes as many pairs as the limits allow', () => {
    fc.assert(
      fc.property(
        fc.integer({ min: 1, max: 9 }),
        fc.integer({ min: 1, max: 9 }),
        fc.integer({ min: 1, max: 12 }),
        (accepted, rejected, maxUsesPerSample) => {
          const candidates = candidatesFrom([...Array(accepted).fill(1), ...Array(rejected).fill(0)]);
          const pairs = selectPairs(
            candidates,
            settings({ maxUsesPerSample, maxPairsPerPrompt: 1000 }),
            keyedGenerator(1),
          );
          assert.equal(
            pairs.length,
            Math.min(accepted * rejected, maxUsesPerSample * Math.min(accepted, rejected)),
          );
        },
      ),
    );
  });

  test('best-worst takes the extremes and nothing where all are equal', () => {
    const [pair, ...rest] = selectPairs(
      candidatesFrom([0.2, 0.9, 0.4, 0.1]),
      settings({ pairs: 'best-worst' }),
      keyedGenerator(3),
    );
    assert.deepEqual([pair?.chosen.sampleId, pair?.rejected.sampleId, rest.length], ['s1', 's3', 0]);
    assert.deepEqual(
      selectPairs(candidatesFrom([0.3, 0.3]), settings({ pairs: 'best-worst' }), keyedGenerator(3)),
      [],
    );
  });

  test('the seed decides, and every pairing is possible', () => {
    assert.equal(rejectedBy(7), rejectedBy(7));
    assert.deepEqual([...new Set(Array.from({ length: 60 }, (_, seed) => rejectedBy(seed)))].toSorted(), [
      's1',
      's2',
      's3',
    ]);
  });
});
