import assert from 'node:assert/strict';
import { test } from 'node:test';
import { parseHTML } from 'linkedom';
import { calibrationPage } from './calibration-page.ts';
import { reportOn } from './calibration-report.ts';
import type { JudgedLabel } from './calibration-report.ts';

/** A judge that says 0.9 of clips of which people accept half, and 0.1 of the others, of which they accept none. */
const labels: JudgedLabel[] = Array.from({ length: 80 }, (_, place) => {
  const high = place % 2 === 0;
  const truth = high && place % 4 === 0;
  return {
    prompt: `prompt ${place % 10 < 5 ? place % 5 : (place % 5) + 5}`,
    category: 'FD',
    truth,
    accept: high,
    score: high ? 0.9 : 0.1,
    failureMode: truth ? undefined : 'static',
  };
});

test('a judge that is too sure is off the diagonal, and its calibration brings it there', () => {
  const { reliability } = reportOn('sure', labels, 'isotonic', 0);
  assert.deepEqual(
    reliability.before.bins.map(({ score, accepted, count }) => [score.toFixed(1), accepted, count]),
    [
      ['0.1', 0, 40],
      ['0.9', 0.5, 40],
    ],
  );
  // Half of the clips are off by 0.1, half by 0.4.
  assert.equal(reliability.before.error.toFixed(3), '0.250');
  assert.ok(reliability.after.error < 0.1, String(reliability.after.error));
});

test('the page has a diagram for each judge, and asks nobody for anything', () => {
  const reports = ['one', 'two'].map((judge) => reportOn(judge, labels, 'platt', 0));
  const set = { name: 'labels.jsonl', sha256: 'a'.repeat(64), clips: [] };
  const page = calibrationPage(reports, set);
  const { document } = parseHTML(page);
  const charts = [...document.querySelectorAll('figure svg[role="img"]')];
  assert.equal(charts.length, 2);
  // Two curves of two bins each.
  assert.equal(charts[0]?.querySelectorAll('circle').length, 4);
  assert.match(
    document.querySelector('figcaption')?.textContent ?? '',
    /one: expected calibration error 0\.250/,
  );
  assert.doesNotMatch(page, /<script|<link|src="http|url\(/);
});
