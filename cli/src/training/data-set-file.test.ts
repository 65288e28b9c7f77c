import assert from 'node:assert/strict';
import { createHash } from 'node:crypto';
import { mkdtemp, readdir, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, before, test } from 'node:test';
import { PlumbError } from '@plumb/kit/errors';
import { openFolderStore } from '@plumb/media';
import type { ArtifactStore } from '@plumb/media';
import { storeDataSet } from './data-set-file.ts';

const clip = new TextEncoder().encode('a clip');
const hash = createHash('sha256').update(clip).digest('hex');

let folder: string;
let store: ArtifactStore;
before(async () => {
  folder = await mkdtemp(join(tmpdir(), 'plumb-data-set-'));
  store = await openFolderStore(join(folder, 'artifacts'));
  await writeFile(join(folder, 'clip.png'), clip);
});
after(() => rm(folder, { recursive: true, force: true }));

const sample = (id: number, changes: object = {}): object => ({
  sampleId: String(id).padStart(32, '0'),
  promptId: 'a',
  prompt: 'the ball falls',
  category: 'FD',
  seed: String(id),
  video: {
    uri: 'clip.png',
    sha256: hash,
    mediaType: 'image/png',
    width: 8,
    height: 8,
    frameCount: 4,
    fps: 4,
    ...changes,
  },
  scores: { aif: { value: id % 2 } },
});

async function stored(samples: readonly object[], change = (text: string): string => text): Promise<string> {
  const path = join(folder, 'set.json');
  const manifest = {
    kind: 'plumb.data-set',
    version: 1,
    runId: 'run',
    iteration: 1,
    model: { version: `small@${hash.slice(0, 12)}`, sha256: hash },
    promptSetHash: hash,
    sampler: { steps: 4, guidance: 1, shift: 1 },
    rewards: [{ name: 'aif', version: '1', weightsHash: '' }],
    samples,
    excluded: [],
  };
  await writeFile(path, change(JSON.stringify(manifest)));
  return (await storeDataSet(path, store)).uri;
}
const artifacts = async (): Promise<number> =>
  (await readdir(join(folder, 'artifacts'), { recursive: true, withFileTypes: true })).filter((entry) =>
    entry.isFile(),
  ).length;

async function refused(code: string, work: () => Promise<unknown>): Promise<string> {
  const before = await artifacts();
  try {
    await work();
  } catch (error) {
    assert.ok(error instanceof PlumbError, String(error));
    assert.equal(error.code, code);
    assert.equal(await artifacts(), before, 'something was written');
    return error.message;
  }
  return assert.fail('it was taken');
}

test('clips that are not what the manifest says, or not there, are refused with the sample', async () => {
  const other = 'ab'.repeat(32);
  assert.match(
    await refused('DATA_LOSS', () => stored([sample(1), sample(2, { sha256: other })])),
    /clip\.png, the clip of sample 0+2, has the hash .* and not abab.*get it again/,
  );
  assert.match(
    await refused('NOT_FOUND', () => stored([sample(1), sample(2, { uri: 'none.png' })])),
    /sample 0+2.*none\.png/,
  );
});

test('a reward that is no number is refused with its field', async () => {
  // JSON has no NaN; what programs write instead is no JSON, null, or too large for a double.
  const valueIs = (text: string) => () =>
    stored([sample(0), sample(1)], (json) => json.replace('"value":1', `"value":${text}`));
  assert.match(await refused('DATA_LOSS', valueIs('NaN')), /set\.json is not JSON/);
  for (const text of ['null', '1e999', '"1"']) {
    assert.match(await refused('INVALID_ARGUMENT', valueIs(text)), /samples\[1\]\.scores\.aif/);
  }
});

test('a data set is stored with its clips', async () => {
  assert.match(await stored([sample(0), sample(1)]), /^artifact:sha256\//);
  assert.ok(await store.has(hash));
});
