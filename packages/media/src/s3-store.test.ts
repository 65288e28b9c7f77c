import assert from 'node:assert/strict';
import { createHash } from 'node:crypto';
import { after, before, describe, test } from 'node:test';
import { PutObjectCommand, S3Client } from '@aws-sdk/client-s3';
import fc from 'fast-check';
import { artifactUri } from './artifact.ts';
import type { ArtifactStore } from './artifact.ts';
import { openArtifactStore } from './open-artifact-store.ts';
import { openS3Store } from './s3-store.ts';
import { findMoto, startS3Server } from './testing/s3-server.ts';
import type { S3ServerKind, TestS3Server } from './testing/s3-server.ts';

const mediaType = 'application/octet-stream';
const location = 's3://plumb/some/where';
const sha256 = (bytes: Uint8Array): string => createHash('sha256').update(bytes).digest('hex');
const bytesOf = (text: string): Uint8Array => new TextEncoder().encode(text);

const kinds: readonly { kind: S3ServerKind; skip: string | false }[] = [
  { kind: 's3rver', skip: false },
  // It knows conditional writes and checksums, which the other does not.
  {
    kind: 'moto',
    skip: findMoto() === undefined ? 'moto_server is not installed (pip install "moto[server]")' : false,
  },
];

for (const { kind, skip } of kinds) {
  describe(`an artifact store on ${kind}`, { skip }, () => {
    let server: TestS3Server;
    let store: ArtifactStore;
    let client: S3Client;
    before(async () => {
      server = await startS3Server(kind);
      // Credentials are looked up in the process's environment, as in a service.
      Object.assign(process.env, server.env);
      store = await openArtifactStore(location);
      client = new S3Client({ endpoint: server.env['AWS_ENDPOINT_URL_S3'] ?? '', forcePathStyle: true });
    });
    after(async () => {
      client.destroy();
      await server.stop();
    });
    const keyOf = (hash: string): string => `some/where/sha256/${hash.slice(0, 2)}/${hash}`;
    const overwrite = async (hash: string, text: string): Promise<void> => {
      await client.send(new PutObjectCommand({ Bucket: 'plumb', Key: keyOf(hash), Body: text }));
    };

    test('what is put is got back, under its hash', async () => {
      await fc.assert(
        fc.asyncProperty(fc.uint8Array({ maxLength: 500 }), async (bytes) => {
          const artifact = await store.put(bytes, { mediaType });
          const hash = sha256(bytes);
          assert.deepEqual(artifact, {
            uri: `artifact:sha256/${hash}`,
            sha256: hash,
            size: bytes.length,
            mediaType,
          });
          assert.deepEqual(await store.get(artifact.uri, hash), new Uint8Array(bytes));
          assert.equal(await store.has(hash), true);
        }),
        { numRuns: 15 },
      );
    });

    test('a large one, many writers of the same bytes, and another prefix of the same bucket', async () => {
      const bytes = new Uint8Array(9 * 2 ** 20).map((_, index) => index % 251);
      const all = await Promise.all(Array.from({ length: 4 }, async () => store.put(bytes, { mediaType })));
      assert.equal(new Set(all.map(({ uri }) => uri)).size, 1);
      assert.deepEqual(await store.get(artifactUri(sha256(bytes)), sha256(bytes)), bytes);
      const other = await openS3Store('s3://plumb');
      assert.equal(await other.has(sha256(bytes)), false);
    });

    test('damaged bytes are data loss, and putting them again mends them', async () => {
      const bytes = bytesOf(`a clip that will rot on ${kind}`);
      const { uri, sha256: hash } = await store.put(bytes, { mediaType });
      for (const damage of ['rotten', `a clip that has rotten on${kind}`, 'x'.repeat(4000)]) {
        await overwrite(hash, damage);
        await assert.rejects(store.get(uri, hash), { code: 'DATA_LOSS', reason: 'ARTIFACT_CORRUPT' });
        await store.put(bytes, { mediaType });
        assert.deepEqual(await store.get(uri, hash), bytes);
      }
    });

    test('what is not there is not found; what is removed is gone, and removing it again is harmless', async () => {
      const hash = 'ab'.repeat(32);
      assert.equal(await store.has(hash), false);
      await assert.rejects(store.get(artifactUri(hash), hash), {
        code: 'NOT_FOUND',
        reason: 'ARTIFACT_NOT_FOUND',
      });
      const { uri, sha256: stored } = await store.put(bytesOf('for a while'), { mediaType });
      await store.remove(uri);
      await store.remove(uri);
      assert.equal(await store.has(stored), false);
    });

    test('no other URI reaches the bucket, and nothing over the limit is written or read', async () => {
      await assert.rejects(store.get('s3://plumb/write-test', 'ab'.repeat(32)), { code: 'INVALID_ARGUMENT' });
      const small = await openS3Store(location, { maxBytes: 10 });
      await assert.rejects(small.put(new Uint8Array(11), { mediaType }), { code: 'RESOURCE_EXHAUSTED' });
      const { uri, sha256: hash } = await store.put(new Uint8Array(12), { mediaType });
      await assert.rejects(small.get(uri, hash), { code: 'RESOURCE_EXHAUSTED' });
    });

    test('a bucket that is not there is named, with the fix', async () => {
      await assert.rejects(openS3Store('s3://absent/x'), {
        reason: 'CONFIGURATION_INVALID',
        message: /s3:\/\/absent\/x refuses \(NoSuchBucket\); make the bucket/,
      });
    });

    test(
      'a server that is away is UNAVAILABLE, and afterwards it is all there',
      { skip: kind === 'moto' },
      async () => {
        const { uri, sha256: hash } = await store.put(bytesOf('kept'), { mediaType });
        await server.kill();
        await assert.rejects(store.get(uri, hash), { code: 'UNAVAILABLE' });
        await server.restart();
        assert.deepEqual(await store.get(uri, hash), bytesOf('kept'));
      },
    );
  });
}

test('a wrong secret is named as such', async (t) => {
  const server = await startS3Server();
  t.after(() => server.stop());
  Object.assign(process.env, server.env, { AWS_SECRET_ACCESS_KEY: 'wrong' });
  await assert.rejects(openS3Store(location), {
    reason: 'CONFIGURATION_INVALID',
    message: /refuses \(SignatureDoesNotMatch\); check AWS_SECRET_ACCESS_KEY/,
  });
});

test('a location that is none is refused', async () => {
  for (const bad of ['s3://', 's3:/plumb', 's3://UPPER/x', 's3://plumb/a?b', 's3://plumb/a b']) {
    await assert.rejects(openArtifactStore(bad), { reason: 'CONFIGURATION_INVALID' }, bad);
  }
});
