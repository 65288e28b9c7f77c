export {
  checkClip,
  checkClipShape,
  clipBytes,
  frameOf,
  maxClipPixels,
  sampleFrames,
  sampleFramesByMotion,
} from './clip.ts';
export type { Clip, ClipShape } from './clip.ts';
export {
  clipMediaType,
  contactSheet,
  decodeClip,
  encodeClip,
  encodeFrames,
  encodeGrid,
  encodePreview,
  isFilmStrip,
  previewMediaType,
} from './encode.ts';
export type { ContactSheetOptions, EncodedPicture, PictureOptions, ScaleOptions } from './encode.ts';
export { encodeMovie, movieMediaType } from './encode-movie.ts';
export { defaultClipLimits } from './clip-limits.ts';
export type { ClipLimits } from './clip-limits.ts';
export { openClipSource } from './clip-source.ts';
export type { ClipSourceOptions } from './clip-source.ts';
export {
  artifactsOnly,
  decodeFile,
  decodeVideo,
  maxInlineClipBytes,
  readVideo,
  readVideoBytes,
  videoHash,
  videoViolations,
} from './video.ts';
export type { ArtifactSource, VideoViolation } from './video.ts';
export { isMovie } from './media-types.ts';
export { artifactUri } from './artifact.ts';
export type { ArtifactStore, StoredArtifact } from './artifact.ts';
export { openFolderStore } from './folder-store.ts';
export { openArtifactStore } from './open-artifact-store.ts';
export type { FolderStoreOptions } from './folder-store.ts';
