import { create } from '@bufbuild/protobuf';
import { fieldPath, invalidArguments } from '@plumb/kit/errors';
import { firstPrompts, parsePromptSet, promptSetSchema } from '@plumb/prompts';
import { RunSpecSchema } from '@plumb/proto/plumb/loop/v1/loop_pb.js';
import type { RunSpec } from '@plumb/proto/plumb/loop/v1/loop_pb.js';
import type { ModelVersion } from '@plumb/proto/plumb/models/v1/model_pb.js';
import { Split } from '@plumb/proto/plumb/prompts/v1/prompt_pb.js';
import { checkedRunSpec, registeredVersion, runSpecSchema } from '@plumb/run-spec';
import { z } from 'zod';
import { categoryOf } from './categories.ts';

const { name, prompts } = runSpecSchema.shape;

/**
 * `spec` of a FeedbackRun: a run's spec as docs/runs.md explains it, with what a cluster cannot read from a person's disk
 * written out: the model by its registered version, the prompts as a prompt set.
 */
export const feedbackRunSpecSchema = z.strictObject({
  ...runSpecSchema.shape,
  name: name.unwrap().optional().describe('For people; the name of the object unless given.'),
  model: z
    .string()
    .regex(registeredVersion, 'must be a registered version such as toybox@promoted or toybox@3fba2da5e25b')
    .describe('Registered version that the run starts from.'),
  prompts: z.strictObject({
    ...prompts.shape,
    set: promptSetSchema.describe('The contents of a prompt-set file.'),
  }),
  paused: z.boolean().default(false).describe('Pauses the run; false again lets it go on.'),
});

/** A FeedbackRun's spec that was checked. */
export interface FeedbackRunSpec {
  /** Registered version. */
  readonly model: string;
  readonly paused: boolean;
  /** The run's spec, for the model that `model` names. */
  readonly specFor: (base: ModelVersion) => RunSpec;
}

const at = (field: string): string => `spec.${field}`;

/**
 * Checks the spec of a FeedbackRun.
 * @param objectName what the run is called when the spec does not say
 * @throws PlumbError INVALID_ARGUMENT with every bad field and its fix
 */
export function parseFeedbackRunSpec(value: unknown, objectName: string): FeedbackRunSpec {
  const parsed = feedbackRunSpecSchema.safeParse(value);
  if (!parsed.success) {
    throw invalidArguments(
      parsed.error.issues.map(({ path, message }) => ({
        field: fieldPath(['spec', ...path]),
        description: message,
      })),
    );
  }
  const { model, paused, prompts: chosen, name: given, ...rest } = parsed.data;
  const set = promptSetOf(chosen.set);
  const { specFor } = checkedRunSpec({ ...rest, name: given ?? objectName }, at);
  const limits = { train: chosen.trainPerCategory, heldout: chosen.heldoutPerCategory };
  const taken = firstPrompts(set.prompts, limits).map(({ id, text, category, split }) => ({
    id,
    text,
    category: categoryOf(category),
    split: split === 'train' ? Split.TRAIN : Split.HELDOUT,
  }));
  return {
    model,
    paused,
    specFor: (base) =>
      create(RunSpecSchema, { ...specFor(base), base, prompts: taken, promptSetHash: set.sha256 }),
  };
}

/** The set with what its shape alone cannot tell checked as well; its hash is that of its canonical bytes. */
function promptSetOf(set: z.output<typeof promptSetSchema>): ReturnType<typeof parsePromptSet> {
  const { version, categories, prompts: list } = set;
  const ordered = list.map(({ id, text, category, split }) => ({ id, text, category, split }));
  const bytes = Buffer.from(JSON.stringify({ version, categories, prompts: ordered }));
  return parsePromptSet(bytes, at('prompts.set'));
}
