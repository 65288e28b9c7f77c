import assert from 'node:assert/strict';
import { test } from 'node:test';
import { parseHTML } from 'linkedom';
import { buildReport, headline } from './build-report.ts';
import { syntheticReport } from './synthetic-report.ts';

const data = await syntheticReport();
const page = buildReport(data);
const { document } = parseHTML(page);

test('the same data give the same page', () => {
  assert.equal(buildReport(data), page);
});

test('the page asks for nothing from anywhere and runs no script', () => {
  assert.equal(document.querySelectorAll('script, link, iframe, object').length, 0);
  for (const element of document.querySelectorAll('[src], [href]')) {
    assert.match(element.getAttribute('src') ?? element.getAttribute('href') ?? '', /^data:/);
  }
  const policy = document
    .querySelector('meta[http-equiv="Content-Security-Policy"]')
    ?.getAttribute('content');
  assert.match(policy ?? '', /default-src 'none'/);
  assert.doesNotMatch(page, /url\(/);
});

test('words of others are escaped', () => {
  const fixed = data.clips['OR']!.fixed;
  const hostile = buildReport({
    ...data,
    name: '<script>alert(1)</script>',
    clips: {
      ...data.clips,
      OR: { ...data.clips['OR']!, fixed: [{ ...fixed[0]!, prompt: '"><img src=x onerror=alert(1)>' }] },
    },
  });
  const { document: parsed } = parseHTML(hostile);
  assert.equal(parsed.querySelectorAll('script').length, 0);
  assert.equal(parsed.querySelectorAll('[onerror]').length, 0);
  assert.ok([...parsed.querySelectorAll('.prompt')].some((p) => p.textContent?.includes('<img src=x')));
});

test('every category has its row, its marks in both charts and its clips', () => {
  assert.equal(
    document.querySelectorAll('#acceptance ~ .scroll tbody tr').length,
    data.categories.length + 1,
  );
  const [acceptance, difference] = document.querySelectorAll('#acceptance ~ .columns svg');
  assert.equal(acceptance?.querySelectorAll('circle').length, 2 * (data.categories.length + 1));
  assert.equal(difference?.querySelectorAll('circle').length, data.categories.length + 1);
  assert.equal(document.querySelectorAll('.category').length, data.categories.length);
  assert.equal(document.querySelectorAll('.pair').length, data.categories.length * 12);
});

test('pairs whose verdict changed are marked with the direction', () => {
  for (const pair of document.querySelectorAll('.pair')) {
    const [before, after] = [...pair.querySelectorAll('.clips figure')].map((figure) => figure.className);
    assert.equal(pair.classList.contains('changed'), before !== after);
    assert.equal(pair.classList.contains('better'), before !== after && after === 'accepted');
  }
});

test('the headline says what the interval supports and no more', () => {
  const overall = (low: number, mean: number, high: number) =>
    headline({
      ...data,
      acceptance: { ...data.acceptance, difference: { overall: { low, mean, high } } },
    });
  assert.match(overall(0.02, 0.15, 0.2), /raised acceptance .* from 51% to 66%/);
  assert.match(overall(-0.02, 0.15, 0.2), /no measurable difference/);
  assert.match(overall(-0.2, -0.15, -0.02), /lowered/);
});

test('a report without anchor measurements and without a control leaves both out', () => {
  const { control, ...rest } = data;
  assert.ok(control !== undefined);
  const { document: parsed } = parseHTML(
    buildReport({
      ...rest,
      training: { ...data.training, points: data.training.points.map(({ step, loss }) => ({ step, loss })) },
    }),
  );
  assert.equal(parsed.querySelectorAll('#training ~ .columns figure:not(.probe) svg').length, 1);
  assert.equal(parsed.querySelectorAll('#acceptance ~ .scroll thead th').length, 6);
});

test('win rates, p-values and what they are corrected by stand beside the differences', () => {
  const rows = [...document.querySelectorAll('#acceptance ~ .scroll tbody tr')];
  assert.equal(
    rows.at(-1)?.lastElementChild?.previousElementSibling?.previousElementSibling?.textContent?.trim(),
    '<0.001',
  );
  assert.match(rows[0]?.textContent ?? '', /57\.6\s+54\.1 to 61\.2\s+0\.084/);
  assert.match(
    document.querySelector('#acceptance ~ .note')?.textContent ?? '',
    /Multiple comparisons.*5 more, corrected by Holm/,
  );
});

test('rewards beside the verdict have their means, and the learning curve and the probes are drawn', () => {
  const signals = [...document.querySelectorAll('#signals ~ .scroll tbody tr')].map(
    (row) => row.textContent ?? '',
  );
  assert.equal(signals.length, 2);
  assert.match(signals[1] ?? '', /clip_score\s+held out\s+0\.512\s+0\.523\s+0\.0110/);
  assert.equal(document.querySelectorAll('#curve ~ figure svg circle').length, data.learningCurve.length);
  assert.equal(document.querySelectorAll('.probe svg').length, 2);
});

test('a run of one iteration without a probe and without other rewards has none of their parts', () => {
  const { document: parsed } = parseHTML(
    buildReport({
      ...data,
      signals: [],
      learningCurve: [],
      training: { ...data.training, probes: [] },
    }),
  );
  for (const part of ['#signals', '#curve', '#probes']) assert.equal(parsed.querySelector(part), null);
});
