import assert from 'node:assert/strict';
import { describe, test } from 'node:test';
import * as fc from 'fast-check';
import { agreement, cohenKappa, rocAuc, spearman } from './agreement.ts';

/** Two label lists from a square table of counts. */
function fromTable(table: readonly (readonly number[])[]): [number[], number[]] {
  const a: number[] = [];
  const b: number[] = [];
  for (const [row, counts] of table.entries()) {
    for (const [column, count] of counts.entries()) {
      for (let k = 0; k < count; k++) {
        a.push(row);
        b.push(column);
      }
    }
  }
  return [a, b];
}

describe('cohenKappa', () => {
  test("Cohen 1960's example: proportions of three categories, kappa .492", () => {
    const [a, b] = fromTable([
      [44, 7, 9],
      [5, 20, 5],
      [1, 3, 6],
    ]);
    assert.equal(cohenKappa(a, b)?.toFixed(3), '0.492');
  });

  test('is 0 for independent raters, 1 for equal ones, null for constant ones', () => {
    const [a, b] = fromTable([
      [4, 4],
      [2, 2],
    ]);
    assert.ok(Math.abs(cohenKappa(a, b) ?? 1) < 1e-12);
    assert.equal(cohenKappa([1, 0, 1], [1, 0, 1]), 1);
    assert.equal(cohenKappa([1, 1], [1, 1]), null);
  });
});

describe('rocAuc', () => {
  test('is the share of positive-negative pairs in the right order, ties half', () => {
    fc.assert(
      fc.property(
        fc.array(fc.tuple(fc.boolean(), fc.integer({ min: 0, max: 5 })), { minLength: 1, maxLength: 30 }),
        (rows) => {
          const positives = rows.filter(([truth]) => truth).map(([, score]) => score);
          const negatives = rows.filter(([truth]) => !truth).map(([, score]) => score);
          const found = rocAuc(
            rows.map(([truth]) => truth),
            rows.map(([, score]) => score),
          );
          if (positives.length === 0 || negatives.length === 0) {
            assert.equal(found, null);
            return;
          }
          let right = 0;
          for (const p of positives) for (const n of negatives) right += p > n ? 1 : p === n ? 0.5 : 0;
          assert.ok(Math.abs((found ?? NaN) - right / (positives.length * negatives.length)) < 1e-12);
        },
      ),
    );
  });
});

describe('spearman', () => {
  // Wikipedia, "Spearman's rank correlation coefficient": IQ and hours of television, rho = -29/165.
  test('worked example', () => {
    const iq = [106, 86, 100, 101, 99, 103, 97, 113, 112, 110];
    const hours = [7, 0, 27, 50, 28, 29, 20, 12, 6, 17];
    assert.ok(Math.abs((spearman(iq, hours) ?? 0) - -29 / 165) < 1e-12);
  });

  test('does not depend on order where there are ties, and is null for a constant', () => {
    const x = [0, 0, 1, 1, 0, 1];
    const y = [0.1, 0.4, 0.4, 0.9, 0.2, 0.5];
    assert.ok(Math.abs((spearman(x, y) ?? 0) - (spearman(x.toReversed(), y.toReversed()) ?? 1)) < 1e-12);
    assert.equal(spearman([1, 1], [1, 2]), null);
  });
});

describe('agreement', () => {
  test('overall and by category', () => {
    const report = agreement([
      { category: 'OR', truth: true, score: 0.9 },
      { category: 'OR', truth: false, score: 0.6 },
      { category: 'OR', truth: false, score: 0.1 },
      { category: 'FD', truth: true, score: 0.8 },
    ]);
    assert.equal(report.overall.accuracy, 0.75);
    assert.equal(report.perCategory['OR']?.rocAuc, 1);
    assert.deepEqual(report.perCategory['FD'], {
      samples: 1,
      acceptanceRate: 1,
      accuracy: 1,
      kappa: null,
      rocAuc: null,
      spearman: null,
    });
  });

  test('refuses NaN and nothing', () => {
    assert.throws(() => agreement([{ category: 'OR', truth: true, score: NaN }]), /samples\[0\]\.score/);
    assert.throws(() => agreement([]), /empty/);
  });
});
