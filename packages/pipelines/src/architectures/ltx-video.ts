import { invalidArgument } from '@plumb/kit/errors';
import { perChannel, permute } from '../architecture.ts';
import type { Architecture } from '../architecture.ts';
import { linspace } from '../schedulers/noise-levels.ts';

/** LTX-Video: T5, latents packed as a sequence [tokens, channels], positions in seconds and pixels as an input. */
export const ltxVideo: Architecture = {
  pipeline: 'LTXPipeline',
  textEncoder: 'text_encoder',
  denoiser: 'transformer',
  decoder: 'vae',
  plan(config, { width, height, frames, fps, latentsMean, latentsStd }) {
    if (config.flag('vae', 'timestep_conditioning')) {
      throw config.refuse(
        'vae',
        'timestep_conditioning',
        'is true: decoders that are told a timestep are not supported',
      );
    }
    const patch = config.number('transformer', 'patch_size');
    const patchT = config.number('transformer', 'patch_size_t');
    if (patch !== 1 || patchT !== 1) {
      throw config.refuse(
        'transformer',
        'patch_size',
        `is ${patch} (${patchT} in time); only 1 is supported`,
      );
    }
    const doubled = 2 ** config.flags('vae', 'spatio_temporal_scaling').filter(Boolean).length;
    const spatial =
      config.optionalNumber('vae', 'spatial_compression_ratio') ??
      config.number('vae', 'patch_size') * doubled;
    const temporal =
      config.optionalNumber('vae', 'temporal_compression_ratio') ??
      config.number('vae', 'patch_size_t') * doubled;
    const channels = config.number('transformer', 'in_channels');
    const scaling = config.number('vae', 'scaling_factor');
    if (latentsMean?.length !== channels || latentsStd?.length !== channels) {
      throw invalidArgument(
        'latentsMean and latentsStd',
        `of plumb.json must have one number for each of the ${channels} channels of the latents; the export script writes them`,
      );
    }
    const grid = [
      Math.floor((frames - 1) / temporal) + 1,
      Math.floor(height / spatial),
      Math.floor(width / spatial),
    ] as const;
    const [depth, rows, columns] = grid;
    const tokens = depth * rows * columns;
    const coordinates = new Float32Array(3 * tokens);
    for (let token = 0; token < tokens; token++) {
      coordinates[token] = (Math.floor(token / (rows * columns)) * temporal) / fps;
      coordinates[tokens + token] = (Math.floor(token / columns) % rows) * spatial;
      coordinates[2 * tokens + token] = (token % columns) * spatial;
    }
    const decoderShape = [channels, ...grid] as const;
    return {
      latents: [tokens, channels],
      decoderShape,
      spatialScale: spatial,
      sequenceLength: tokens,
      sigmas: (steps) => linspace(1, 1 / steps, steps),
      text: { masked: false, zeroPadding: false, maskInput: 'encoder_attention_mask' },
      constants: (count) => {
        const data = new Float32Array(count * coordinates.length);
        for (let row = 0; row < count; row++) data.set(coordinates, row * coordinates.length);
        return { video_coords: { dtype: 'float32', shape: [count, 3, tokens], data } };
      },
      toDecoder: (latents) => ({
        shape: decoderShape,
        data: perChannel(
          permute(latents, [tokens, channels], [1, 0]),
          channels,
          (channel) => (latentsStd[channel] ?? NaN) / scaling,
          (channel) => latentsMean[channel] ?? NaN,
        ),
      }),
    };
  },
};
