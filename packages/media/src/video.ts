import { createHash } from 'node:crypto';
import { invalidArguments } from '@plumb/kit/errors';
import { ValueRange } from '@plumb/proto/plumb/media/v1/video_pb.js';
import type { Video } from '@plumb/proto/plumb/media/v1/video_pb.js';
import { maxClipPixels } from './clip.ts';
import type { Clip } from './clip.ts';
import { clipMediaType, decodeClip } from './encode.ts';

/** Largest encoded clip that may come inside of a message, in bytes: 4 MiB. */
export const maxInlineClipBytes = 4 * 2 ** 20;

/** Schemes of clips that are read; anything else (file:, http:, a bare path) is refused before it is looked at. */
const allowedUri = /^artifact:sha256\/[0-9a-f]{64}$/;
const sha256Pattern = /^[0-9a-f]{64}$/;

/** The part of an artifact store that reading needs. */
export type ArtifactSource = {
  /** The bytes behind a URI, checked against their hash. */
  get(uri: string, sha256: string): Promise<Uint8Array>;
};

/** One thing that is wrong with a Video message. */
export type VideoViolation = { readonly field: string; readonly description: string };

/**
 * Checks a Video message without reading what it points to.
 *
 * @param field path of the message in its request, for example items[3].video; the violations' fields begin with it
 * @returns everything that is wrong; empty if nothing is
 */
export function videoViolations(video: Video | undefined, field: string): VideoViolation[] {
  if (video === undefined) return [{ field, description: 'is missing; give a clip by uri or inline' }];
  const found: VideoViolation[] = [];
  const wrong = (name: string, description: string) => found.push({ field: `${field}.${name}`, description });
  switch (video.source.case) {
    case 'uri':
      if (!allowedUri.test(video.source.value)) {
        const shown = JSON.stringify(video.source.value.slice(0, 80));
        wrong('uri', `is ${shown}; only artifact:sha256/<64 hexadecimal digits> is read`);
      } else if (sha256Pattern.test(video.sha256) && !video.source.value.endsWith(video.sha256)) {
        wrong('sha256', 'is another hash than the one in the uri; give the hash of the encoded bytes');
      }
      if (video.sha256 === '')
        wrong('sha256', 'is missing; a clip by uri needs the hash of its encoded bytes');
      break;
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
  if (video.mediaType !== clipMediaType) {
    const shown = JSON.stringify(video.mediaType.slice(0, 80));
    wrong('media_type', `is ${shown}; ${clipMediaType} (a film strip) is what is read`);
  }
  for (const [name, value] of [
    ['width', video.width],
    ['height', video.height],
    ['frame_count', video.frameCount],
  ] as const) {
    if (value < 1) wrong(name, `is ${value}; give a whole number of 1 or more`);
  }
  if (video.width * video.height * video.frameCount > maxClipPixels) {
    wrong(
      'frame_count',
      `makes the clip larger than ${maxClipPixels} pixels; use fewer frames or a smaller picture`,
    );
  }
  if (!Number.isFinite(video.fps) || video.fps <= 0)
    wrong('fps', `is ${video.fps}; give frames per second above 0`);
  if (video.valueRange !== ValueRange.UINT8) {
    wrong('value_range', 'must be VALUE_RANGE_UINT8 for a PNG film strip');
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
 * @throws PlumbError INVALID_ARGUMENT for a message that is wrong or does not fit its bytes; NOT_FOUND or DATA_LOSS for
 * bytes that are not there or not what the hash says
 */
export async function readVideo(video: Video, artifacts: ArtifactSource, field = 'video'): Promise<Clip> {
  const violations = videoViolations(video, field);
  if (violations.length > 0) throw invalidArguments(violations);
  const hash = videoHash(video, field);
  const bytes =
    video.source.case === 'uri' ? await artifacts.get(video.source.value, hash) : video.source.value;
  const { width, height, frameCount, fps } = video;
  return decodeClip(bytes ?? new Uint8Array(), { frames: frameCount, height, width, fps });
}
