/** Clips as MP4, through ffmpeg. */

import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { buffer, text } from 'node:stream/consumers';
import { deadlineExceeded, failedPrecondition } from '@plumb/kit/errors';
import { checkClip } from './clip.ts';
import type { Clip } from './clip.ts';
import { findFfmpeg } from './movie.ts';

/** Media type of what encodeMovie gives. */
export const movieMediaType = 'video/mp4';

/** Wall time that a clip may take, in seconds. */
const longestSeconds = 120;

/**
 * The clip as an MP4 of H.264 that browsers and phones play. Lossy: for people, not for training. A side of an odd number
 * of pixels is repeated once, because the format halves the colours.
 *
 * @throws PlumbError FAILED_PRECONDITION when there is no ffmpeg on the PATH or it cannot encode H.264; DEADLINE_EXCEEDED
 *   when it takes more than 120 s
 */
export async function encodeMovie(clip: Clip): Promise<Uint8Array> {
  checkClip(clip);
  const ffmpeg = await findFfmpeg(
    (reason) => `H.264 needs ffmpeg, ${reason}; install ffmpeg, or ask for previews in WebP`,
  );
  const child = spawn(ffmpeg, movieArguments(clip), {
    stdio: ['pipe', 'pipe', 'pipe'],
    cwd: '/',
    env: {},
    timeout: longestSeconds * 1000,
    killSignal: 'SIGKILL',
  });
  // It may stop reading before the end; what that means is told by its exit code.
  child.stdin.on('error', () => undefined);
  child.stdin.end(clip.data);
  const [movie, message] = await Promise.all([
    buffer(child.stdout),
    text(child.stderr),
    once(child, 'close'),
  ]);
  if (child.signalCode === 'SIGKILL') {
    throw deadlineExceeded(`ffmpeg took more than ${longestSeconds} s to encode a clip`);
  }
  if (child.exitCode !== 0) {
    const [line = ''] = message.split('\n');
    throw failedPrecondition(
      `ffmpeg cannot encode H.264 (${line.slice(0, 200)}); install one with libx264, or ask for previews in WebP`,
    );
  }
  return new Uint8Array(movie);
}

/** Only numbers come from the clip. */
function movieArguments({ width, height, fps }: Clip): string[] {
  const input = `-f rawvideo -pix_fmt rgb24 -video_size ${width}x${height} -framerate ${fps} -i pipe:0`;
  const even = `-vf pad=${width + (width % 2)}:${height + (height % 2)}:0:0,fillborders=0:${width % 2}:0:${height % 2}:smear`;
  const codec = '-c:v libx264 -preset fast -crf 18 -pix_fmt yuv420p';
  // A pipe cannot be gone back in, so the index goes into the fragments.
  const output = '-movflags frag_keyframe+empty_moov+default_base_moof -f mp4 pipe:1';
  return `-nostdin -hide_banner -loglevel error ${input} ${even} ${codec} ${output}`.split(' ');
}
