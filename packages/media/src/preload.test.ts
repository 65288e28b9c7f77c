import assert from 'node:assert/strict';
import { execFile } from 'node:child_process';
import { mkdtemp, readFile, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, before, test } from 'node:test';
import { openArtifactStore } from './open-artifact-store.ts';
import { openFolderStore, storedPath } from './folder-store.ts';

let folder: string;
before(async () => {
  folder = await mkdtemp(join(tmpdir(), 'plumb-preload-'));
});
after(() => rm(folder, { recursive: true, force: true }));

const program = join(import.meta.dirname, '../bin/preload.ts');
interface Ended {
  readonly code: number;
  readonly stdout: string;
  readonly stderr: string;
}
const preload = (list: unknown): Promise<Ended> =>
  new Promise((resolve) => {
    const env = {
      ...process.env,
      PLUMB_ARTIFACTS: join(folder, 'store'),
      PLUMB_MODELS_FOLDER: join(folder, 'models/artifacts'),
      PLUMB_MODELS_PATHS: join(folder, 'models'),
    };
    execFile(process.execPath, [program, JSON.stringify(list)], { env }, (error, stdout, stderr) => {
      resolve({ code: error === null ? 0 : Number(error.code), stdout, stderr });
    });
  });

test('models are fetched once, checked, and found before the store is asked', async () => {
  const store = await openFolderStore(join(folder, 'store'));
  const bytes = new TextEncoder().encode('the weights');
  const { sha256, uri } = await store.put(bytes, { mediaType: 'application/octet-stream' });
  const list = [{ sha256, path: 'clip/vision.onnx' }];
  const first = await preload(list);
  assert.equal(first.code, 0, first.stderr);
  assert.match(first.stdout, /"fetched":true/);
  assert.deepEqual(new Uint8Array(await readFile(join(folder, 'models/clip/vision.onnx'))), bytes);
  await store.remove(uri);
  const second = await preload(list);
  assert.match(second.stdout, /"fetched":false/);

  const modelsFolder = join(folder, 'models/artifacts');
  const reader = await openArtifactStore(join(folder, 'store'), { modelsFolder });
  assert.deepEqual(await reader.get(uri, sha256), bytes);
  await writeFile(storedPath(modelsFolder, sha256), 'rotten');
  await assert.rejects(reader.get(uri, sha256), { code: 'DATA_LOSS' });
  // A folder that is not there is one without models.
  const bare = await openArtifactStore(join(folder, 'store'), { modelsFolder: join(folder, 'absent') });
  await assert.rejects(bare.get(uri, sha256), { code: 'NOT_FOUND' });
});

test('what cannot be fetched, and a path that leads out, end with a sentence and a code', async () => {
  const sha256 = 'ab'.repeat(32);
  const missing = await preload([{ sha256 }]);
  assert.equal(missing.code, 1);
  assert.match(missing.stderr, /^preload: artifact:sha256\/(ab)+ is not in the store/);
  const out = await preload([{ sha256, path: '../../etc/passwd' }]);
  assert.equal(out.code, 1);
  assert.match((await preload([{ sha256: 'x' }])).stderr, /\[0\]\.sha256/);
});
