import assert from 'node:assert/strict';
import { mkdtemp, readdir, readFile, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, test } from 'node:test';
import { fileURLToPath } from 'node:url';
import { openFolderStore } from '@plumb/media';
import { pipelineMediaType } from '@plumb/media/model-media-types';
import { fetchPipeline, storePipeline } from './pipeline-artifact.ts';
import { readPipelineFolder } from './pipeline-folder.ts';

const fixture = fileURLToPath(new URL('../fixtures/wan', import.meta.url));
const scratch = await mkdtemp(join(tmpdir(), 'plumb-pipelines-'));
after(() => rm(scratch, { recursive: true }));

test('a pipeline that was stored is fetched bit for bit, once', async () => {
  const store = await openFolderStore(join(scratch, 'artifacts'));
  const folder = await readPipelineFolder(fixture);
  const manifest = await storePipeline(folder, 'float32', store);
  assert.equal(manifest.mediaType, pipelineMediaType);
  assert.deepEqual(await storePipeline(folder, 'float32', store), manifest);

  const cache = join(scratch, 'cache');
  const [first, second] = await Promise.all([
    fetchPipeline(manifest, store, cache),
    fetchPipeline(manifest, store, cache),
  ]);
  assert.deepEqual(first, second);
  assert.equal(first.precision, 'float32');
  const fetched = await readPipelineFolder(first.path);
  assert.deepEqual(fetched.files, folder.files);
  for (const file of folder.files) {
    assert.deepEqual(await readFile(join(first.path, file)), await readFile(join(fixture, file)));
  }
  assert.deepEqual(await readdir(cache), [manifest.sha256], 'nothing half-fetched is left behind');
});

test('a manifest that would write outside of its folder, or is none, is refused', async () => {
  const store = await openFolderStore(join(scratch, 'artifacts'));
  const evil = { format: 1, precision: 'float32', files: [{ path: '../outside', parts: [] }] };
  for (const text of [
    JSON.stringify(evil),
    JSON.stringify({ ...evil, files: [{ path: '/etc/x', parts: [] }] }),
    'x',
  ]) {
    const manifest = await store.put(Buffer.from(text), { mediaType: pipelineMediaType });
    await assert.rejects(fetchPipeline(manifest, store, join(scratch, 'evil')), {
      code: 'DATA_LOSS',
      reason: 'MODEL_CORRUPT',
    });
  }
  await assert.rejects(readdir(join(scratch, 'evil')), { code: 'ENOENT' });
});
