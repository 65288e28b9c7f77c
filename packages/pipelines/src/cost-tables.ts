import {
  cards,
  clipSeconds,
  cogVideoX2,
  cogVideoX5,
  companionBytes,
  largestBatch,
  loraParameters,
  parametersOf,
  passOperations,
  reachedShare,
  samplingBytes,
  tokensOf,
  trainingBytes,
  trainingSeconds,
  wan13,
  wan14,
} from './cost-model.ts';
import type { DenoiserShape, VideoShape } from './cost-model.ts';

const wanVideo: VideoShape = { width: 832, height: 480, frames: 81 };
const cogVideo: VideoShape = { width: 720, height: 480, frames: 49 };
const models: readonly (readonly [DenoiserShape, VideoShape])[] = [
  [wan13, wanVideo],
  [wan14, wanVideo],
  [cogVideoX2, cogVideo],
  [cogVideoX5, cogVideo],
];

/** Guidance on, as the models' makers recommend. */
const sampling = { steps: 50, passes: 2 } as const;
const rank = 32;
/** Clips of one iteration: training prompts times samples. */
const clips = 120 * 128;

function table(head: readonly string[], rows: readonly (readonly string[])[]): string {
  const line = (cells: readonly string[]): string => `| ${cells.join(' | ')} |`;
  return [
    line(head),
    `|${head.map((_, i) => (i === 0 ? '---' : '---:')).join('|')}|`,
    ...rows.map(line),
  ].join('\n');
}

const gigabytes = (value: number): string => (value / 1e9).toFixed(1);
const whole = (value: number): string => Math.round(value).toLocaleString('en-GB');

/** Sizes and work of the models. */
export function modelTable(): string {
  return table(
    [
      'model',
      'clip',
      'tokens',
      'denoiser, B parameters',
      'one pass, PFLOP',
      'one clip, PFLOP',
      'LoRA rank 32, M parameters',
    ],
    models.map(([shape, video]) => [
      shape.name,
      `${video.frames} x ${video.width}x${video.height}`,
      whole(tokensOf(video)),
      (parametersOf(shape) / 1e9).toFixed(2),
      (passOperations(shape, video) / 1e15).toFixed(2),
      whole((sampling.steps * sampling.passes * passOperations(shape, video)) / 1e15),
      (loraParameters(shape, rank) / 1e6).toFixed(1),
    ]),
  );
}

/** What must be held, in GB. */
export function memoryTable(): string {
  return table(
    [
      'model',
      'denoiser',
      'text encoder and decoder',
      'sampling, 1 clip',
      'each further clip',
      'training, 1 clip',
      'each further clip',
    ],
    models.map(([shape, video]) => {
      const sample = (batch: number): number => samplingBytes(shape, video, batch, sampling.passes);
      const train = (batch: number): number => trainingBytes(shape, video, batch, rank);
      return [
        shape.name,
        gigabytes(2 * parametersOf(shape)),
        gigabytes(companionBytes(shape)),
        gigabytes(sample(1)),
        gigabytes(sample(2) - sample(1)),
        gigabytes(train(1)),
        gigabytes(train(2) - train(1)),
      ];
    }),
  );
}

/** Which card, which batch, how long. */
export function cardTable(): string {
  return table(
    [
      'model',
      'card',
      'clips a call',
      'one clip, s',
      'clips a training step',
      'an iteration: sampling, card-hours',
      'one training pass, card-hours',
    ],
    models.flatMap(([shape, video]) =>
      cards.map((card) => {
        const speed = reachedShare * card.peak;
        const batch = largestBatch(card, (count) => samplingBytes(shape, video, count, sampling.passes));
        const trained = largestBatch(card, (count) => trainingBytes(shape, video, count, rank));
        const seconds = clipSeconds(shape, video, sampling, speed);
        return [
          shape.name,
          card.name,
          batch === 0 ? 'does not fit' : String(batch),
          batch === 0 ? '' : whole(seconds),
          trained === 0 ? 'does not fit' : String(trained),
          batch === 0 ? '' : whole((clips * seconds) / 3600),
          trained === 0 ? '' : whole((clips * trainingSeconds(shape, video, speed)) / 3600),
        ];
      }),
    ),
  );
}
