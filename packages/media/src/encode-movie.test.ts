import assert from 'node:assert/strict';
import { spawnSync } from 'node:child_process';
import { test } from 'node:test';
import type { Clip } from './clip.ts';
import { defaultClipLimits } from './clip-limits.ts';
import { encodeMovie } from './encode-movie.ts';
import { decodeMovie } from './movie.ts';

const ffmpeg = spawnSync('ffmpeg', ['-version']).status === 0;

/** A gradient that moves; 21 pixels wide, an odd number. */
const clip: Clip = {
  frames: 5,
  height: 16,
  width: 21,
  fps: 8,
  data: Uint8Array.from({ length: 5 * 16 * 21 * 3 }, (_, i) => {
    const column = Math.floor(i / 3) % 21;
    const frame = Math.floor(i / (3 * 21 * 16));
    return 60 + 6 * column + 4 * frame;
  }),
};

test('a movie has the frames, the rate and about the colours of its clip', { skip: !ffmpeg }, async () => {
  const decoded = await decodeMovie(await encodeMovie(clip), 'video/mp4', defaultClipLimits);
  const { frames, height, width, fps } = decoded;
  assert.deepEqual({ frames, height, width, fps }, { frames: 5, height: 16, width: 22, fps: 8 });
  let off = 0;
  for (let i = 0; i < clip.data.length; i++) {
    const column = Math.floor(i / 3) % 21;
    const row = Math.floor(i / (3 * 21));
    off += Math.abs((decoded.data[3 * (row * 22 + column) + (i % 3)] ?? 0) - (clip.data[i] ?? 0));
  }
  assert.ok(off / clip.data.length < 6, `colours are ${off / clip.data.length} off on average`);
});

test('without ffmpeg the error says what to do', async (t) => {
  const { PATH } = process.env;
  process.env['PATH'] = '';
  t.after(() => {
    process.env['PATH'] = PATH;
  });
  await assert.rejects(encodeMovie(clip), { code: 'FAILED_PRECONDITION', message: /install ffmpeg.*WebP/ });
});
