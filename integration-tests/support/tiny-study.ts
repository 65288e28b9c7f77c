import { writeFile } from 'node:fs/promises';
import { join, resolve } from 'node:path';
import { encodeModel } from '@plumb/diffusion';
import { smallConfig, smallModel } from '@plumb/diffusion/testing-model';
import { longestCaption, vocabulary } from '@plumb/toybox';

const repository = resolve(import.meta.dirname, '../..');

/** Writes `tiny.yaml` into a folder, a study of three cells, with a model that trains in moments. */
export async function writeTinyStudy(folder: string): Promise<void> {
  const model = smallModel('study', {
    ...smallConfig,
    video: { frames: 4, height: 16, width: 16, fps: 4 },
    caption: { vocabulary: [...vocabulary], maxWords: longestCaption, wordWidth: 8 },
  });
  await writeFile(join(folder, 'model.safetensors'), encodeModel(model));
  await writeFile(
    join(folder, 'tiny.yaml'),
    `
name: tiny
model: model.safetensors
prompts: { set: ${JSON.stringify(join(repository, 'prompts/toybox.json'))}, trainPerCategory: 2, heldoutPerCategory: 2 }
rewards: ${JSON.stringify(join(repository, 'rewards'))}
samplesPerPrompt: 2
sampler: { steps: 2, guidance: 1, shift: 1 }
optimisation: { steps: 30, batchSize: 2, warmupSteps: 1 }
evaluation: { samplesPerPrompt: 1 }
matrix:
  - { algorithms: [sft] }
  - { algorithms: [rwr, dpo], rewards: [optical_flow] }
`,
  );
}
