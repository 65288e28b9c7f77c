import assert from 'node:assert/strict';
import { describe, test } from 'node:test';
import { majority, raterAgreement } from './rater-agreement.ts';
import type { RatedItem } from './rater-agreement.ts';

/** Answers by rater, an item a character: 1 is yes, 0 is no, - is none. */
function answersOf(raters: Readonly<Record<string, string>>): RatedItem[] {
  return Object.entries(raters).flatMap(([rater, text]) =>
    Array.from(text).flatMap((sign, item) => (sign === '-' ? [] : [{ item, rater, yes: sign === '1' }])),
  );
}

describe('agreement of raters', () => {
  test('is that of a published example', () => {
    // Krippendorff 2011, "Computing Krippendorff's Alpha-Reliability", example A.
    const found = raterAgreement(answersOf({ meg: '0100000010', owen: '1110010000' }), []);
    assert.equal(found.krippendorffAlpha?.toFixed(3), '0.095');
    assert.equal(found.fleissKappa?.toFixed(3), '0.048');
    assert.deepEqual([found.items, found.fleissItems, found.answers], [10, 10, 20]);
  });

  test("Fleiss' kappa counts items that all have answered, alpha those with two answers", () => {
    const found = raterAgreement(answersOf({ a: '110-', b: '1101', c: '11-0' }), []);
    assert.equal(found.fleissItems, 2);
    assert.equal(found.items, 4);
    assert.equal(found.answers, 10);
  });

  test('a rater is compared with the majority of the others; where they are divided the item says nothing', () => {
    const { raters } = raterAgreement(answersOf({ a: '1100', b: '1101', c: '1010' }), []);
    const [a] = raters;
    // Of b and c: yes, divided, divided, divided.
    assert.deepEqual([a?.name, a?.items, a?.accuracy], ['a', 1, 1]);
    const four = raterAgreement(answersOf({ a: '10', b: '01', c: '01', d: '01' }), []).raters;
    assert.deepEqual([four[0]?.items, four[0]?.accuracy], [2, 0]);
    assert.equal(four[1]?.accuracy, 1);
  });

  test('one rater alone agrees with nobody', () => {
    const found = raterAgreement(answersOf({ a: '101' }), []);
    assert.equal(found.fleissKappa, null);
    assert.equal(found.krippendorffAlpha, null);
    assert.deepEqual(found.raters, []);
  });

  test('a reward is compared with the majority of all, ties left out, and by rank', () => {
    const scores = [0.9, 0.2, 0.4, 0.9].map((score, item) => ({ item, reward: 'aif', score }));
    const { rewards } = raterAgreement(answersOf({ a: '1010', b: '1011', c: '101-' }), scores);
    const [aif] = rewards;
    assert.equal(aif?.items, 3, 'the last item is a tie');
    assert.equal(aif.accuracy.toFixed(3), '0.667');
    assert.equal(aif.rocAuc, 1);
    assert.deepEqual(
      aif.reliability?.bins.map(({ accepted, count }) => [accepted, count]),
      [
        [0, 1],
        [1, 1],
        [1, 1],
      ],
    );
  });

  test('a reward whose scores are no shares has no reliability', () => {
    const scores = [3, 0.5].map((score, item) => ({ item, reward: 'flow', score }));
    const { rewards } = raterAgreement(answersOf({ a: '10' }), scores);
    assert.equal(rewards[0]?.reliability, undefined);
    assert.equal(rewards[0]?.rocAuc, 1);
  });

  test('the majority is more than half', () => {
    const of = (text: string): boolean | undefined =>
      majority(Array.from(text, (sign) => ({ yes: sign === '1' })));
    assert.deepEqual([of('110'), of('10'), of('0'), of('')], [true, undefined, false, undefined]);
  });
});
