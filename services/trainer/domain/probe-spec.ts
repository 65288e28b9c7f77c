import { samplerSettingsSchema } from '@plumb/diffusion';
import type { SamplerSettings } from '@plumb/diffusion';
import type { FieldViolation } from '@plumb/kit/errors';
import { fieldPath } from '@plumb/kit/errors';
import type { Prompt } from '@plumb/proto/plumb/prompts/v1/prompt_pb.js';
import type { Probe } from '@plumb/proto/plumb/trainer/v1/trainer_pb.js';

/** A held-out probe, checked and with every default written out; the proto's Probe explains each field. */
export interface ProbePlan {
  /** Not empty. */
  readonly prompts: readonly Prompt[];
  readonly samplesPerPrompt: number;
  readonly sampler: SamplerSettings;
  readonly everySteps: number;
  readonly trainedReward: string;
  readonly heldOutReward: string;
  readonly guards: readonly string[];
  readonly trainedTolerance: number;
  readonly heldOutTolerance: number;
  /** A share of the guard's value before training. */
  readonly guardTolerance: number;
  readonly patience: number;
  readonly maxErrorShare: number;
  readonly onError: 'fail' | 'continue';
}

/** Most clips of one probe. More cost more than the steps between two probes, and belong in an evaluation. */
const maxClips = 1024;
/** Most probes of a job: its record holds all of them. */
const maxProbes = 500;
/** Most guards. */
const maxGuards = 16;

const defaults = {
  samplesPerPrompt: 1,
  trainedTolerance: 0,
  heldOutTolerance: 0.05,
  guardTolerance: 0.1,
  patience: 2,
  maxErrorShare: 0.05,
} as const;

/**
 * Checks a probe and fills in its defaults.
 * @param job what the job itself trains on, and for how many steps
 * @param violations gets one entry for every bad field
 * @returns undefined when something is wrong
 */
export function planProbe(
  probe: Probe,
  job: { readonly reward: string; readonly steps: number },
  violations: FieldViolation[],
): ProbePlan | undefined {
  const before = violations.length;
  const reject = (field: string, description: string): void => {
    violations.push({ field: `spec.probe.${field}`, description });
  };
  const samplesPerPrompt = probe.samplesPerPrompt || defaults.samplesPerPrompt;
  const patience = probe.patience || defaults.patience;
  const trainedReward = probe.trainedReward || job.reward;
  const { heldOutReward, guards, everySteps } = probe;

  checkPrompts(probe.prompts, reject);
  if (samplesPerPrompt < 1) reject('samples_per_prompt', `is ${samplesPerPrompt}; use 1 or more, or 0 for 1`);
  const clips = probe.prompts.length * samplesPerPrompt;
  if (clips > maxClips) {
    reject('samples_per_prompt', `makes ${clips} clips; use fewer prompts or samples, at most ${maxClips}`);
  }
  const sampler = samplerOf(probe, reject);
  if (everySteps < 1) reject('every_steps', `is ${everySteps}; use 1 or more`);
  else if (job.steps / everySteps > maxProbes) {
    reject('every_steps', `is ${everySteps}, which makes more than ${maxProbes} probes; use more`);
  }
  if (heldOutReward === '') {
    reject('held_out_reward', 'is missing; name a reward that no training signal came from');
  } else if (heldOutReward === job.reward || heldOutReward === trainedReward) {
    reject('held_out_reward', `'${heldOutReward}' is the reward that is trained on; name another`);
  }
  if (guards.length > maxGuards) reject('guards', `has ${guards.length}; name at most ${maxGuards}`);
  for (const [index, guard] of guards.entries()) {
    const taken = guard === heldOutReward || guard === trainedReward || guards.indexOf(guard) < index;
    if (guard === '') reject(`guards[${index}]`, 'is empty; name a reward');
    else if (taken) reject(`guards[${index}]`, `'${guard}' is watched already; name it once`);
  }
  const tolerance = (field: string, given: number | undefined, otherwise: number): number => {
    const value = given ?? otherwise;
    if (!(value >= 0 && value < Infinity)) {
      reject(field, `is ${value}; use 0 or more, or leave it out for ${otherwise}`);
    }
    return value;
  };
  const trainedTolerance = tolerance('trained_tolerance', probe.trainedTolerance, defaults.trainedTolerance);
  const heldOutTolerance = tolerance('held_out_tolerance', probe.heldOutTolerance, defaults.heldOutTolerance);
  const guardTolerance = tolerance('guard_tolerance', probe.guardTolerance, defaults.guardTolerance);
  if (patience < 1) reject('patience', `is ${patience}; use 1 or more, or 0 for ${defaults.patience}`);
  const maxErrorShare = probe.maxErrorShare ?? defaults.maxErrorShare;
  if (!(maxErrorShare >= 0 && maxErrorShare < 1)) {
    reject('max_error_share', `is ${maxErrorShare}; use 0 or more and less than 1`);
  }
  const onError = probe.onError === '' ? 'fail' : probe.onError;
  if (onError !== 'fail' && onError !== 'continue') {
    reject('on_error', `'${onError}' is unknown; use fail or continue`);
    return undefined;
  }
  if (violations.length > before || sampler === undefined) return undefined;
  return {
    prompts: probe.prompts,
    samplesPerPrompt,
    sampler,
    everySteps,
    trainedReward,
    heldOutReward,
    guards,
    trainedTolerance,
    heldOutTolerance,
    guardTolerance,
    patience,
    maxErrorShare,
    onError,
  };
}

/** Names of every reward that a probe asks for. */
export function probedRewards({ trainedReward, heldOutReward, guards }: ProbePlan): string[] {
  return [trainedReward, heldOutReward, ...guards];
}

type Reject = (field: string, description: string) => void;

function checkPrompts(prompts: readonly Prompt[], reject: Reject): void {
  if (prompts.length === 0) {
    reject('prompts', 'is empty; give some prompts that are not in the data set');
    return;
  }
  const ids = new Set<string>();
  for (const [index, { id, text }] of prompts.entries()) {
    if (id === '') reject(`prompts[${index}].id`, 'is empty; give an id that is unique');
    else if (ids.has(id)) reject(`prompts[${index}].id`, `'${id}' is there twice; ids are unique`);
    ids.add(id);
    if (text.trim() === '') reject(`prompts[${index}].text`, 'is empty; say what the clip shall show');
  }
}

function samplerOf({ sampler }: Probe, reject: Reject): SamplerSettings | undefined {
  if (sampler === undefined) {
    reject('sampler', 'is missing; give steps, guidance and shift');
    return undefined;
  }
  const { steps, guidance, shift } = sampler;
  const parsed = samplerSettingsSchema.safeParse({ steps, guidance, shift });
  if (parsed.success) return parsed.data;
  for (const { path, message } of parsed.error.issues) reject(fieldPath(['sampler', ...path]), message);
  return undefined;
}
