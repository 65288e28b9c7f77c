import assert from 'node:assert/strict';
import { describe, test } from 'node:test';
import { fleissKappa, krippendorffAlpha } from './raters.ts';

describe('fleissKappa', () => {
  // Fleiss 1971, "Measuring nominal scale agreement among many raters", table 1: 30 patients, 6 psychiatrists,
  // diagnoses depression, personality disorder, schizophrenia, neurosis, other.
  test("Fleiss 1971's diagnoses: kappa .430", () => {
    const diagnoses = [
      '00060 03003 01401 00006 03030 20400 00402 20310 20040 00006',
      '10050 11040 03300 10050 02031 00501 30012 51000 02040 10203',
      '00006 01050 02013 20040 10041 05010 40002 02040 10500 00006',
    ]
      .join(' ')
      .split(' ')
      .map((row) => Array.from(row, Number));
    const totals = diagnoses[0]?.map((_, category) =>
      diagnoses.reduce((sum, row) => sum + (row[category] ?? 0), 0),
    );
    assert.deepEqual(totals, [26, 26, 30, 55, 43]);
    assert.equal(fleissKappa(diagnoses)?.toFixed(3), '0.430');
  });

  // Wikipedia, "Fleiss' kappa": 14 raters, 10 subjects, 5 categories, kappa = 0.210.
  test('worked example', () => {
    const counts = [
      [0, 0, 0, 0, 14],
      [0, 2, 6, 4, 2],
      [0, 0, 3, 5, 6],
      [0, 3, 9, 2, 0],
      [2, 2, 8, 1, 1],
      [7, 7, 0, 0, 0],
      [3, 2, 6, 3, 0],
      [2, 5, 3, 2, 2],
      [6, 5, 2, 1, 0],
      [0, 2, 2, 3, 7],
    ];
    assert.equal(fleissKappa(counts)?.toFixed(3), '0.210');
  });

  test('null where all raters chose one category throughout; uneven rows are refused', () => {
    assert.equal(
      fleissKappa([
        [3, 0],
        [3, 0],
      ]),
      null,
    );
    assert.throws(
      () =>
        fleissKappa([
          [3, 0],
          [2, 0],
        ]),
      /counts\[1\]/,
    );
  });
});

describe('krippendorffAlpha', () => {
  // Krippendorff 2011, examples A (two observers, binary), B (two observers, nominal) and C/D/E (four observers, gaps).
  test('example A: alpha .095', () => {
    const [meg, owen] = ['0100000010', '1110010000'].map((row) => Array.from(row, Number));
    const units = (meg ?? []).map((label, unit) => [label, owen?.[unit] ?? NaN]);
    assert.equal(krippendorffAlpha(units, 'nominal')?.toFixed(3), '0.095');
  });

  test('example B: alpha .692', () => {
    const first = Array.from('aabbdcccedda', (letter) => letter.charCodeAt(0));
    const second = Array.from('babbbccceddd', (letter) => letter.charCodeAt(0));
    const units = first.map((label, unit) => [label, second[unit] ?? NaN]);
    assert.equal(krippendorffAlpha(units, 'nominal')?.toFixed(3), '0.692');
  });

  test('four observers with gaps: nominal .743, ordinal .815, interval .849', () => {
    const observers = ['123321412...', '1233224125.3', '.3332342251.', '12332441251.'];
    const units = Array.from({ length: 12 }, (_, unit) =>
      observers.flatMap((row) => (row[unit] === '.' ? [] : [Number(row[unit])])),
    );
    assert.equal(krippendorffAlpha(units, 'nominal')?.toFixed(3), '0.743');
    assert.equal(krippendorffAlpha(units, 'ordinal')?.toFixed(3), '0.815');
    assert.equal(krippendorffAlpha(units, 'interval')?.toFixed(3), '0.849');
  });

  test('null where nothing can disagree', () => {
    assert.equal(krippendorffAlpha([[1, 1], [1]], 'nominal'), null);
    assert.equal(krippendorffAlpha([], 'nominal'), null);
  });
});
