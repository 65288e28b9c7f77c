/**
 * Broken and malicious calls of the Reward API: nothing crashes, nothing outside of the allowed prefixes is touched (a file
 * and a server watch for it), and every call and item has a proper status. PLUMB_FUZZ_SECONDS (20) and PLUMB_FUZZ_SEED (1) say
 * how long, and with what.
 */

import assert from 'node:assert/strict';
import { createHash } from 'node:crypto';
import { execFile } from 'node:child_process';
import { once } from 'node:events';
import { mkdir, mkdtemp, readFile, rm, stat, symlink, utimes, writeFile } from 'node:fs/promises';
import { createServer as createHttpServer } from 'node:http';
import { createServer as createHttpsServer } from 'node:https';
import type { Server } from 'node:net';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { test } from 'node:test';
import { pathToFileURL } from 'node:url';
import { inspect, promisify } from 'node:util';
import { deflateSync } from 'node:zlib';
import type { MessageInitShape } from '@bufbuild/protobuf';
import { create, toBinary } from '@bufbuild/protobuf';
import { Client, credentials } from '@grpc/grpc-js';
import type { ServiceError } from '@grpc/grpc-js';
import { randomGenerator } from '@plumb/diffusion';
import { describeError, PlumbError, fromStatus } from '@plumb/kit/errors';
import { createClient } from '@plumb/kit/rpc';
import { createAuthority } from '@plumb/kit/testing/certificates';
import { startNatsServer } from '@plumb/kit/testing/nats-server';
import { encodeClip, encodeMovie, encodePreview } from '@plumb/media';
import type { Clip } from '@plumb/media';
import type { VideoSchema } from '@plumb/proto/plumb/media/v1/video_pb.js';
import { RewardService, ScoreRequestSchema } from '@plumb/proto/plumb/reward/v1/reward_pb.js';
import type { ScoreItemSchema } from '@plumb/proto/plumb/reward/v1/reward_pb.js';
import sharp from 'sharp';
import { startService } from './support/service-process.ts';

const seconds = Number(process.env['PLUMB_FUZZ_SECONDS'] ?? 20);
const seed = process.env['PLUMB_FUZZ_SEED'] ?? '1';
const largestMemoryMib = 3072;
const rewards = ['motion_floor', 'colour_stability', 'clip_score', 'optical_flow', 'aif'];

/** What a call or an item may end with besides a score. UNKNOWN and INTERNAL would be errors that nobody foresaw. */
const proper = new Set([
  'CANCELLED',
  'INVALID_ARGUMENT',
  'DEADLINE_EXCEEDED',
  'NOT_FOUND',
  'RESOURCE_EXHAUSTED',
  'FAILED_PRECONDITION',
  'UNAVAILABLE',
  'DATA_LOSS',
]);

