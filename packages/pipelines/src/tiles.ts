import type { DecoderInput } from './architecture.ts';

/** Frames of one clip in -1 to 1: [3, frames, height, width]. */
export interface DecodedFrames {
  readonly frames: number;
  readonly height: number;
  readonly width: number;
  readonly data: Float32Array;
}

/** Size of the tiles that latents are decoded in, in latents. */
export interface TileSize {
  readonly height: number;
  readonly width: number;
  /** Share of a tile that its neighbour covers as well, 0 to below 1. */
  readonly overlap: number;
}

/** Where tiles of one size begin, so that they cover an extent; the last one ends where the extent does. */
export function tileStarts(extent: number, tile: number, overlap: number): number[] {
  if (tile >= extent) return [0];
  const stride = Math.max(1, Math.round(tile * (1 - overlap)));
  const starts = Array.from({ length: Math.ceil((extent - tile) / stride) }, (_, i) => i * stride);
  return [...starts, extent - tile];
}

/**
 * Decodes latents tile by tile. Where tiles overlap they are blended with weights that rise from a tile's edge, so that
 * no seam shows; the decoder's normalisation over a whole frame is lost, so colours may differ a little from a decode
 * in one piece.
 * @param scale pixels of a latent's side
 */
export async function decodeTiled(
  latents: DecoderInput,
  tile: TileSize,
  scale: number,
  decode: (part: DecoderInput) => Promise<DecodedFrames>,
): Promise<DecodedFrames> {
  const [channels, depth, height, width] = latents.shape;
  if (tile.height >= height && tile.width >= width) return decode(latents);
  const tall = Math.min(tile.height, height);
  const wide = Math.min(tile.width, width);
  let result: DecodedFrames | undefined;
  let weights = new Float32Array();
  for (const top of tileStarts(height, tall, tile.overlap)) {
    for (const left of tileStarts(width, wide, tile.overlap)) {
      const part = new Float32Array(channels * depth * tall * wide);
      for (let plane = 0; plane < channels * depth; plane++) {
        for (let row = 0; row < tall; row++) {
          const from = (plane * height + top + row) * width + left;
          part.set(latents.data.subarray(from, from + wide), (plane * tall + row) * wide);
        }
      }
      const decoded = await decode({ shape: [channels, depth, tall, wide], data: part });
      const [rows, columns] = [height * scale, width * scale];
      result ??= {
        frames: decoded.frames,
        height: rows,
        width: columns,
        data: new Float32Array(3 * decoded.frames * rows * columns),
      };
      if (weights.length === 0) weights = new Float32Array(rows * columns);
      const rise = (at: number, size: number): number => Math.min(at + 1, size - at);
      for (let row = 0; row < decoded.height; row++) {
        for (let column = 0; column < decoded.width; column++) {
          const weight = rise(row, decoded.height) * rise(column, decoded.width);
          const place = (top * scale + row) * columns + left * scale + column;
          weights[place] = (weights[place] ?? 0) + weight;
          for (let plane = 0; plane < 3 * decoded.frames; plane++) {
            const value = decoded.data[(plane * decoded.height + row) * decoded.width + column] ?? 0;
            const to = plane * rows * columns + place;
            result.data[to] = (result.data[to] ?? 0) + weight * value;
          }
        }
      }
    }
  }
  if (result === undefined) throw new TypeError('there are no latents to decode');
  const size = weights.length;
  for (let i = 0; i < result.data.length; i++)
    result.data[i] = (result.data[i] ?? 0) / (weights[i % size] ?? 1);
  return result;
}
