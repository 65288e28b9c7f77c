/** MP4 and WebM as clips, through ffmpeg. */

import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { access, constants } from 'node:fs/promises';
import { availableParallelism, tmpdir } from 'node:os';
import { delimiter, isAbsolute, join } from 'node:path';
import type { Readable } from 'node:stream';
import {
  dataLoss,
  deadlineExceeded,
  failedPrecondition,
  invalidArgument,
  PlumbError,
} from '@plumb/kit/errors';
import PQueue from 'p-queue';
import type { Clip } from './clip.ts';
import { checkLimits } from './clip-limits.ts';
import type { ClipLimits } from './clip-limits.ts';
import type { MovieMediaType } from './media-types.ts';

/** Processor time and wall time that a video may take, in seconds. */
const longestSeconds = 30;
/** Address space of ffmpeg, in KiB: 4 GiB, of which it touches what a picture needs. */
const largestMemoryKib = 4 * 2 ** 20;
/** Size of the largest file that ffmpeg may write, in blocks of 512 bytes: its copy of the input, which it seeks in. */
const largestFileBlocks = 2 ** 21;
const longestMessage = 64 * 1024;

/** The one demuxer that a media type may be read with: those that open further files (playlists) can never be chosen. */
const demuxers: Readonly<Record<MovieMediaType, string>> = { 'video/mp4': 'mov', 'video/webm': 'matroska' };
const decoders = 'h264,hevc,mpeg4,vp8,vp9,libvpx,libvpx-vp9,av1,libdav1d,libaom-av1';

/** Videos that are decoded at a time in this process. */
const running = new PQueue({ concurrency: Math.max(1, Math.floor(availableParallelism() / 2)) });

/**
 * Reads an MP4 or WebM. ffmpeg gets the bytes on its standard input and can open nothing else: its protocols, demuxer and
 * decoders are named one by one, and its time and memory are limited.
 *
 * @param fps frames a second, where the caller knows better than the file
 * @throws PlumbError FAILED_PRECONDITION when there is no ffmpeg on the PATH; INVALID_ARGUMENT over the limits; DATA_LOSS
 *   when the bytes are no intact video; DEADLINE_EXCEEDED when it takes more than 30 s; the signal's reason
 */
export async function decodeMovie(
  bytes: Uint8Array,
  mediaType: MovieMediaType,
  limits: ClipLimits,
  fps?: number,
  signal?: AbortSignal,
): Promise<Clip> {
  const name = mediaType === 'video/mp4' ? 'MP4' : 'WebM';
  if (!looksLike(mediaType, bytes)) throw dataLoss(`a clip of ${bytes.length} bytes is not a ${name}`);
  const ffmpeg = await findFfmpeg(
    (reason) =>
      `${mediaType} needs ffmpeg, ${reason}; install ffmpeg, or send image/webp, image/gif, ` +
      'image/apng, an image/png film strip or video/raw',
  );
  const work = () => runFfmpeg(ffmpeg, bytes, demuxers[mediaType], name, limits, fps, signal);
  return running.add(work, signal === undefined ? {} : { signal });
}

function looksLike(mediaType: MovieMediaType, bytes: Uint8Array): boolean {
  const start = Buffer.from(bytes.buffer, bytes.byteOffset, Math.min(bytes.length, 12));
  return mediaType === 'video/mp4'
    ? start.toString('latin1', 4, 8) === 'ftyp'
    : start.subarray(0, 4).equals(Buffer.from([0x1a, 0x45, 0xdf, 0xa3]));
}

/**
 * Path of ffmpeg.
 * @param describe makes the error's message of the reason
 * @throws PlumbError FAILED_PRECONDITION when it is not on the PATH
 */
export async function findFfmpeg(describe: (reason: string) => string): Promise<string> {
  for (const folder of (process.env['PATH'] ?? '').split(delimiter)) {
    // A relative entry would depend on where the service was started.
    if (!isAbsolute(folder)) continue;
    const candidate = join(folder, 'ffmpeg');
    try {
      await access(candidate, constants.X_OK);
      return candidate;
    } catch {
      // Not in this folder.
    }
  }
  throw failedPrecondition(describe("which is not on this service's PATH"));
}

