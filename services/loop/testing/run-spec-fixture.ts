import { create } from '@bufbuild/protobuf';
import { RunSpecSchema } from '@plumb/proto/plumb/loop/v1/loop_pb.js';
import type { RunSpec } from '@plumb/proto/plumb/loop/v1/loop_pb.js';
import { ModelVersionSchema } from '@plumb/proto/plumb/models/v1/model_pb.js';
import type { ModelVersion } from '@plumb/proto/plumb/models/v1/model_pb.js';
import { Category, Split } from '@plumb/proto/plumb/prompts/v1/prompt_pb.js';
import { modelVersionOf } from '../domain/identity.ts';
import { withDefaults } from '../domain/run-spec.ts';

/** A hash that is nobody's. */
export const baseSha256 = 'a'.repeat(64);

/** A model of the line `toy` with these weights. */
export function modelFixture(sha256: string = baseSha256): ModelVersion {
  return create(ModelVersionSchema, {
    version: modelVersionOf('toy', sha256),
    model: 'toy',
    weights: {
      uri: `artifact:sha256/${sha256}`,
      sha256,
      mediaType: 'application/octet-stream',
      sizeBytes: 1n,
    },
  });
}

/** A small valid spec: two categories, `train` and `heldout` prompts in each. */
export function specFixture(
  options: {
    readonly train?: number;
    readonly heldout?: number;
    readonly samplesPerPrompt?: number;
    readonly base?: ModelVersion;
    readonly iterations?: number;
    readonly maxErrorShare?: number;
    readonly seed?: bigint;
  } = {},
): RunSpec {
  const { train = 3, heldout = 2, samplesPerPrompt = 2, base = modelFixture(), iterations = 1 } = options;
  const prompts = [
    { id: 'DM', category: Category.DIRECTIONAL_MOVEMENT },
    { id: 'FD', category: Category.FALLING_DOWN },
  ].flatMap(({ id, category }) => [
    ...Array.from({ length: train }, (_, index) => ({
      id: `${id}/train/${index}`,
      text: `a red ball does ${id} number ${index}`,
      category,
      split: Split.TRAIN,
    })),
    ...Array.from({ length: heldout }, (_, index) => ({
      id: `${id}/heldout/${index}`,
      text: `a blue box does ${id} number ${index}`,
      category,
      split: Split.HELDOUT,
    })),
  ]);
  return withDefaults(
    create(RunSpecSchema, {
      name: 'test',
      base,
      prompts,
      promptSetHash: 'b'.repeat(64),
      samplesPerPrompt,
      sampler: { steps: 4, guidance: 1, shift: 1 },
      rewards: ['aif'],
      objective: { algorithm: 'rwr', reward: 'aif' },
      optimisation: { steps: 3, batchSize: 2, learningRate: 1e-4 },
      iterations,
      evaluation: { samplesPerPrompt: 2, reward: 'aif' },
      seed: options.seed ?? 7n,
      ...(options.maxErrorShare === undefined ? {} : { maxErrorShare: options.maxErrorShare }),
    }),
  );
}
