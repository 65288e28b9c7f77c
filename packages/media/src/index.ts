export { checkClip, checkClipShape, clipBytes, frameOf, maxClipPixels, sampleFrames } from './clip.ts';
export type { Clip, ClipShape } from './clip.ts';
export {
  clipMediaType,
  contactSheet,
  decodeClip,
  encodeClip,
  encodeFrames,
  encodePreview,
  previewMediaType,
} from './encode.ts';
export type { ContactSheetOptions, ScaleOptions } from './encode.ts';
export { maxInlineClipBytes, readVideo, videoHash, videoViolations } from './video.ts';
export type { ArtifactSource, VideoViolation } from './video.ts';
export { artifactUri, openFolderStore } from './folder-store.ts';
export type { ArtifactStore, FolderStoreOptions, StoredArtifact } from './folder-store.ts';
