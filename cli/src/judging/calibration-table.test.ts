import assert from 'node:assert/strict';
import { test } from 'node:test';
import { calibrationPage } from './calibration-page.ts';
import { reportOn } from './calibration-report.ts';
import type { JudgedLabel } from './calibration-report.ts';
import { calibrationTable } from './calibration-table.ts';

/**
 * Ten prompts, a good and a bad clip each; the judge rejects one good clip and accepts two bad ones. By hand: 17 of 20 right;
 * 9 good and 8 bad clips told right; the labels are half and half and the judge accepts 11 of 20, so that agreement by chance
 * is 0.5, and kappa (0.85 - 0.5) / 0.5.
 */
const labels: readonly JudgedLabel[] = Array.from({ length: 10 }, (_, prompt) => prompt).flatMap((prompt) => {
  const shared = { prompt: `prompt ${prompt}`, category: prompt < 5 ? 'FD' : 'DM' };
  const good = prompt !== 3;
  const bad = prompt === 4 || prompt === 5;
  return [
    { ...shared, truth: true, accept: good, score: good ? 0.9 : 0.2, failureMode: undefined },
    {
      ...shared,
      truth: false,
      accept: bad,
      score: bad ? 0.7 : 0.1,
      failureMode: prompt < 5 ? 'floating' : 'static',
    },
  ];
});

const near = (actual: number | undefined, expected: number): void => {
  assert.ok(actual !== undefined && Math.abs(actual - expected) < 1e-9, `${actual} is not ${expected}`);
};

test('agreement, as it is computed by hand', () => {
  const report = reportOn('default', labels, 'platt', 2);
  near(report.overall.accuracy.value, 0.85);
  near(report.overall.kappa?.value, 0.7);
  // Of 100 pairs of a good and a bad clip, 9 * 10 and 1 * 8 are in the right order.
  near(report.overall.rocAuc?.value, 0.98);
  near(report.perCategory['FD']?.accuracy.value, 0.8);
  near(report.perCategory['DM']?.accuracy.value, 0.9);
  near(report.perCategory['FD']?.rocAuc?.value, (4 * 5 + 4) / 25);
  near(report.perFailureMode['right']?.value, 0.9);
  near(report.perFailureMode['floating']?.value, 0.8);
  near(report.perFailureMode['static']?.value, 0.8);
  assert.equal(report.perFailureMode['static']?.clips, 5);
  // Squares by hand: 9 * 0.01 + 0.64 for the good clips, 2 * 0.49 + 8 * 0.01 for the bad ones.
  near(report.brier.before, (0.09 + 0.64 + 0.98 + 0.08) / 20);
  for (const { value, lower, upper } of [report.overall.accuracy, report.perCategory['FD']?.accuracy].flatMap(
    (estimate) => estimate ?? [],
  )) {
    assert.ok(lower < value && value < upper && lower >= 0 && upper <= 1);
  }
});

test('what the recommended threshold gives is measured on prompts that it was not chosen on', () => {
  const { recommended } = reportOn('default', labels, 'platt', 0);
  // Between 0.7 and 0.9 on every fold: all bad clips are rejected, and the good one with 0.2 too.
  near(recommended.sensitivity?.value, 0.9);
  near(recommended.specificity?.value, 1);
  assert.ok((recommended.specificity?.lower ?? 1) < 1, 'ten of ten are no certainty');

  // Scores that say nothing: a threshold can be found that looks good on the clips it was found on, and not on others.
  const chance = labels.map((label, index) => ({ ...label, score: ((index * 7) % 20) / 20 }));
  const { sensitivity, specificity } = reportOn('chance', chance, 'isotonic', 0).recommended;
  assert.ok((sensitivity?.value ?? 0) + (specificity?.value ?? 0) < 1.4);
});

test('the table and the page have every figure', () => {
  const reports = [reportOn('default', labels, 'platt', 2), reportOn('again', labels, 'isotonic', 0)];
  const table = calibrationTable(reports);
  for (const expected of [
    '20, 2 failed',
    '85.0 [',
    '0.70 [',
    '0.98 [',
    'ROC AUC by category',
    'floating (5)',
    '90.0 [',
  ]) {
    assert.ok(table.includes(expected), expected);
  }
  const page = calibrationPage(reports, { name: 'labels <b>.jsonl', sha256: 'a'.repeat(64), clips: [] });
  assert.match(page, /kappa 0\.70 \[/);
  assert.ok(page.includes('labels &lt;b&gt;.jsonl') && !page.includes('labels <b>'), 'names are escaped');
  assert.ok(page.includes('floating') && page.includes('DM'));
});
