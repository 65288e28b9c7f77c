import { join, resolve } from 'node:path';

const root = resolve(import.meta.dirname, '../..');

/** The spec of a run of some seconds, the whole path of a real one; whatever it makes is promoted. */
export function smallRunSpec(size: {
  readonly samplesPerPrompt: number;
  readonly iterations: number;
}): string {
  return `
model: ${JSON.stringify(join(root, 'models/toybox/model.safetensors'))}
prompts: { set: ${JSON.stringify(join(root, 'prompts/toybox.json'))}, trainPerCategory: 2, heldoutPerCategory: 1 }
samplesPerPrompt: ${size.samplesPerPrompt}
sampler: { steps: 8 }
optimisation: { steps: 6, batchSize: 4, warmupSteps: 0, checkpointEverySteps: 2 }
evaluation: { samplesPerPrompt: 1 }
iterations: ${size.iterations}
gate: [{ rule: smallest-gain, gain: -1, lowerBound: -1 }]
`;
}
