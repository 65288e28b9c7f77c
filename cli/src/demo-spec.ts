import type { MessageInitShape } from '@bufbuild/protobuf';
import type { RunSpecSchema } from '@plumb/proto/plumb/loop/v1/loop_pb.js';

export type RunSpecInit = Exclude<MessageInitShape<typeof RunSpecSchema>, { $typeName: string }>;

/** Size and strength of the built-in demo. `plumb demo --help` shows those that can be changed. */
export const demoDefaults = {
  /** Every random choice follows from it. */
  seed: 1n,
  /** N: clips drawn for each training prompt. */
  samplesPerPrompt: 10,
  /** Clips drawn for each held-out prompt from each model, on the same noise. */
  heldoutSamplesPerPrompt: 8,
  sampler: { steps: 20, guidance: 1.5, shift: 3.5 },
  algorithm: 'rwr',
  /** Training steps. */
  steps: 250,
  batchSize: 32,
  learningRate: 4e-4,
} as const;

/** What a person can change about the demo. */
export interface DemoSize {
  readonly seed: bigint;
  readonly samplesPerPrompt: number;
  readonly heldoutSamplesPerPrompt: number;
  readonly samplerSteps: number;
  readonly guidance: number;
  readonly algorithm: string;
  readonly steps: number;
  readonly batchSize: number;
  readonly learningRate: number;
  /** Trains adapters of this rank; all weights unless given. */
  readonly adapterRank?: number;
  /** Steps between held-out probes, which stop training early; none unless given. */
  readonly probeEvery?: number;
}

/** Of the demo's probe: the guards are the rewards that need no judge, and nothing is trained on them. */
const probeRewards = {
  heldOutReward: 'object_persistence',
  guards: ['motion_floor', 'colour_stability'],
} as const;

/** The spec of the demo's run, and of its control. Base, prompts and their hash are filled in by the caller. */
export function demoSpec(
  size: DemoSize,
  subject: Pick<RunSpecInit, 'base' | 'prompts' | 'promptSetHash'>,
): RunSpecInit {
  const sampler = { steps: size.samplerSteps, guidance: size.guidance, shift: demoDefaults.sampler.shift };
  return {
    ...subject,
    name: 'toybox demo',
    samplesPerPrompt: size.samplesPerPrompt,
    sampler,
    rewards: ['aif'],
    objective: { algorithm: size.algorithm, balance: 'category', reward: 'aif' },
    optimisation: {
      steps: size.steps,
      batchSize: size.batchSize,
      learningRate: size.learningRate,
      warmupSteps: Math.min(10, Math.floor(size.steps / 10)),
      schedule: 'trapezoid',
      clipNorm: 1,
      emaDecay: 0.99,
      checkpointEverySteps: 50,
      captionDropout: 0.1,
      timesteps: { kind: 'logit-normal', mean: 1.3, std: 1.3 },
    },
    ...(size.adapterRank === undefined ? {} : { adapters: { rank: size.adapterRank } }),
    ...(size.probeEvery === undefined
      ? {}
      : {
          probe: {
            everySteps: size.probeEvery,
            samplesPerPrompt: 4,
            heldOutReward: probeRewards.heldOutReward,
            guards: [...probeRewards.guards],
          },
        }),
    iterations: 1,
    reference: 'pretrained',
    evaluation: { samplesPerPrompt: size.heldoutSamplesPerPrompt, sampler, reward: 'aif' },
    gate: { minGain: 0.02, minGainLow: 0, maxCategoryLoss: 0.05, maxGuardLoss: 0.05 },
    seed: size.seed,
  };
}

/**
 * The control: finetuning on the very same samples without any feedback. Its gate asks for the impossible, so that it
 * is evaluated and never promoted. It has no probe: it takes all its steps.
 */
export function controlSpec(spec: RunSpecInit): RunSpecInit {
  const { probe: _, ...unguarded } = spec;
  return {
    ...unguarded,
    name: 'toybox demo, control',
    objective: { algorithm: 'sft', balance: 'category', reward: 'aif' },
    gate: { minGain: 1, minGainLow: 1, maxCategoryLoss: 0, maxGuardLoss: 0 },
  };
}
