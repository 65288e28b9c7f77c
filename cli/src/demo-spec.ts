import { fileURLToPath } from 'node:url';
import { readRunSpecFile } from './runs/run-spec-file.ts';
import type { RunSpecFile } from './runs/run-spec-file.ts';
import type { RunSpecInit } from '@plumb/run-spec';

/** The spec that the demo runs one iteration of. */
const specPath = fileURLToPath(new URL('../../specs/toybox.yaml', import.meta.url));

/** The demo's probe: rewards that need no judge, and that nothing is trained on. */
const demoProbe = {
  samplesPerPrompt: 4,
  heldOutReward: 'object_persistence',
  guards: ['motion_floor', 'colour_stability'],
};

/** What a person can change about the demo; what is left out is as the spec says. */
export interface DemoSize {
  readonly seed?: bigint;
  readonly samplesPerPrompt?: number;
  readonly heldoutSamples?: number;
  readonly promptsPerCategory?: number;
  readonly heldoutPerCategory?: number;
  readonly samplerSteps?: number;
  readonly guidance?: number;
  readonly algorithm?: string;
  readonly steps?: number;
  readonly batchSize?: number;
  readonly learningRate?: number;
  /** Trains adapters of this rank; all weights unless given. */
  readonly adapterRank?: number;
  /** Steps between held-out probes, which stop training early; as the spec says unless given. */
  readonly probeEvery?: number;
  /** Absolute paths. */
  readonly weights?: string;
  readonly prompts?: string;
}

/** The demo as a run spec: specs/toybox.yaml, one iteration, with what the person changed. */
export async function demoSpec(size: DemoSize): Promise<RunSpecFile> {
  const { model, prompts, spec } = await readRunSpecFile(specPath);
  const { sampler, optimisation, objective, evaluation } = spec;
  const sampling = {
    steps: size.samplerSteps ?? sampler?.steps ?? 0,
    guidance: size.guidance ?? sampler?.guidance ?? 0,
    shift: sampler?.shift ?? 0,
  };
  const steps = size.steps ?? optimisation?.steps ?? 0;
  const changed: RunSpecFile['spec'] = {
    ...spec,
    name: 'toybox demo',
    samplesPerPrompt: size.samplesPerPrompt ?? spec.samplesPerPrompt ?? 0,
    sampler: sampling,
    objective: { ...objective, algorithm: size.algorithm ?? objective?.algorithm ?? '' },
    optimisation: {
      ...optimisation,
      steps,
      batchSize: size.batchSize ?? optimisation?.batchSize ?? 0,
      learningRate: size.learningRate ?? optimisation?.learningRate ?? 0,
      warmupSteps: Math.min(optimisation?.warmupSteps ?? 0, Math.floor(steps / 10)),
    },
    ...(size.adapterRank === undefined ? {} : { adapters: { rank: size.adapterRank } }),
    ...(size.probeEvery === undefined ? {} : { probe: { ...demoProbe, everySteps: size.probeEvery } }),
    iterations: 1,
    evaluation: {
      reward: evaluation?.reward ?? '',
      heldOutReward: evaluation?.heldOutReward ?? '',
      guards: [...(evaluation?.guards ?? [])],
      sampler: sampling,
      samplesPerPrompt: size.heldoutSamples ?? evaluation?.samplesPerPrompt ?? 0,
    },
    ...(size.seed === undefined ? {} : { seed: size.seed }),
  };
  return {
    model: size.weights === undefined ? model : { path: size.weights },
    prompts: {
      path: size.prompts ?? prompts.path,
      train: size.promptsPerCategory ?? prompts.train,
      heldout: size.heldoutPerCategory ?? prompts.heldout,
    },
    spec: changed,
    specFor: () => changed,
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
    objective: { ...spec.objective, algorithm: 'sft' },
    gate: { rules: [{ rule: 'smallest-gain', gain: 1, lowerBound: 1 }] },
  };
}
