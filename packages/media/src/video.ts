import { createHash } from 'node:crypto';
import { invalidArgument, invalidArguments } from '@plumb/kit/errors';
import { ValueRange } from '@plumb/proto/plumb/media/v1/video_pb.js';
import type { Video } from '@plumb/proto/plumb/media/v1/video_pb.js';
import { decodeAnimation } from './animation.ts';
import { checkClip } from './clip.ts';
import type { Clip } from './clip.ts';
import { defaultClipLimits } from './clip-limits.ts';
import type { ClipLimits } from './clip-limits.ts';
import { decodeClip } from './encode.ts';
import {
  describesItself,
  filmStripMediaType,
  isAnimation,
  isMovie,
  rawMediaType,
  readableMediaTypes,
} from './media-types.ts';
import { decodeMovie } from './movie.ts';

/** Largest encoded clip that may come inside of a message, in bytes: 4 MiB. */
export const maxInlineClipBytes = 4 * 2 ** 20;

/** The form of a URI in the artifact store. */
const artifactPattern = /^artifact:sha256\/[0-9a-f]{64}$/;
const sha256Pattern = /^[0-9a-f]{64}$/;

/** The part of an artifact store that reading needs. */
export type ArtifactSource = {
  /** The bytes behind a URI, checked against their hash. */
  get(uri: string, sha256: string, options?: { readonly signal?: AbortSignal }): Promise<Uint8Array>;
  /** Why a URI is not read at all, to follow its name in a sentence; `artifactsOnly` without it. */
  refusal?(uri: string): string | undefined;
};

/** Refuses everything but the artifact store: file:, http:, a bare path are refused before they are looked at. */
export function artifactsOnly(uri: string): string | undefined {
  if (artifactPattern.test(uri)) return undefined;
  return `is ${JSON.stringify(uri.slice(0, 80))}; only artifact:sha256/<64 hexadecimal digits> is read`;
}

/** One thing that is wrong with a Video message. */
export type VideoViolation = { readonly field: string; readonly description: string };

/**
 * Checks a Video message without reading what it points to.
 *
 * @param field path of the message in its request, for example items[3].video; the violations' fields begin with it
 * @param refusal why a URI is not read, as of the source that it will be asked of
 * @returns everything that is wrong; empty if nothing is
 */
export function videoViolations(
  video: Video | undefined,
  field: string,
  refusal: (uri: string) => string | undefined = artifactsOnly,
  limits: ClipLimits = defaultClipLimits,
): VideoViolation[] {
  if (video === undefined) return [{ field, description: 'is missing; give a clip by uri or inline' }];
  const found: VideoViolation[] = [];
  const wrong = (name: string, description: string) => found.push({ field: `${field}.${name}`, description });
  switch (video.source.case) {
    case 'uri': {
      const uri = video.source.value;
      const refused = refusal(uri);
      if (refused !== undefined) {
        wrong('uri', refused);
      } else if (
        artifactPattern.test(uri) &&
        sha256Pattern.test(video.sha256) &&
        !uri.endsWith(video.sha256)
      ) {
        wrong('sha256', 'is another hash than the one in the uri; give the hash of the encoded bytes');
      }
      if (video.sha256 === '')
        wrong('sha256', 'is missing; a clip by uri needs the hash of its encoded bytes');
      break;
    }
    case 'inline': {
      const size = video.source.value.length;
      if (size === 0) wrong('inline', 'is empty; give the encoded clip');
      if (size > maxInlineClipBytes) {
        wrong(
          'inline',
          `has ${size} bytes, over the limit of ${maxInlineClipBytes}; store the clip and give its uri`,
        );
      }
      break;
    }
    case undefined:
      wrong('source', 'is missing; give uri or inline');
      break;
  }
  if (video.sha256 !== '' && !sha256Pattern.test(video.sha256)) {
    wrong('sha256', `is ${JSON.stringify(video.sha256.slice(0, 80))}; give 64 lower-case hexadecimal digits`);
  }
  if (!readableMediaTypes.includes(video.mediaType)) {
    const shown = JSON.stringify(video.mediaType.slice(0, 80));
    wrong('media_type', `is ${shown}; give one of ${readableMediaTypes.join(', ')}`);
  }
  // A file that says its own shape is believed where the message says nothing.
  const optional = describesItself(video.mediaType);
  for (const [name, value] of [
    ['width', video.width],
    ['height', video.height],
    ['frame_count', video.frameCount],
  ] as const) {
    if (value < 0 || (value === 0 && !optional)) wrong(name, `is ${value}; give a whole number of 1 or more`);
  }
  if (video.frameCount > limits.maxFrames) {
    wrong('frame_count', `is ${video.frameCount}, over the limit of ${limits.maxFrames}; cut the clip`);
  }
  if (video.width * video.height * video.frameCount > limits.maxPixels) {
    wrong(
      'frame_count',
      `makes the clip larger than ${limits.maxPixels} pixels; use fewer frames or a smaller picture`,
    );
  }
  if (!Number.isFinite(video.fps) || video.fps < 0 || (video.fps === 0 && !optional)) {
    wrong('fps', `is ${video.fps}; give frames per second above 0`);
  }
  if (video.valueRange !== ValueRange.UINT8 && !(optional && video.valueRange === ValueRange.UNSPECIFIED)) {
    wrong('value_range', `must be VALUE_RANGE_UINT8 for ${filmStripMediaType} and ${rawMediaType}`);
  }
  return found;
}

