import { resolve } from 'node:path';
import { loadPromptSet } from '@plumb/prompts';
import { readRunSpecFile } from '../runs/run-spec-file.ts';
import type { PlanInput } from './plan-iteration.ts';

/**
 * The figures of a run spec that decide what an iteration takes.
 * @throws PlumbError naming the file and the field, as `plumb run create` does
 */
export async function specFigures(path: string): Promise<Partial<PlanInput>> {
  const { prompts, spec } = await readRunSpecFile(resolve(path));
  const set = await loadPromptSet(prompts.path);
  const count = (split: 'train' | 'heldout', perCategory: number | undefined): number =>
    perCategory === undefined
      ? set.prompts.filter((prompt) => prompt.split === split).length
      : perCategory * set.categories.length;
  const { samplesPerPrompt, sampler, evaluation, optimisation } = spec;
  return {
    prompts: count('train', prompts.train),
    heldOutPrompts: count('heldout', prompts.heldout),
    ...(samplesPerPrompt === undefined ? {} : { samplesPerPrompt }),
    ...(evaluation?.samplesPerPrompt === undefined ? {} : { heldOutSamples: evaluation.samplesPerPrompt }),
    ...(sampler?.steps === undefined ? {} : { samplingSteps: sampler.steps }),
    ...(optimisation?.steps === undefined ? {} : { trainingSteps: optimisation.steps }),
    ...(optimisation?.batchSize === undefined ? {} : { batchSize: optimisation.batchSize }),
  };
}
