import assert from 'node:assert/strict';
import { createHash } from 'node:crypto';
import { mkdtemp, readdir, readFile, rm, utimes, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, before, test } from 'node:test';
import { pathToFileURL } from 'node:url';
import { PlumbError } from '@plumb/kit/errors';
import fc from 'fast-check';
import { artifactUri } from './artifact.ts';
import { openFolderStore } from './folder-store.ts';

let folder: string;
before(async () => {
  folder = await mkdtemp(join(tmpdir(), 'plumb-store-'));
});
after(async () => rm(folder, { recursive: true }));

const mediaType = 'application/octet-stream';
const sha256 = (bytes: Uint8Array): string => createHash('sha256').update(bytes).digest('hex');
const fileOf = (at: string, hash: string): string => join(at, 'sha256', hash.slice(0, 2), hash);

test('what is put is got back, under its hash, and leaves nothing behind', async () => {
  const store = await openFolderStore(folder);
  await fc.assert(
    fc.asyncProperty(fc.uint8Array({ maxLength: 500 }), async (bytes) => {
      const artifact = await store.put(bytes, { mediaType });
      assert.deepEqual(artifact, {
        uri: `artifact:sha256/${sha256(bytes)}`,
        sha256: sha256(bytes),
        size: bytes.length,
        mediaType,
      });
      assert.deepEqual(await store.get(artifact.uri, artifact.sha256), new Uint8Array(bytes));
      assert.equal(await store.has(artifact.sha256), true);
    }),
    { numRuns: 40 },
  );
  assert.deepEqual(await readdir(join(folder, 'arriving')), []);
});

test('many writers of the same bytes, in two stores on one folder, agree', async () => {
  const one = await openFolderStore(folder);
  const two = await openFolderStore(pathToFileURL(folder).href);
  const bytes = new TextEncoder().encode('written by all');
  const artifacts = await Promise.all(
    Array.from({ length: 20 }, async (_, index) => (index % 2 === 0 ? one : two).put(bytes, { mediaType })),
  );
  assert.equal(new Set(artifacts.map(({ uri }) => uri)).size, 1);
  assert.deepEqual(await one.get(artifactUri(sha256(bytes)), sha256(bytes)), bytes);
});

test('damaged bytes are data loss, and putting them again mends them', async () => {
  const store = await openFolderStore(folder);
  const bytes = new TextEncoder().encode('a clip that will rot');
  const { uri, sha256: hash } = await store.put(bytes, { mediaType });
  await writeFile(fileOf(folder, hash), 'rotten');
  await assert.rejects(store.get(uri, hash), { code: 'DATA_LOSS', reason: 'ARTIFACT_CORRUPT' });
  await store.put(bytes, { mediaType });
  assert.deepEqual(await store.get(uri, hash), bytes);
});

test('what is not there is not found', async () => {
  const store = await openFolderStore(folder);
  const hash = 'ab'.repeat(32);
  assert.equal(await store.has(hash), false);
  await assert.rejects(store.get(artifactUri(hash), hash), {
    code: 'NOT_FOUND',
    reason: 'ARTIFACT_NOT_FOUND',
  });
});

test('no other URI reaches the file system', async () => {
  const store = await openFolderStore(folder);
  const hash = 'ab'.repeat(32);
  const uris = [
    '',
    '/etc/passwd',
    'file:///etc/passwd',
    'artifact:sha256/../../etc/passwd',
    `artifact:sha256/${hash}/../x`,
    `artifact:sha256/${hash.toUpperCase()}`,
    `artifact:sha256/${hash}\n`,
    `https://example.org/${hash}`,
  ];
  for (const uri of uris) {
    await assert.rejects(store.get(uri, hash), { code: 'INVALID_ARGUMENT' }, JSON.stringify(uri));
  }
  await assert.rejects(store.get(artifactUri(hash), 'cd'.repeat(32)), { code: 'INVALID_ARGUMENT' });
  await assert.rejects(store.has('../x'), { code: 'INVALID_ARGUMENT' });
  await assert.rejects(store.put(new Uint8Array(1), { mediaType: 'not a type' }), {
    code: 'INVALID_ARGUMENT',
  });
});

test('limits hold for writing and for reading', async () => {
  const large = await openFolderStore(folder);
  const { uri, sha256: hash } = await large.put(new Uint8Array(100), { mediaType });
  const small = await openFolderStore(folder, { maxBytes: 99 });
  await assert.rejects(small.get(uri, hash), { code: 'RESOURCE_EXHAUSTED' });
  await assert.rejects(small.put(new Uint8Array(100), { mediaType }), { code: 'RESOURCE_EXHAUSTED' });
});

test('a folder that cannot be made is named, with the fix', async () => {
  const file = join(folder, 'a-file');
  await writeFile(file, '');
  for (const place of [join(file, 'store'), '/proc/plumb-store']) {
    await assert.rejects(openFolderStore(place), (error) => {
      assert.ok(error instanceof PlumbError);
      assert.match(error.message, /cannot be written/);
      assert.ok(error.message.includes(place));
      assert.match(error.message, /make it writable|another folder/);
      return true;
    });
  }
  await assert.rejects(openFolderStore(''), { code: 'INVALID_ARGUMENT' });
});

test('leftovers of a killed writer are removed, those of a living one are not', async () => {
  const [old, fresh] = ['old', 'fresh'].map((name) => join(folder, 'arriving', name)) as [string, string];
  await writeFile(old, 'half');
  await writeFile(fresh, 'half');
  await utimes(old, new Date(0), new Date(0));
  await openFolderStore(folder);
  await assert.rejects(readFile(old), { code: 'ENOENT' });
  assert.equal(await readFile(fresh, 'utf8'), 'half');
});
