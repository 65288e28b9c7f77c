import { hasLatents } from '@plumb/media/model-media-types';
import type { RunSpec } from '@plumb/proto/plumb/loop/v1/loop_pb.js';
import type { ModelVersion, SamplerSettings } from '@plumb/proto/plumb/models/v1/model_pb.js';
import type { Prompt } from '@plumb/proto/plumb/prompts/v1/prompt_pb.js';
import { categoryIdOf } from './categories.ts';
import type { CategoryId } from './categories.ts';
import { splitOf } from './groups.ts';
import type { Group } from './groups.ts';
import { clipKeyOf, noiseSeedOf, sampleIdOf } from './identity.ts';

/** A sample that the spec asks for. */
export interface PlannedSample {
  readonly id: string;
  readonly runId: string;
  readonly iteration: number;
  readonly group: Group;
  /** Its place in the order in which the group's tasks are enqueued, from 0. */
  readonly position: number;
  readonly promptId: string;
  readonly promptText: string;
  readonly category: CategoryId;
  readonly sampleIndex: number;
  readonly seed: bigint;
  readonly modelVersion: string;
  readonly modelSha256: string;
  readonly clipKey: string;
}

/** The sampler of a group: held-out samples may have one of their own. */
export function samplerOf(spec: RunSpec, group: Group): SamplerSettings {
  const sampler = group === 'train' ? spec.sampler : (spec.evaluation?.sampler ?? spec.sampler);
  // A spec in the ledger has been validated: this cannot happen without a defect.
  if (sampler === undefined) throw new TypeError('the spec has no sampler');
  return sampler;
}

/** Whether a group's samples keep their latents: what a latent pipeline is trained on. */
export function needsLatents(model: ModelVersion, group: Group): boolean {
  return group === 'train' && hasLatents(model.weights?.mediaType ?? '');
}

/** Clips of each prompt in a group. */
export function samplesPerPromptOf(spec: RunSpec, group: Group): number {
  return group === 'train' ? spec.samplesPerPrompt : (spec.evaluation?.samplesPerPrompt ?? 0);
}

/** The rewards that a group's samples are scored with, without duplicates. */
export function rewardsOf(spec: RunSpec, group: Group): readonly string[] {
  const { reward = '', heldOutReward = '', guards = [] } = spec.evaluation ?? {};
  const heldOut = [reward, heldOutReward, ...guards];
  const names = group === 'train' ? spec.rewards : [...spec.rewards, ...heldOut];
  return [...new Set(names.filter((name) => name !== ''))];
}

/** How many samples a group has when it is complete. */
export function groupSize(spec: RunSpec, group: Group): number {
  return promptsOf(spec, group).length * samplesPerPromptOf(spec, group);
}

/**
 * All samples of a group, in the order in which they are to be made: the first sample of every prompt, then the second, with
 * the categories taking turns, so that early results speak for the whole prompt set.
 */
export function* plannedSamples(options: {
  readonly spec: RunSpec;
  readonly runId: string;
  readonly iteration: number;
  readonly group: Group;
  readonly model: ModelVersion;
}): Generator<PlannedSample, void, undefined> {
  const { spec, runId, iteration, group, model } = options;
  const prompts = takingTurns(promptsOf(spec, group));
  const sampler = samplerOf(spec, group);
  const modelSha256 = model.weights?.sha256 ?? '';
  const split = group === 'train' ? 'train' : 'heldout';
  let position = 0;
  for (let sampleIndex = 0; sampleIndex < samplesPerPromptOf(spec, group); sampleIndex += 1) {
    for (const { prompt, category } of prompts) {
      const modelVersion = model.version;
      const seed = noiseSeedOf({ runSeed: spec.seed, iteration, group, promptId: prompt.id, sampleIndex });
      yield {
        id: sampleIdOf({ runId, iteration, split, modelVersion, promptId: prompt.id, sampleIndex }),
        runId,
        iteration,
        group,
        position,
        promptId: prompt.id,
        promptText: prompt.text,
        category,
        sampleIndex,
        seed,
        modelVersion,
        modelSha256,
        clipKey: clipKeyOf({ modelSha256, promptText: prompt.text, seed, sampler }),
      };
      position += 1;
    }
  }
}

function promptsOf(spec: RunSpec, group: Group): readonly Prompt[] {
  const split = splitOf(group);
  return spec.prompts.filter((prompt) => prompt.split === split);
}

function takingTurns(prompts: readonly Prompt[]): { prompt: Prompt; category: CategoryId }[] {
  const byCategory = new Map<CategoryId, Prompt[]>();
  for (const prompt of prompts) {
    const category = categoryIdOf(prompt.category);
    if (category === undefined) throw new TypeError(`prompt ${prompt.id} has no category`);
    const queue = byCategory.get(category) ?? [];
    queue.push(prompt);
    byCategory.set(category, queue);
  }
  const ordered: { prompt: Prompt; category: CategoryId }[] = [];
  for (let round = 0; ordered.length < prompts.length; round += 1) {
    for (const [category, queue] of byCategory) {
      const prompt = queue[round];
      if (prompt !== undefined) ordered.push({ prompt, category });
    }
  }
  return ordered;
}
