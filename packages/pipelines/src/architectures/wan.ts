import { perChannel } from '../architecture.ts';
import type { Architecture } from '../architecture.ts';

/** Wan 2.1 text-to-video: UMT5, latents [channels, frames, height, width], rotary positions within the graph. */
export const wan: Architecture = {
  pipeline: 'WanPipeline',
  textEncoder: 'text_encoder',
  denoiser: 'transformer',
  decoder: 'vae',
  plan(config, { width, height, frames }) {
    if (config.optionalNumber('', 'boundary_ratio') !== undefined) {
      throw config.refuse(
        '',
        'boundary_ratio',
        'is set: pipelines with two denoisers (Wan 2.2 A14B) are not supported',
      );
    }
    if (config.flag('', 'expand_timesteps')) {
      throw config.refuse(
        '',
        'expand_timesteps',
        'is true, which is not supported; use a text-to-video model',
      );
    }
    const channels = config.number('transformer', 'in_channels');
    const temporal = config.optionalNumber('vae', 'scale_factor_temporal') ?? 4;
    const spatial = config.optionalNumber('vae', 'scale_factor_spatial') ?? 8;
    const mean = config.numbers('vae', 'latents_mean');
    const std = config.numbers('vae', 'latents_std');
    const shape = [
      channels,
      Math.floor((frames - 1) / temporal) + 1,
      Math.floor(height / spatial),
      Math.floor(width / spatial),
    ] as const;
    return {
      latents: shape,
      decoderShape: shape,
      spatialScale: spatial,
      sequenceLength: shape[1] * shape[2] * shape[3],
      text: { masked: true, zeroPadding: true },
      constants: () => ({}),
      toDecoder: (latents) => ({
        shape,
        data: perChannel(
          latents,
          channels,
          (channel) => std[channel] ?? NaN,
          (channel) => mean[channel] ?? NaN,
        ),
      }),
    };
  },
};
