import assert from 'node:assert/strict';
import { spawnSync } from 'node:child_process';
import { createHash } from 'node:crypto';
import { mkdir, mkdtemp, rm, symlink, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { test } from 'node:test';
import { pathToFileURL } from 'node:url';
import { deflateSync, crc32 } from 'node:zlib';
import { create } from '@bufbuild/protobuf';
import type { MessageInitShape } from '@bufbuild/protobuf';
import { PlumbError } from '@plumb/kit/errors';
import { ValueRange, VideoSchema } from '@plumb/proto/plumb/media/v1/video_pb.js';
import type { Video } from '@plumb/proto/plumb/media/v1/video_pb.js';
import fc from 'fast-check';
import sharp from 'sharp';
import { frameOf } from './clip.ts';
import type { Clip } from './clip.ts';
import { openClipSource } from './clip-source.ts';
import { encodeClip, encodePreview } from './encode.ts';
import { readVideo, videoViolations } from './video.ts';
import type { ArtifactSource } from './video.ts';

const nothing: ArtifactSource = { get: () => Promise.reject(new Error('nothing is stored here')) };
const limits = { maxPixels: 2 ** 20, maxFrames: 64 };

function inline(
  bytes: Uint8Array,
  mediaType: string,
  rest: MessageInitShape<typeof VideoSchema> = {},
): Video {
  return create(VideoSchema, { ...rest, source: { case: 'inline', value: bytes }, mediaType });
}

/** Frames that differ from each other in every pixel, so that no encoder merges any. */
function moving(frames: number, width = 16, height = 12): Clip {
  const data = new Uint8Array(frames * width * height * 3);
  for (let index = 0; index < data.length; index += 1) {
    data[index] = Math.floor(index / (width * height * 3)) * 30 + ((index * 7) % 11);
  }
  return { frames, height, width, fps: 8, data };
}

async function refused(video: Video, code: string, says: RegExp, source = nothing): Promise<void> {
  await assert.rejects(readVideo(video, source, 'video', limits), (error) => {
    assert.ok(error instanceof PlumbError, String(error));
    assert.equal(error.code, code, error.message);
    assert.match(error.message, says);
    return true;
  });
}

/** An animated PNG of RGB frames, written by the book. */
function apng(
  clip: Clip,
  delays: readonly number[],
  change: (type: string, data: Buffer) => Buffer = (_, data) => data,
): Buffer {
  const chunk = (type: string, data: Buffer): Buffer => {
    const body = Buffer.concat([Buffer.from(type, 'latin1'), change(type, data)]);
    const framed = Buffer.alloc(body.length + 8);
    framed.writeUInt32BE(body.length - 4, 0);
    body.copy(framed, 4);
    framed.writeUInt32BE(crc32(body), body.length + 4);
    return framed;
  };
  const numbers = (...values: readonly number[]): Buffer => {
    const buffer = Buffer.alloc(values.length * 4);
    values.forEach((value, index) => buffer.writeUInt32BE(value, index * 4));
    return buffer;
  };
  const parts = [
    Buffer.from([0x89, 0x50, 0x4e, 0x47, 0x0d, 0x0a, 0x1a, 0x0a]),
    chunk('IHDR', Buffer.concat([numbers(clip.width, clip.height), Buffer.from([8, 2, 0, 0, 0])])),
    chunk('acTL', numbers(clip.frames, 0)),
  ];
  let sequence = 0;
  for (let frame = 0; frame < clip.frames; frame += 1) {
    const control = Buffer.alloc(26);
    numbers(sequence, clip.width, clip.height, 0, 0).copy(control);
    control.writeUInt16BE(delays[frame] ?? 0, 20);
    control.writeUInt16BE(1000, 22);
    sequence += 1;
    const pixels = frameOf(clip, frame);
    const rows = Array.from({ length: clip.height }, (_, y) =>
      Buffer.concat([Buffer.from([0]), pixels.subarray(y * clip.width * 3, (y + 1) * clip.width * 3)]),
    );
    const data = deflateSync(Buffer.concat(rows));
    parts.push(chunk('fcTL', control));
    if (frame === 0) parts.push(chunk('IDAT', data));
    else {
      parts.push(chunk('fdAT', Buffer.concat([numbers(sequence), data])));
      sequence += 1;
    }
  }
  return Buffer.concat([...parts, chunk('IEND', Buffer.alloc(0))]);
}

async function gif(clip: Clip, delay: number[]): Promise<Buffer> {
  const strip = {
    width: clip.width,
    height: clip.height * clip.frames,
    channels: 3 as const,
    pageHeight: clip.height,
  };
  return sharp(clip.data, { raw: strip }).gif({ delay, loop: 0 }).toBuffer();
}

test('raw frames are taken as they are, and must be as many as the message says', async () => {
  const clip = moving(3);
  const shape = {
    width: clip.width,
    height: clip.height,
    frameCount: clip.frames,
    fps: 8,
    valueRange: ValueRange.UINT8,
  };
  assert.deepEqual(await readVideo(inline(clip.data, 'video/raw', shape), nothing), clip);
  await refused(
    inline(clip.data.subarray(1), 'video/raw', shape),
    'INVALID_ARGUMENT',
    /has 1727 bytes.*are 1728/,
  );
  await refused(inline(clip.data, 'video/raw'), 'INVALID_ARGUMENT', /width: is 0/);
});

test('an animated WebP, GIF or PNG says its own shape and rate', async () => {
  const clip = moving(5);
  const webp = await readVideo(inline(await encodePreview(clip, { scale: 1 }), 'image/webp'), nothing);
  assert.deepEqual(webp, clip);
  assert.deepEqual(await readVideo(inline(apng(clip, Array(5).fill(125)), 'image/apng'), nothing), clip);
  const { data, ...shape } = await readVideo(
    inline(await gif(clip, Array<number>(5).fill(130)), 'image/gif'),
    nothing,
  );
  assert.equal(data.length, clip.data.length);
  assert.deepEqual(shape, { frames: 5, height: 12, width: 16, fps: 1000 / 130 });
});

test('a frame that is shown for longer is repeated, also where an encoder merged frames', async () => {
  const still = { ...moving(1), frames: 4, data: Buffer.concat(Array<Uint8Array>(4).fill(moving(1).data)) };
  const both = {
    ...still,
    frames: 6,
    data: Buffer.concat([still.data, moving(3).data.subarray(still.data.length / 4)]),
  };
  const merged = await encodePreview({ ...both, data: new Uint8Array(both.data) }, { scale: 1 });
  const { pages } = await sharp(merged, { pages: -1 }).metadata();
  assert.equal(pages, 3);
  const back = await readVideo(inline(merged, 'image/webp', { frameCount: 6 }), nothing);
  assert.deepEqual(Buffer.from(back.data), both.data);
  const slow = await readVideo(inline(apng(moving(2), [100, 300]), 'image/apng'), nothing);
  assert.deepEqual([slow.frames, slow.fps], [4, 10]);
});

test('frames of an animated PNG are laid over each other as they ask', async () => {
  const clip = moving(3, 4, 4);
  // The second frame is only the middle and is cleared again; the third covers nothing but the first pixel.
  let frame = 0;
  const bytes = apng({ ...clip, frames: 2 }, [100, 100], (type, data) => {
    if (type !== 'fcTL') return data;
    frame += 1;
    data.writeUInt8(frame === 1 ? 1 : 0, 24);
    return data;
  });
  const back = await readVideo(inline(bytes, 'image/apng'), nothing);
  assert.deepEqual(frameOf(back, 1), frameOf(clip, 1));
});

test('what a file holds must be what the message says', async () => {
  const webp = await encodePreview(moving(5), { scale: 1 });
  await refused(
    inline(webp, 'image/webp', { frameCount: 4 }),
    'INVALID_ARGUMENT',
    /frame_count: is 4, but the file has 5/,
  );
  await refused(inline(webp, 'image/gif'), 'DATA_LOSS', /is not a GIF/);
  await refused(inline(webp, 'video/mp4'), 'DATA_LOSS', /is not a MP4/);
  await refused(
    inline(webp, 'image/svg+xml'),
    'INVALID_ARGUMENT',
    /media_type: is "image\/svg\+xml"; give one of/,
  );
});

test('a small file that would become a large clip is refused before it does', async () => {
  const huge = await sharp({ create: { width: 2048, height: 1024, channels: 3, background: 'red' } })
    .webp()
    .toBuffer();
  await refused(
    inline(huge, 'image/webp'),
    'INVALID_ARGUMENT',
    /1 x 1024 x 2048 = 2097152 pixels, over the limit/,
  );
  const slow = apng(moving(2), [20, 60_000]);
  await refused(inline(slow, 'image/apng'), 'INVALID_ARGUMENT', /has 3001 frames, over the limit of 64/);
  const lying = apng(moving(2), [20, 20], (type, data) => {
    if (type === 'IHDR') data.writeUInt32BE(2 ** 31 - 1, 0);
    return data;
  });
  await refused(inline(lying, 'image/apng'), 'INVALID_ARGUMENT', /over the limit/);
});

test('a broken animation is data loss and never a clip that is half right', async () => {
  const clip = moving(4);
  const files: [string, Uint8Array][] = [
    ['image/apng', apng(clip, [100, 100, 100, 100])],
    ['image/webp', await encodePreview(clip, { scale: 1 })],
    ['image/gif', await gif(clip, [100, 100, 100, 100])],
  ];
  await fc.assert(
    fc.asyncProperty(
      fc.constantFrom(...files),
      fc.nat(),
      fc.integer({ min: 1, max: 255 }),
      async ([type, bytes], at, flip) => {
        const broken = bytes.slice();
        const place = at % broken.length;
        broken[place] = (broken[place] ?? 0) ^ flip;
        for (const bad of [broken, bytes.subarray(0, place)]) {
          if (bad.length === 0) continue;
          try {
            const read = await readVideo(inline(bad, type), nothing, 'video', limits);
            assert.equal(read.data.length, read.frames * read.width * read.height * 3);
          } catch (error) {
            assert.ok(
              error instanceof PlumbError && ['DATA_LOSS', 'INVALID_ARGUMENT'].includes(error.code),
              String(error),
            );
          }
        }
      },
    ),
    { numRuns: 150 },
  );
});

const ffmpeg = spawnSync('ffmpeg', ['-version']).status === 0;

test('without ffmpeg a video is refused with what to do', async (t) => {
  const path = process.env['PATH'];
  t.after(() => {
    process.env['PATH'] = path;
  });
  process.env['PATH'] = '/nowhere';
  const start = Buffer.from('\0\0\0\x20ftypisom\0\0\0\0', 'latin1');
  await refused(
    inline(start, 'video/mp4'),
    'FAILED_PRECONDITION',
    /video\/mp4 needs ffmpeg.*install ffmpeg, or send/,
  );
});

test('MP4 and WebM through ffmpeg', { skip: ffmpeg ? false : 'there is no ffmpeg' }, async () => {
  const made = (...args: string[]): Buffer => {
    const source = ['-f', 'lavfi', '-i', 'testsrc=size=64x48:rate=8:duration=2', '-pix_fmt', 'yuv420p'];
    const { stdout, stderr } = spawnSync('ffmpeg', ['-loglevel', 'error', ...source, ...args, 'pipe:1'], {
      maxBuffer: 2 ** 26,
    });
    assert.ok(stdout.length > 0, stderr.toString());
    return stdout;
  };
  const webm = made('-c:v', 'libvpx-vp9', '-f', 'webm');
  const mp4 = made('-c:v', 'mpeg4', '-movflags', 'frag_keyframe+empty_moov', '-f', 'mp4');
  for (const [type, bytes] of [
    ['video/webm', webm],
    ['video/mp4', mp4],
  ] as const) {
    const { data, ...shape } = await readVideo(inline(bytes, type), nothing);
    assert.deepEqual(shape, { frames: 16, width: 64, height: 48, fps: 8 });
    assert.ok(new Set(data).size > 50);
  }
  await refused(inline(mp4.subarray(0, mp4.length / 2), 'video/mp4'), 'DATA_LOSS', /cannot be decoded/);
  const large = made('-vf', 'scale=1280:1024', '-c:v', 'libvpx', '-f', 'webm');
  await refused(inline(large, 'video/webm'), 'INVALID_ARGUMENT', /over the limit|cannot be decoded/);
});

test('clips by URI come from allowed folders only', async (t) => {
  const folder = await mkdtemp(join(tmpdir(), 'plumb-clips-'));
  t.after(() => rm(folder, { recursive: true, force: true }));
  const clip = moving(2);
  const bytes = await encodeClip(clip);
  const sha256 = createHash('sha256').update(bytes).digest('hex');
  await mkdir(join(folder, 'open'));
  await mkdir(join(folder, 'open-too'));
  for (const name of ['open/clip.png', 'open-too/clip.png', 'secret.png'])
    await writeFile(join(folder, name), bytes);
  await symlink(join(folder, 'secret.png'), join(folder, 'open/link.png'));
  const base = pathToFileURL(folder).href;
  const source = openClipSource({
    artifacts: nothing,
    prefixes: [`${base}/open/`, 'https://clips.example/open/'],
    maxBytes: 2 ** 20,
  });
  const by = (uri: string, hash = sha256): Video =>
    create(VideoSchema, {
      source: { case: 'uri', value: uri },
      sha256: hash,
      mediaType: 'image/png',
      width: 16,
      height: 12,
      frameCount: 2,
      fps: 8,
      valueRange: ValueRange.UINT8,
    });
  assert.deepEqual(await readVideo(by(`${base}/open/clip.png`), source), clip);
  await refused(by(`${base}/open/clip.png`, '0'.repeat(64)), 'DATA_LOSS', /have the hash/, source);
  await refused(by(`${base}/open/none.png`), 'NOT_FOUND', /does not exist/, source);
  await refused(by(`${base}/open/link.png`), 'INVALID_ARGUMENT', /leads out/, source);
  for (const uri of [
    `${base}/secret.png`,
    `${base}/open-too/clip.png`,
    `${base}/open/../secret.png`,
    `${base}/open/%2e%2e/secret.png`,
    `${base}/open/..%2fsecret.png`,
    `${base}/open/%00`,
    'file:///etc/passwd',
    'file://localhost/etc/passwd',
    '/etc/passwd',
    '../secret.png',
    'http://169.254.169.254/latest/meta-data/',
    'https://clips.example.evil/open/',
    'https://clips.example@evil/open/',
    'https://user@clips.example/open/',
    'https://clips.example/open/../shut/',
    'https://clips.example/open/?x=1',
    'ftp://clips.example/open/',
    'concat:/etc/passwd',
    'data:image/png;base64,AAAA',
  ]) {
    const violations = videoViolations(by(uri), 'video', source.refusal?.bind(source));
    assert.deepEqual(
      violations.map(({ field }) => field),
      ['video.uri'],
      uri,
    );
    await refused(by(uri), 'INVALID_ARGUMENT', /video.uri: is read neither/, source);
  }
  assert.throws(() => openClipSource({ artifacts: nothing, prefixes: ['file:///data'], maxBytes: 1 }), {
    reason: 'CONFIGURATION_INVALID',
  });
});