async function runFfmpeg(
  ffmpeg: string,
  bytes: Uint8Array,
  demuxer: string,
  name: string,
  limits: ClipLimits,
  fps: number | undefined,
  signal: AbortSignal | undefined,
): Promise<Clip> {
  signal?.throwIfAborted();
  const child = spawn(
    '/bin/sh',
    [
      '-c',
      // Not every system can limit address space; the limits of pixels and time hold everywhere.
      `ulimit -v ${largestMemoryKib} 2>/dev/null; ulimit -t ${longestSeconds}; ulimit -f ${largestFileBlocks}; exec "$0" "$@"`,
      ffmpeg,
      ...ffmpegArguments(demuxer, limits),
    ],
    { stdio: ['pipe', 'pipe', 'pipe', 'pipe'], cwd: '/', env: { TMPDIR: tmpdir() } },
  );
  let late = false;
  const timer = setTimeout(() => {
    late = true;
    child.kill('SIGKILL');
  }, longestSeconds * 1000);
  const stop = (): void => {
    child.kill('SIGKILL');
  };
  signal?.addEventListener('abort', stop, { once: true });
  const ended = once(child, 'close');
  ended.catch(() => undefined);
  try {
    const [, out, err, times] = child.stdio;
    if (child.stdin === null || out === null || err === null || !isReadable(times)) {
      throw new TypeError('a pipe to ffmpeg is missing');
    }
    // It may stop reading before the end; what that means is told by its exit code.
    child.stdin.on('error', () => undefined);
    child.stdin.end(bytes);
    const [frames, message, rate] = await Promise.all([
      readPictures(out, name, limits),
      readText(err),
      readText(times),
      ended,
    ]);
    signal?.throwIfAborted();
    if (late)
      throw deadlineExceeded(`the ${name} of a clip took more than ${longestSeconds} s to decode; cut it`);
    if (child.exitCode !== 0 || frames.length === 0) {
      // What the cache says of its pipe is no error of the video.
      const how =
        message.split('\n').find((line) => line !== '' && !/^\[cache @|^ +Last message/.test(line)) ?? '';
      if (how.includes('exceeds specified max pixel count')) {
        throw invalidArgument(
          'clip',
          `the ${name} has pictures over the limit of ${limits.maxPixels} pixels; use a smaller one`,
        );
      }
      throw dataLoss(`the ${name} of a clip cannot be decoded${how === '' ? '' : `: ${printable(how)}`}`);
    }
    return assemble(frames, fps ?? frameRate(rate), name, limits);
  } catch (error) {
    child.kill('SIGKILL');
    await ended.catch(() => undefined);
    signal?.throwIfAborted();
    if (late)
      throw deadlineExceeded(`the ${name} of a clip took more than ${longestSeconds} s to decode; cut it`);
    throw PlumbError.from(error);
  } finally {
    clearTimeout(timer);
    signal?.removeEventListener('abort', stop);
  }
}

/** Everything that may be opened, and with what it may be read, is named: nothing is left to the bytes. */
function ffmpegArguments(demuxer: string, { maxPixels, maxFrames }: ClipLimits): string[] {
  const start = '-nostdin -hide_banner -loglevel error -xerror -threads 1';
  // `cache` makes the pipe seekable: an MP4 may have its index at the end.
  const protocols = '-protocol_whitelist cache,pipe -read_ahead_limit -1';
  const reading = `-codec_whitelist ${decoders} -max_pixels ${maxPixels} -err_detect explode -f ${demuxer} -i cache:pipe:0`;
  const pictures = `-map 0:v:0 -frames:v ${maxFrames + 1} -c:v ppm -f image2pipe pipe:1`;
  // The frame rate, in a form that is made for programs.
  const times = '-map 0:v:0 -frames:v 1 -f framecrc pipe:3';
  return [start, protocols, reading, pictures, times].join(' ').split(' ');
}

interface Picture {
  readonly width: number;
  readonly height: number;
  readonly data: Uint8Array;
}

/** Splits a stream of binary PPM pictures; each says its own size. Stops at the first that passes a limit. */
async function readPictures(stream: Readable, name: string, limits: ClipLimits): Promise<Picture[]> {
  const pictures: Picture[] = [];
  let head = Buffer.alloc(0);
  let open: { picture: Picture; filled: number } | undefined;
  for await (const part of stream as AsyncIterable<Buffer>) {
    let rest = part;
    while (rest.length > 0) {
      if (open === undefined) {
        head = Buffer.concat([head, rest]);
        const found = /^P6\s(\d{1,6}) (\d{1,6})\s255\s/.exec(head.toString('latin1', 0, 32));
        if (found === null) {
          if (head.length > 32) throw dataLoss(`ffmpeg gave no picture for the ${name} of a clip`);
          break;
        }
        const [width, height] = [Number(found[1]), Number(found[2])];
        checkLimits(`the ${name}`, { frames: pictures.length + 1, height, width }, limits);
        rest = head.subarray(found[0].length);
        head = Buffer.alloc(0);
        open = { picture: { width, height, data: new Uint8Array(width * height * 3) }, filled: 0 };
        pictures.push(open.picture);
      }
      const { picture, filled } = open;
      const piece = rest.subarray(0, picture.data.length - filled);
      picture.data.set(piece, filled);
      open.filled += piece.length;
      rest = rest.subarray(piece.length);
      if (open.filled === picture.data.length) open = undefined;
    }
  }
  if (open !== undefined || head.length > 0) throw dataLoss(`the ${name} of a clip ends within a picture`);
  return pictures;
}

function assemble(pictures: readonly Picture[], fps: number, name: string, limits: ClipLimits): Clip {
  const [first] = pictures;
  if (first === undefined) throw dataLoss(`the ${name} of a clip has no picture`);
  const { width, height } = first;
  checkLimits(`the ${name}`, { frames: pictures.length, height, width }, limits);
  if (pictures.some((picture) => picture.width !== width || picture.height !== height)) {
    throw dataLoss(`the ${name} of a clip changes its size on the way`);
  }
  const data = new Uint8Array(pictures.length * width * height * 3);
  for (const [index, picture] of pictures.entries()) data.set(picture.data, index * width * height * 3);
  return { frames: pictures.length, height, width, fps, data };
}

/** Frames a second, from the line "#tb 0: 1/8": the time base is that of one frame. */
function frameRate(text: string): number {
  const [, one, many] = /^#tb 0: (\d+)\/(\d+)$/m.exec(text) ?? [];
  const rate = Number(many) / Number(one);
  if (!Number.isFinite(rate) || rate <= 0) throw dataLoss('a video does not say its frame rate; give fps');
  return rate;
}

async function readText(stream: Readable): Promise<string> {
  let text = '';
  for await (const part of stream as AsyncIterable<Buffer>) {
    if (text.length < longestMessage) text += part.toString('latin1');
  }
  return text.slice(0, longestMessage);
}

/** What ffmpeg says names things of the file, which anybody may have written. */
function printable(line: string): string {
  return line.replaceAll(/[^\x20-\x7e]/g, '?').slice(0, 200);
}

function isReadable(stream: unknown): stream is Readable {
  return typeof stream === 'object' && stream !== null && Symbol.asyncIterator in stream;
}
