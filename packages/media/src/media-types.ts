/** Media types of clips that are read. */

/** All frames, one below the other, in one PNG; shape and rate travel beside it. What Plumb itself writes. */
export const filmStripMediaType = 'image/png';
/** Pixels as they are: RGB, 0 to 255, [frames, height, width, 3]; shape and rate travel beside it. */
export const rawMediaType = 'video/raw';
/** Animated pictures, read by this process. */
export const animationMediaTypes = ['image/webp', 'image/gif', 'image/apng'] as const;
/** Videos, read by ffmpeg where it is installed. */
export const movieMediaTypes = ['video/mp4', 'video/webm'] as const;

export type AnimationMediaType = (typeof animationMediaTypes)[number];
export type MovieMediaType = (typeof movieMediaTypes)[number];

/** Every media type that is read. */
export const readableMediaTypes: readonly string[] = [
  filmStripMediaType,
  rawMediaType,
  ...animationMediaTypes,
  ...movieMediaTypes,
];

/** True for a picture that holds its own shape and times. */
export function isAnimation(mediaType: string): mediaType is AnimationMediaType {
  return animationMediaTypes.some((known) => known === mediaType);
}

/** True for a video that ffmpeg reads. */
export function isMovie(mediaType: string): mediaType is MovieMediaType {
  return movieMediaTypes.some((known) => known === mediaType);
}

/** True where the file says its shape and rate, so that a message need not. */
export function describesItself(mediaType: string): boolean {
  return isAnimation(mediaType) || isMovie(mediaType);
}
