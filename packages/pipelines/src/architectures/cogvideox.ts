import type { TypedTensor } from '@plumb/tensor-graph/engine';
import { permute } from '../architecture.ts';
import type { Architecture } from '../architecture.ts';
import { linspace, roundHalfEven } from '../schedulers/noise-levels.ts';

/** CogVideoX: T5, latents [frames, channels, height, width], rotary positions as inputs where the model has them. */
export const cogVideoX: Architecture = {
  pipeline: 'CogVideoXPipeline',
  textEncoder: 'text_encoder',
  denoiser: 'transformer',
  decoder: 'vae',
  plan(config, { width, height, frames }) {
    const channels = config.number('transformer', 'in_channels');
    const patch = config.number('transformer', 'patch_size');
    const patchT = config.optionalNumber('transformer', 'patch_size_t');
    const spatial = 2 ** (config.numbers('vae', 'block_out_channels').length - 1);
    const temporal = config.number('vae', 'temporal_compression_ratio');
    const scaling = config.number('vae', 'scaling_factor');
    const wanted = Math.floor((frames - 1) / temporal) + 1;
    // Models with patches in time have frames added in front, which are dropped before decoding.
    const depth = Math.ceil(wanted / (patchT ?? 1)) * (patchT ?? 1);
    const extra = depth - wanted;
    const rows = Math.floor(height / spatial);
    const columns = Math.floor(width / spatial);
    const frameSize = channels * rows * columns;
    const grid = [Math.floor(rows / patch), Math.floor(columns / patch)] as const;
    const rotary: Record<string, TypedTensor> = {};
    if (config.flag('transformer', 'use_rotary_positional_embeddings')) {
      const base = [
        Math.floor(config.number('transformer', 'sample_height') / patch),
        Math.floor(config.number('transformer', 'sample_width') / patch),
      ] as const;
      const times = Array.from({ length: depth / (patchT ?? 1) }, (_, i) => i);
      const positions =
        patchT === undefined
          ? croppedPositions(grid, base)
          : grid.map((count) => Array.from({ length: count }, (_, i) => i));
      const width3d = config.number('transformer', 'attention_head_dim');
      const table = rotaryTable(width3d, times, positions[0] ?? [], positions[1] ?? []);
      for (const [name, data] of Object.entries(table)) {
        rotary[name] = { dtype: 'float32', shape: [data.length / width3d, width3d], data };
      }
    }
    const decoderShape = [channels, wanted, rows, columns] as const;
    return {
      latents: [depth, channels, rows, columns],
      decoderShape,
      spatialScale: spatial,
      sequenceLength: depth * grid[0] * grid[1],
      text: { masked: false, zeroPadding: false },
      constants: () => rotary,
      toDecoder: (latents) => ({
        shape: decoderShape,
        data: permute(
          latents.subarray(extra * frameSize),
          [wanted, channels, rows, columns],
          [1, 0, 2, 3],
        ).map((value) => value / scaling),
      }),
    };
  },
};

/** Positions of rows and columns when the grid is fitted into the one that the model was trained with. */
function croppedPositions(
  [rows, columns]: readonly [number, number],
  [baseRows, baseColumns]: readonly [number, number],
): [number[], number[]] {
  const isTall = rows / columns > baseRows / baseColumns;
  const fitted = isTall
    ? [baseRows, roundHalfEven((baseRows / rows) * columns)]
    : [roundHalfEven((baseColumns / columns) * rows), baseColumns];
  const positions = (extent: number, base: number, size: number): number[] => {
    const start = roundHalfEven((base - size) / 2);
    return linspace(start, ((start + size) * (extent - 1)) / extent, extent);
  };
  return [positions(rows, baseRows, fitted[0] ?? 0), positions(columns, baseColumns, fitted[1] ?? 0)];
}

/** Cosines and sines [times * rows * columns, width]: a quarter of the width for time, three eighths for each side. */
function rotaryTable(
  width: number,
  times: readonly number[],
  rows: readonly number[],
  columns: readonly number[],
): { image_rotary_cos: Float32Array; image_rotary_sin: Float32Array } {
  const forTime = Math.floor(width / 4);
  const forSide = Math.floor(width / 8) * 3;
  const angles = (position: number, size: number): number[] =>
    Array.from({ length: size }, (_, i) => position / 10_000 ** ((2 * Math.floor(i / 2)) / size));
  const cos = new Float32Array(times.length * rows.length * columns.length * width);
  const sin = new Float32Array(cos.length);
  let at = 0;
  for (const time of times) {
    for (const row of rows) {
      for (const column of columns) {
        for (const angle of [...angles(time, forTime), ...angles(row, forSide), ...angles(column, forSide)]) {
          cos[at] = Math.cos(angle);
          sin[at] = Math.sin(angle);
          at += 1;
        }
      }
    }
  }
  return { image_rotary_cos: cos, image_rotary_sin: sin };
}