/**
 * The hash by which a clip is known: the one given, or that of the inline bytes.
 *
 * @throws PlumbError INVALID_ARGUMENT if inline bytes have another hash than the one given
 */
export function videoHash(video: Video, field: string): string {
  if (video.source.case !== 'inline') return video.sha256;
  const actual = createHash('sha256').update(video.source.value).digest('hex');
  if (video.sha256 !== '' && video.sha256 !== actual) {
    throw invalidArguments([
      { field: `${field}.sha256`, description: `is ${video.sha256}, but the inline bytes have ${actual}` },
    ]);
  }
  return actual;
}

/**
 * Reads and decodes the clip of a Video message.
 *
 * @param field path of the message in its request, for errors
 * @throws PlumbError INVALID_ARGUMENT for a message that is wrong, does not fit its bytes or passes the limits; NOT_FOUND or
 * DATA_LOSS for bytes that are not there or not what the hash says; FAILED_PRECONDITION for a video without ffmpeg
 */
export async function readVideo(
  video: Video,
  artifacts: ArtifactSource,
  field = 'video',
  limits: ClipLimits = defaultClipLimits,
): Promise<Clip> {
  return decodeVideo(await readVideoBytes(video, artifacts, field, limits), video, field, limits);
}

/**
 * Decodes the encoded bytes of a Video message.
 *
 * @param field path of the message in its request, for errors
 * @throws PlumbError INVALID_ARGUMENT for a message that does not fit its bytes or passes the limits; DATA_LOSS for damaged
 *   bytes; FAILED_PRECONDITION for a video without ffmpeg; the signal's reason
 */
export async function decodeVideo(
  bytes: Uint8Array,
  video: Video,
  field = 'video',
  limits: ClipLimits = defaultClipLimits,
  signal?: AbortSignal,
): Promise<Clip> {
  const clip = await decode(bytes, video, limits, signal);
  for (const [name, said, found] of [
    ['width', video.width, clip.width],
    ['height', video.height, clip.height],
    ['frame_count', video.frameCount, clip.frames],
  ] as const) {
    if (said !== 0 && said !== found) {
      throw invalidArgument(
        `${field}.${name}`,
        `is ${said}, but the file has ${found}; give what is in the file`,
        {
          reason: 'CLIP_MISMATCH',
        },
      );
    }
  }
  return clip;
}

/**
 * The encoded bytes of a Video message, checked against their hash and not decoded.
 *
 * @throws PlumbError as `readVideo`, but for what only decoding finds
 */
export async function readVideoBytes(
  video: Video,
  artifacts: ArtifactSource,
  field = 'video',
  limits: ClipLimits = defaultClipLimits,
  signal?: AbortSignal,
): Promise<Uint8Array> {
  const refusal = artifacts.refusal?.bind(artifacts) ?? artifactsOnly;
  const violations = videoViolations(video, field, refusal, limits);
  if (violations.length > 0) throw invalidArguments(violations);
  const hash = videoHash(video, field);
  if (video.source.case === 'uri')
    return artifacts.get(video.source.value, hash, signal === undefined ? {} : { signal });
  return video.source.value ?? new Uint8Array();
}

/**
 * Decodes a file that says its own shape and rate: an animated picture or a movie.
 *
 * @param mediaType as whoever gave the file calls it; parameters after a semicolon do not matter
 * @param fps frames a second, where the caller knows better than the file
 * @throws PlumbError INVALID_ARGUMENT for another type or over the limits; DATA_LOSS for damaged bytes;
 * FAILED_PRECONDITION for a movie without ffmpeg
 */
export async function decodeFile(
  bytes: Uint8Array,
  mediaType: string,
  fps?: number,
  limits: ClipLimits = defaultClipLimits,
): Promise<Clip> {
  const type = mediaType.split(';')[0]?.trim().toLowerCase() ?? '';
  if (isAnimation(type)) return await decodeAnimation(bytes, type, limits, fps);
  if (isMovie(type)) return await decodeMovie(bytes, type, limits, fps);
  throw invalidArgument(
    'media_type',
    `is ${JSON.stringify(type.slice(0, 80))}; only ${readableMediaTypes.filter(describesItself).join(', ')} say their own shape`,
  );
}

async function decode(
  bytes: Uint8Array,
  video: Video,
  limits: ClipLimits,
  signal: AbortSignal | undefined,
): Promise<Clip> {
  const { mediaType, width, height, frameCount: frames, fps } = video;
  const rate = fps === 0 ? undefined : fps;
  if (isAnimation(mediaType)) return decodeAnimation(bytes, mediaType, limits, rate);
  if (isMovie(mediaType)) return decodeMovie(bytes, mediaType, limits, rate, signal);
  const shape = { frames, height, width, fps };
  if (mediaType !== rawMediaType) return decodeClip(bytes, shape);
  const clip = { ...shape, data: bytes };
  checkClip(clip);
  return clip;
}