test('fuzzing the Reward API', { timeout: (seconds + 600) * 1000 }, async (t) => {
  const folder = await mkdtemp(path.join(tmpdir(), 'plumb-fuzz-'));
  const nats = await startNatsServer();
  const open = path.join(folder, 'open');
  await mkdir(open);
  const prefix = `${pathToFileURL(open).href}/`;
  // A host that is allowed, and one that is not and must never be asked for anything.
  let touched = 0;
  const canary = createHttpServer((_request, response) => {
    touched += 1;
    response.end();
  });
  canary.on('connection', () => {
    touched += 1;
  });
  const forbidden = `http://localhost:${await listening(canary)}/`;
  const authority = await createAuthority('plumb fuzz');
  const { certificate, key } = await authority.issue([{ type: 'dns', value: 'localhost' }]);
  await writeFile(path.join(folder, 'ca.pem'), authority.certificate);
  const served = new Map<string, Uint8Array>();
  const web = createHttpsServer({ cert: certificate, key }, (request, response) => {
    const name = request.url ?? '';
    const body = served.get(name);
    if (name.endsWith('/redirect.png')) response.writeHead(302, { location: forbidden }).end();
    else if (name.endsWith('/cut.png')) {
      response.writeHead(200, { 'content-length': '1000' });
      response.write('cut', () => response.destroy());
    } else if (body === undefined) response.writeHead(404).end();
    else response.end(body);
  });
  const webPrefix = `https://localhost:${await listening(web)}/clips/`;
  const service = await startService('reward', {
    PLUMB_NATS_URL: nats.url,
    PLUMB_ARTIFACTS: path.join(folder, 'artifacts'),
    PLUMB_SPAN_DIRECTORY: path.join(folder, 'spans'),
    PLUMB_JUDGE_ADDRESS: '127.0.0.1:1',
    PLUMB_CLIP_PREFIXES: `${prefix},${webPrefix}`,
    NODE_EXTRA_CA_CERTS: path.join(folder, 'ca.pem'),
    PLUMB_LOG_LEVEL: 'error',
    PLUMB_INTRA_OP_THREADS: '1',
  });
  const client = createClient(RewardService, service.address, { retry: 'none', defaultDeadlineMs: 120_000 });
  const raw = new Client(service.address, credentials.createInsecure());
  t.after(async () => {
    client.close();
    raw.close();
    await service.stop();
    await nats.stop();
    for (const server of [web, canary]) {
      server.closeAllConnections();
      server.close();
    }
    await rm(folder, { recursive: true, force: true });
  });

  const random = randomGenerator('fuzz', seed);
  const below = (end: number): number => (random.next() >>> 0) % end;
  const one = <T>(choices: readonly T[]): T => {
    const chosen = choices[below(choices.length)];
    if (chosen === undefined) throw new TypeError('nothing to choose from');
    return chosen;
  };
  const bytes = (length: number): Uint8Array => Uint8Array.from({ length }, () => below(256));
  const text = (): string =>
    one([
      () => '',
      () => 'a ball falls',
      () => String.fromCodePoint(...Array.from({ length: below(40) }, () => below(0xd7ff))),
      () => 'x'.repeat(below(5000)),
      () => '\0\n\r\u202e%s${jndi:ldap://x}',
    ])();

  // One clip inside of the allowed folder and one outside of it, whose hash is given: reading it would succeed.
  const clip: Clip = { frames: 3, width: 8, height: 6, fps: 8, data: bytes(3 * 8 * 6 * 3) };
  const strip = await encodeClip(clip);
  const hashOf = (data: Uint8Array): string => createHash('sha256').update(data).digest('hex');
  const hidden = await encodeClip({ ...clip, data: bytes(clip.data.length) });
  const sha256 = hashOf(hidden);
  const secret = path.join(folder, 'secret.png');
  await writeFile(secret, hidden);
  await writeFile(path.join(open, 'clip.png'), strip);
  await symlink(secret, path.join(open, 'link.png'));
  await symlink('/', path.join(open, 'root'));
  const outside = pathToFileURL(secret).href;
  // Whoever reads a file whose access time is older than its last change moves it, unless the file system keeps none.
  const longAgo = new Date('2001-01-01T00:00:00Z');
  const control = path.join(folder, 'control.png');
  await writeFile(control, hidden);
  for (const file of [secret, control]) await utimes(file, longAgo, new Date());
  await readFile(control);
  const watched = (await stat(control)).atimeMs !== longAgo.getTime();
  if (!watched) t.diagnostic('this file system keeps no access times: the hidden file is not watched');
  served.set('/clips/clip.png', strip);
  served.set('/secret.png', hidden);
  const allowed = new Set([`${webPrefix}clip.png`]);
  const uris = [
    outside,
    secret,
    `${prefix}../secret.png`,
    `${prefix}%2e%2e/secret.png`,
    `${prefix}..%2fsecret.png`,
    `${prefix}..\\secret.png`,
    `${prefix}link.png`,
    `${prefix}root${secret}`,
    `${prefix}./clip.png/../../secret.png`,
    `artifact:sha256/../../../../${secret}`,
    `artifact:sha256/${sha256}`,
    forbidden,
    forbidden.replace('http:', 'https:'),
    forbidden.replace('localhost', '127.0.0.1'),
    `${webPrefix}clip.png`,
    `${webPrefix}redirect.png`,
    `${webPrefix}cut.png`,
    `${webPrefix}none.png`,
    `${webPrefix}../secret.png`,
    `${webPrefix}%2e%2e/secret.png`,
    webPrefix.replace('https://', `https://${new URL(forbidden).host}@`),
    'file:///etc/passwd',
    'file:///dev/zero',
    'file:///proc/self/environ',
    'http://169.254.169.254/latest/meta-data/',
    'https://169.254.169.254/',
    'http://[::1]:1/',
    'http://metadata.google.internal/',
    `subfile,,start,0,end,0,,:${secret}`,
    `concat:${secret}|${secret}`,
    'data:image/png;base64,AAAA',
    `\0${secret}`,
  ];
  const strips = { width: 8, height: 6, frameCount: 3, fps: 8, valueRange: 1 };

  const stillOf = (width: number, height: number) =>
    sharp({ create: { width, height, channels: 3, background: 'blue' } });
  /** A PNG whose header promises more than is there, and whose data unpack to far more than they take. */
  const bomb = Buffer.from(await stillOf(64, 64).png().toBuffer());
  bomb.writeUInt32BE(2 ** 31 - 1, 16);
  bomb.writeUInt32BE(2 ** 31 - 1, 20);
  const movie: Clip = { ...clip, width: 16, height: 16, data: bytes(3 * 16 * 16 * 3) };
  const mp4 = await encodeMovie(movie);
  const webm = path.join(folder, 'movie.webm');
  await writeFile(path.join(folder, 'movie.mp4'), mp4);
  const converting = ['-loglevel', 'error', '-i', path.join(folder, 'movie.mp4'), '-c:v', 'libvpx-vp9', webm];
  await promisify(execFile)('ffmpeg', converting);
  const files: readonly { readonly type: string; readonly data: Uint8Array; readonly shape?: object }[] = [
    { type: 'image/png', data: strip, shape: strips },
    { type: 'image/apng', data: strip },
    { type: 'image/webp', data: await encodePreview(clip, { scale: 1 }) },
    {
      type: 'image/gif',
      data: await sharp(clip.data, { raw: { width: 8, height: 18, channels: 3, pageHeight: 6 } })
        .gif()
        .toBuffer(),
    },
    { type: 'video/raw', data: clip.data, shape: strips },
    { type: 'video/raw', data: bytes(3), shape: { ...strips, width: 1, height: 1, frameCount: 1 } },
    { type: 'image/webp', data: await stillOf(1, 1).webp().toBuffer() },
    { type: 'image/webp', data: await stillOf(4096, 4096).webp({ effort: 0 }).toBuffer() },
    { type: 'image/apng', data: await stillOf(4096, 4096).png().toBuffer() },
    {
      type: 'image/apng',
      data: await stillOf(16_000, 16_000).png({ compressionLevel: 9, palette: true }).toBuffer(),
    },
    { type: 'image/png', data: bomb, shape: { ...strips, width: 4096, height: 4096 } },
    { type: 'image/apng', data: bomb },
    { type: 'image/png', data: deflateSync(Buffer.alloc(2 ** 22)), shape: strips },
    { type: 'video/mp4', data: Buffer.concat([Buffer.from('\0\0\0\x20ftypisom', 'latin1'), bytes(200)]) },
    { type: 'video/webm', data: Buffer.concat([Buffer.from([0x1a, 0x45, 0xdf, 0xa3]), bytes(200)]) },
    { type: 'video/mp4', data: mp4 },
    { type: 'video/webm', data: await readFile(webm) },
    { type: 'image/svg+xml', data: Buffer.from(`<svg><image href="${outside}"/></svg>`) },
    { type: 'image/webp', data: Buffer.from(`<svg><image href="${outside}"/></svg>`) },
    { type: 'video/mp4', data: Buffer.from(`#EXTM3U\n#EXTINF:1,\n${outside}\n`) },
  ];

  function broken(data: Uint8Array): Uint8Array {
    const changed = data.slice();
    switch (below(4)) {
      case 0:
        return changed;
      case 1:
        return changed.subarray(0, below(changed.length + 1));
      case 2:
        for (let count = 1 + below(8); count > 0; count -= 1) changed[below(changed.length)] = below(256);
        return changed;
      default:
        return Buffer.concat([changed, bytes(below(64))]);
    }
  }

  const number = (): number => one([0, 1, 3, 6, 8, -1, 4096, 2 ** 31 - 1, -(2 ** 31), below(100)]);
  const rate = (): number => one([0, 8, -1, 1e308, Number.NaN, Infinity, 5e-324]);

  function video(): MessageInitShape<typeof VideoSchema> {
    if (below(3) === 0) {
      const uri = one(uris);
      return {
        source: { case: 'uri', value: uri },
        // A hash that was scored before is answered from the cache, whatever the URI: what may not be read has one of its own.
        sha256: one([allowed.has(uri) ? hashOf(strip) : sha256, text()]),
        mediaType: 'image/png',
        ...strips,
      };
    }
    const { type, data, shape } = one(files);
    const lies =
      below(3) === 0
        ? {
            width: number(),
            height: number(),
            frameCount: number(),
            fps: rate(),
            valueRange: one([0, 1, 2, 99]),
          }
        : {};
    return {
      source: { case: 'inline', value: broken(data) },
      mediaType: below(8) === 0 ? one([text(), ...files.map((file) => file.type)]) : type,
      sha256: one(['', '', '', text(), sha256]),
      ...shape,
      ...lies,
    };
  }

  const request = (): MessageInitShape<typeof ScoreRequestSchema> => ({
    items: Array.from(
      { length: one([0, 1, 1, 1, 3, 65]) },
      (_, index): MessageInitShape<typeof ScoreItemSchema> => ({
        id: below(10) === 0 ? text() : String(index),
        prompt: { text: below(3) === 0 ? text() : 'a ball falls', category: number(), id: text() },
        ...(below(20) === 0 ? {} : { video: video() }),
      }),
    ),
    rewards: below(8) === 0 ? [text(), text()] : [one(rewards)],
    priority: one<number>([0, 1, 2, 77]),
    runId: text(),
  });

  const counts: Record<string, number> = {};
  const seen = (what: string): void => {
    counts[what] = (counts[what] ?? 0) + 1;
  };
  /** What was sent, short enough to read; all of it follows from the seed. */
  const shown = (about: unknown): string =>
    inspect(about, { depth: 8, maxStringLength: 100, maxArrayLength: 20 });
  function check(error: PlumbError, about: unknown): void {
    seen(error.code);
    assert.ok(
      proper.has(error.code),
      `${error.code}: ${describeError(error)}; seed ${seed}; ${shown(about)}\n${service.log().slice(-4000)}`,
    );
  }

  async function callWhole(): Promise<void> {
    const sent = request();
    try {
      const { items } = await client.score(sent, below(20) === 0 ? { deadlineMs: 1 + below(50) } : {});
      for (const [index, { outcomes }] of items.entries()) {
        const source = sent.items?.[index]?.video?.source;
        for (const { outcome } of outcomes) {
          if (outcome.case === 'error' && outcome.value.status !== undefined) {
            check(fromStatus(outcome.value.status), sent.items?.[index]);
            continue;
          }
          seen('score');
          assert.ok(
            source?.case !== 'uri' || allowed.has(source.value),
            `something was read from ${String(source?.value)}`,
          );
        }
      }
    } catch (thrown) {
      if (thrown instanceof assert.AssertionError) throw thrown;
      check(PlumbError.from(thrown), sent);
    }
  }

  /** Bytes that no client would send. */
  async function callRaw(): Promise<void> {
    const good = toBinary(ScoreRequestSchema, create(ScoreRequestSchema, request()));
    const sent = Buffer.from(below(3) === 0 ? bytes(below(300)) : broken(good));
    const method = one(['Score', 'GetReward', 'ListRewards', 'GetShadowReport', 'ReloadRewards']);
    const code = await new Promise<string>((resolve) => {
      raw.makeUnaryRequest(
        `/${RewardService.typeName}/${method}`,
        (value: Buffer) => value,
        (value: Buffer) => value,
        sent,
        (error: ServiceError | null) => resolve(error === null ? 'answered' : String(error.code)),
      );
    });
    seen(`raw ${code}`);
    // Code 2 is UNKNOWN, 13 is INTERNAL.
    assert.ok(
      code !== '2' && code !== '13',
      `${method} ended with ${code}; seed ${seed}; ${sent.toString('hex').slice(0, 2000)}`,
    );
  }

  async function callStream(): Promise<void> {
    const sent = Array.from({ length: 1 + below(10) }, () => ({
      item: request().items?.[0],
      rewards: [one(rewards)],
    }));
    try {
      for await (const { item } of client.scoreStream(
        sent.map(({ item, rewards: names }) => ({ rewards: names, ...(item === undefined ? {} : { item }) })),
      )) {
        for (const { outcome } of item?.outcomes ?? []) {
          if (outcome.case === 'error' && outcome.value.status !== undefined)
            check(fromStatus(outcome.value.status), sent);
        }
        if (below(30) === 0) break;
      }
    } catch (thrown) {
      if (thrown instanceof assert.AssertionError) throw thrown;
      check(PlumbError.from(thrown), sent);
    }
  }

  async function callReload(): Promise<void> {
    const { refused } = await client.reloadRewards({});
    seen('reload');
    assert.deepEqual(Object.keys(refused), []);
  }

  let largest = 0;
  const end = performance.now() + seconds * 1000;
  await Promise.all(
    Array.from({ length: 4 }, async () => {
      while (performance.now() < end) {
        await (below(50) === 0 ? callReload : one([callWhole, callWhole, callWhole, callRaw, callStream]))();
        const status = await readFile(`/proc/${service.pid}/status`, 'utf8').catch(() => '');
        largest = Math.max(largest, Number(/^VmRSS:\s+(\d+) kB$/m.exec(status)?.[1] ?? 0) / 1024);
      }
    }),
  );
  t.diagnostic(`${JSON.stringify(counts)}; at most ${Math.round(largest)} MiB`);
  assert.ok(largest < largestMemoryMib, `the service took ${largest} MiB`);
  assert.equal(touched, 0, 'a host that is not allowed was asked');
  if (watched) assert.equal((await stat(secret)).atimeMs, longAgo.getTime(), 'a hidden file was read');

  // It is as well as ever, and what may be read is read.
  const video0 = {
    source: { case: 'uri' as const, value: `${prefix}clip.png` },
    sha256: hashOf(strip),
    mediaType: 'image/png',
    ...strips,
  };
  const { items } = await client.score({
    rewards: ['motion_floor', 'clip_score'],
    items: [{ id: 'last', prompt: { text: 'a red ball falls' }, video: video0 }],
  });
  const ends = items[0]?.outcomes.map(({ outcome }) => outcome.case);
  assert.equal(ends?.[0], 'score');
});

/** The port that a server listens on from now on, on loopback. */
async function listening(server: Server): Promise<number> {
  server.listen(0, 'localhost');
  await once(server, 'listening');
  const bound = server.address();
  assert.ok(bound !== null && typeof bound === 'object');
  return bound.port;
}
