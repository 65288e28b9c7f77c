import assert from 'node:assert/strict';
import { mkdir, mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { after, before, test } from 'node:test';
import { studyResultsIn } from './study-results.ts';

const result = (name: string): string =>
  JSON.stringify({
    kind: 'plumb.study-result',
    version: 1,
    name,
    headline: 'It depends',
    analysis: {},
    cells: [{}, {}],
  });

let folder: string;
before(async () => {
  folder = await mkdtemp(path.join(tmpdir(), 'plumb-studies-'));
  for (const [name, text] of [
    ['second', result('second')],
    ['first', result('first')],
    ['unfinished', undefined],
    // What is no study is passed over.
    ['Not-A-Name', result('x')],
  ] as const) {
    await mkdir(path.join(folder, name));
    if (text !== undefined) await writeFile(path.join(folder, name, 'result.json'), text);
  }
  await writeFile(path.join(folder, 'a-file'), '');
});
after(() => rm(folder, { recursive: true }));

test('studies that have run to their end are listed by name; others are not there', async () => {
  const studies = studyResultsIn(folder);
  assert.deepEqual(
    (await studies.list()).map(({ name, headline, cells }) => [name, headline, cells]),
    [
      ['first', 'It depends', 2],
      ['second', 'It depends', 2],
    ],
  );
  assert.equal(Buffer.from((await studies.read('first')).bytes).toString('utf8'), result('first'));
  for (const name of ['unfinished', 'none', 'a-file', '..', '../first', 'first/../second', '']) {
    await assert.rejects(studies.read(name), { code: 'NOT_FOUND' }, name);
  }
});

test('a folder that is not there yet has no studies; without a folder the setting is named', async () => {
  assert.deepEqual(await studyResultsIn(path.join(folder, 'later')).list(), []);
  await assert.rejects(studyResultsIn(undefined).list(), /PLUMB_STUDIES/);
  await assert.rejects(studyResultsIn(undefined).read('first'), /PLUMB_STUDIES/);
});

test('a result that another version wrote is said to be one, by its path', async () => {
  const other = await mkdtemp(path.join(tmpdir(), 'plumb-studies-'));
  await mkdir(path.join(other, 'old'));
  for (const text of [result('old').replace('"version":1', '"version":0'), 'no JSON']) {
    await writeFile(path.join(other, 'old', 'result.json'), text);
    await assert.rejects(studyResultsIn(other).list(), { code: 'DATA_LOSS', message: /old.result\.json/ });
  }
  await rm(other, { recursive: true });
});
