import { create, toJson } from '@bufbuild/protobuf';
import type { JsonValue } from '@bufbuild/protobuf';
import type { FieldViolation } from '@plumb/kit/errors';
import { algorithms } from '@plumb/objective';
import {
  EvaluationSchema,
  GateSchema,
  HumanLabelsSchema,
  RunSpecSchema,
} from '@plumb/proto/plumb/loop/v1/loop_pb.js';
import type { RunSpec } from '@plumb/proto/plumb/loop/v1/loop_pb.js';
import { ProbeSchema } from '@plumb/proto/plumb/trainer/v1/trainer_pb.js';
import type { ModelVersion, SamplerSettings } from '@plumb/proto/plumb/models/v1/model_pb.js';
import { Split } from '@plumb/proto/plumb/prompts/v1/prompt_pb.js';
import type { Prompt } from '@plumb/proto/plumb/prompts/v1/prompt_pb.js';
import { categoryIdOf } from './categories.ts';
import { budgetViolations } from './budget.ts';
import type { CategoryId } from './categories.ts';
import { gateViolations } from './gate.ts';
import { humanLabelViolations } from './human-labels.ts';
import { modelVersionOf } from './identity.ts';
import { groupSize } from './sample-plan.ts';

/** Longest prompt, in characters. */
export const maxPromptLength = 2_000;
/** Most clips of one prompt in one group. */
export const maxSamplesPerPrompt = 1_024;
/** Most prompts of a run; a message of the bus or of gRPC holds all of them. */
export const maxPrompts = 10_000;
/** Most iterations of a run. */
export const maxIterations = 100;
/** A run pauses when more than this share of a group ended in errors, unless its spec says otherwise. */
export const defaultMaxErrorShare = 0.05;
/** Most violations that one answer names. */
const maxViolations = 50;

const sha256Pattern = /^[0-9a-f]{64}$/;
const rewardNamePattern = /^[a-z0-9][a-z0-9_.-]{0,62}$/;
const modelNamePattern = /^[a-z0-9][a-z0-9._-]{0,62}$/;

/**
 * The spec with its defaults written out: one iteration, reference `previous`, held-out samples with the training sampler,
 * the default gate, a probe of one held-out prompt of each category, labels of people that are not used. What is stored, compared and hashed is this form.
 */
export function withDefaults(spec: RunSpec): RunSpec {
  const evaluation = create(EvaluationSchema, spec.evaluation);
  evaluation.samplesPerPrompt ||= 1;
  evaluation.sampler ??= spec.sampler;
  evaluation.reward ||= spec.objective?.reward ?? '';
  const full = create(RunSpecSchema, spec);
  full.evaluation = evaluation;
  full.gate ??= create(GateSchema);
  full.iterations ||= 1;
  full.reference ||= 'previous';
  full.maxErrorShare ??= defaultMaxErrorShare;
  if (spec.labels !== undefined) {
    full.labels = create(HumanLabelsSchema, spec.labels);
    full.labels.use ||= 'none';
  }
  if (spec.probe !== undefined) {
    const probe = create(ProbeSchema, spec.probe);
    if (probe.prompts.length === 0) probe.prompts = firstHeldOut(spec.prompts);
    probe.sampler ??= evaluation.sampler;
    probe.heldOutReward ||= evaluation.heldOutReward;
    full.probe = probe;
  }
  return full;
}

/** The first held-out prompt of each category, in the order of the prompts. */
function firstHeldOut(prompts: readonly Prompt[]): Prompt[] {
  const heldOut = prompts.filter(({ split }) => split === Split.HELDOUT);
  return heldOut.filter(
    (prompt, index) => heldOut.findIndex(({ category }) => category === prompt.category) === index,
  );
}

/** Everything that is wrong with a spec that has its defaults; empty is valid. At most 50, each with its fix. */
export function specViolations(spec: RunSpec): FieldViolation[] {
  const violations: FieldViolation[] = [];
  const reject = (field: string, description: string): void => {
    violations.push({ field: `spec.${field}`, description });
  };

  if (spec.name.length > 200) reject('name', `has ${spec.name.length} characters; use at most 200`);
  violations.push(...modelViolations('spec.base', spec.base));
  checkPrompts(spec.prompts, reject);
  if (!sha256Pattern.test(spec.promptSetHash)) {
    reject('prompt_set_hash', 'give the SHA-256 of the prompt-set file as 64 lower-case hexadecimal digits');
  }
  checkCount('samples_per_prompt', spec.samplesPerPrompt, maxSamplesPerPrompt, reject);
  checkSampler('sampler', spec.sampler, reject);
  checkCount('iterations', spec.iterations, maxIterations, reject);
  if (spec.reference !== 'previous' && spec.reference !== 'pretrained') {
    reject('reference', `'${spec.reference}' is unknown; use previous or pretrained`);
  }
  const share = spec.maxErrorShare ?? defaultMaxErrorShare;
  if (!(share >= 0 && share < 1)) {
    reject('max_error_share', `${share} is out of range; use 0 or more and less than 1`);
  }
  checkRewards(spec, reject);
  checkOptimisation(spec, reject);
  checkTrainer(spec, reject);
  checkEvaluation(spec, reject);
  checkGate(spec, reject);
  for (const { field, description } of [
    ...gateViolations(spec),
    ...budgetViolations(spec),
    ...humanLabelViolations(spec),
  ]) {
    reject(field, description);
  }
  return violations.slice(0, maxViolations);
}

type Reject = (field: string, description: string) => void;

/** Everything that is wrong with a model version that somebody names; fields are told under `path`. */
export function modelViolations(path: string, model: ModelVersion | undefined): FieldViolation[] {
  const violations: FieldViolation[] = [];
  const reject = (field: string, description: string): void => {
    violations.push({ field: field === '' ? path : `${path}.${field}`, description });
  };
  if (model === undefined) {
    reject('', 'is missing; name the model version, its line and its weights');
    return violations;
  }
  const sha256 = model.weights?.sha256 ?? '';
  if (!modelNamePattern.test(model.model)) {
    reject('model', `'${model.model}' is no model name; use lower-case letters, digits, '.', '_' and '-'`);
  }
  if (!sha256Pattern.test(sha256)) {
    reject('weights.sha256', 'give the SHA-256 of the weights as 64 lower-case hexadecimal digits');
  } else if (model.version !== modelVersionOf(model.model, sha256)) {
    reject(
      'version',
      `'${model.version}' is not ${modelVersionOf(model.model, sha256)}, which its weights make it`,
    );
  }
  if ((model.weights?.uri ?? '') === '')
    reject('weights.uri', 'is missing; give the artifact of the weights');
  return violations;
}

function checkPrompts(prompts: readonly Prompt[], reject: Reject): void {
  if (prompts.length > maxPrompts) {
    reject('prompts', `has ${prompts.length} prompts; use at most ${maxPrompts}`);
    return;
  }
  const byId = new Map<string, number>();
  const byText = new Map<string, number>();
  const seen: Record<'train' | 'heldout', Set<CategoryId>> = { train: new Set(), heldout: new Set() };
  for (const [index, prompt] of prompts.entries()) {
    const field = `prompts[${index}]`;
    if (prompt.id === '' || prompt.id.length > 200)
      reject(`${field}.id`, 'give an id of 1 to 200 characters');
    const twin = byId.get(prompt.id);
    if (twin !== undefined)
      reject(`${field}.id`, `'${prompt.id}' is also the id of prompts[${twin}]; ids are unique`);
    else byId.set(prompt.id, index);

    const text = prompt.text.trim().replaceAll(/\s+/g, ' ').toLowerCase();
    if (text === '') reject(`${field}.text`, 'is empty; say what the clip shall show');
    if (prompt.text.length > maxPromptLength) {
      reject(`${field}.text`, `has ${prompt.text.length} characters; use at most ${maxPromptLength}`);
    }
    const sameText = byText.get(text);
    if (sameText !== undefined) {
      const other = prompts[sameText];
      const leak = other !== undefined && other.split !== prompt.split;
      reject(
        `${field}.text`,
        leak
          ? `is also the text of prompts[${sameText}] in the other split; a held-out prompt must not be trained on`
          : `is also the text of prompts[${sameText}]; remove one of them`,
      );
    } else if (text !== '') byText.set(text, index);

    const category = categoryIdOf(prompt.category);
    if (category === undefined) reject(`${field}.category`, 'name one of the five categories');
    if (prompt.split !== Split.TRAIN && prompt.split !== Split.HELDOUT) {
      reject(`${field}.split`, 'say whether the prompt is for training or held out');
    } else if (category !== undefined) {
      seen[prompt.split === Split.TRAIN ? 'train' : 'heldout'].add(category);
    }
  }
  if (!prompts.some(({ split }) => split === Split.TRAIN))
    reject('prompts', 'has no training prompt; add some');
  if (!prompts.some(({ split }) => split === Split.HELDOUT)) {
    reject('prompts', 'has no held-out prompt; hold some back, the gate judges by them');
    return;
  }
  for (const category of seen.train.difference(seen.heldout)) {
    reject(
      'prompts',
      `category ${category} has no held-out prompt, so its change cannot be judged; hold some back`,
    );
  }
}

function checkCount(field: string, value: number, most: number, reject: Reject): void {
  if (!(Number.isInteger(value) && value >= 1 && value <= most)) {
    reject(field, `${value} is out of range; use 1 to ${most}`);
  }
}

function checkSampler(field: string, sampler: SamplerSettings | undefined, reject: Reject): void {
  if (sampler === undefined) {
    reject(field, 'is missing; give steps, guidance and shift');
    return;
  }
  checkCount(`${field}.steps`, sampler.steps, 1_000, reject);
  if (!(sampler.guidance >= 0 && sampler.guidance <= 100)) {
    reject(`${field}.guidance`, `${sampler.guidance} is out of range; use 0 to 100, 1 is no guidance`);
  }
  if (!(sampler.shift > 0 && sampler.shift <= 100)) {
    reject(
      `${field}.shift`,
      `${sampler.shift} is out of range; use more than 0 and at most 100, 1 is no shift`,
    );
  }
}

function checkRewards(spec: RunSpec, reject: Reject): void {
  if (spec.rewards.length === 0) reject('rewards', 'is empty; name at least one reward, for example aif');
  if (spec.rewards.length > 32) reject('rewards', `has ${spec.rewards.length} rewards; use at most 32`);
  for (const [index, name] of spec.rewards.entries()) {
    if (!rewardNamePattern.test(name)) reject(`rewards[${index}]`, `'${name}' is no reward name`);
    if (spec.rewards.indexOf(name) < index)
      reject(`rewards[${index}]`, `'${name}' is named twice; name it once`);
  }
  const objective = spec.objective;
  if (objective === undefined) {
    reject('objective', 'is missing; name the algorithm and the reward to train on');
    return;
  }
  if (!Object.hasOwn(algorithms, objective.algorithm)) {
    const known = Object.keys(algorithms).join(', ');
    reject('objective.algorithm', `'${objective.algorithm}' is unknown; use one of ${known}`);
  }
  if (objective.algorithm === 'dpo' && spec.samplesPerPrompt < 2) {
    reject(
      'samples_per_prompt',
      'dpo compares clips of one prompt; draw at least 2 for each, or use another algorithm',
    );
  }
  const trainSamples = groupSize(spec, 'train');
  const batch = spec.optimisation?.batchSize ?? 0;
  if (trainSamples > 0 && batch > trainSamples) {
    reject(
      'optimisation.batch_size',
      `${batch} is more than the ${trainSamples} training clips; use at most that, or take more samples`,
    );
  }
  if (!spec.rewards.includes(objective.reward)) {
    reject(
      'objective.reward',
      `'${objective.reward}' is not among the rewards; name one of ${spec.rewards.join(', ')}`,
    );
  }
}

function checkOptimisation(spec: RunSpec, reject: Reject): void {
  const optimisation = spec.optimisation;
  if (optimisation === undefined) {
    reject('optimisation', 'is missing; give steps, batch_size and learning_rate');
    return;
  }
  checkCount('optimisation.steps', optimisation.steps, 10_000_000, reject);
  checkCount('optimisation.batch_size', optimisation.batchSize, 65_536, reject);
  if (!(optimisation.learningRate > 0 && optimisation.learningRate <= 1)) {
    reject(
      'optimisation.learning_rate',
      `${optimisation.learningRate} is out of range; use more than 0, at most 1`,
    );
  }
}

/** What would make the trainer refuse the job after all samples were drawn; it checks the rest of both messages. */
function checkTrainer({ adapters, probe, prompts, objective }: RunSpec, reject: Reject): void {
  if (adapters !== undefined && adapters.rank < 1) {
    reject('adapters.rank', `${adapters.rank} is out of range; use 1 or more, or leave adapters out`);
  }
  if (probe === undefined) return;
  checkCount('probe.every_steps', probe.everySteps, 10_000_000, reject);
  checkSampler('probe.sampler', probe.sampler, reject);
  if (probe.heldOutReward === '') {
    reject('probe.held_out_reward', 'is missing; name a reward that no training signal comes from');
  } else if (probe.heldOutReward === objective?.reward) {
    reject(
      'probe.held_out_reward',
      `'${probe.heldOutReward}' is the reward that is trained on; name another`,
    );
  }
  const trained = new Set(prompts.filter(({ split }) => split === Split.TRAIN).map(({ id }) => id));
  for (const [index, { id }] of probe.prompts.entries()) {
    if (trained.has(id))
      reject(`probe.prompts[${index}]`, `'${id}' is trained on; probe with held-out prompts`);
  }
}

function checkEvaluation(spec: RunSpec, reject: Reject): void {
  const evaluation = spec.evaluation;
  if (evaluation === undefined) {
    reject('evaluation', 'is missing; name the reward whose value is the verdict');
    return;
  }
  checkCount('evaluation.samples_per_prompt', evaluation.samplesPerPrompt, maxSamplesPerPrompt, reject);
  if (evaluation.sampler !== spec.sampler) checkSampler('evaluation.sampler', evaluation.sampler, reject);
  if (evaluation.reward === '')
    reject('evaluation.reward', 'is missing; name the reward whose value is the verdict');
  const heldOut = evaluation.heldOutReward;
  if (heldOut !== '' && heldOut === spec.objective?.reward) {
    reject(
      'evaluation.held_out_reward',
      `'${heldOut}' is the reward that is trained on; name another, or none`,
    );
  } else if (heldOut !== '' && heldOut === evaluation.reward) {
    reject('evaluation.held_out_reward', `'${heldOut}' is the verdict itself; name another, or none`);
  } else if (heldOut !== '' && spec.rewards.includes(heldOut)) {
    reject(
      'evaluation.held_out_reward',
      `'${heldOut}' also scores the training samples (rewards); take it out there, so that nothing can be trained on it`,
    );
  }
  for (const [index, guard] of evaluation.guards.entries()) {
    const field = `evaluation.guards[${index}]`;
    if (!rewardNamePattern.test(guard)) reject(field, `'${guard}' is no reward name`);
    else if (evaluation.guards.indexOf(guard) < index)
      reject(field, `'${guard}' is named twice; name it once`);
    else if (guard === spec.objective?.reward) {
      reject(
        field,
        `'${guard}' is the reward that is trained on, which cannot guard against itself; remove it`,
      );
    }
  }
}

function checkGate(spec: RunSpec, reject: Reject): void {
  const gate = spec.gate;
  if (gate === undefined) return;
  const bounds = [
    ['min_gain', gate.minGain, -1],
    ['min_gain_low', gate.minGainLow, -1],
    ['max_category_loss', gate.maxCategoryLoss, 0],
    ['max_guard_loss', gate.maxGuardLoss, 0],
  ] as const;
  for (const [field, value, least] of bounds) {
    if (!(value >= least && value <= 1))
      reject(`gate.${field}`, `${value} is out of range; use ${least} to 1`);
  }
}

/**
 * Where two specs differ first, as a field path with both values; undefined when they are equal. Fields are compared in the
 * order of the proto.
 */
export function firstDifference(
  before: RunSpec,
  after: RunSpec,
): { field: string; before: string; after: string } | undefined {
  return differenceOf(toJson(RunSpecSchema, before), toJson(RunSpecSchema, after), 'spec');
}

function differenceOf(
  before: JsonValue | undefined,
  after: JsonValue | undefined,
  field: string,
): { field: string; before: string; after: string } | undefined {
  if (isObject(before) && isObject(after)) {
    for (const key of new Set([...Object.keys(before), ...Object.keys(after)])) {
      const path = Array.isArray(before) ? `${field}[${key}]` : `${field}.${key}`;
      const found = differenceOf(valueAt(before, key), valueAt(after, key), path);
      if (found !== undefined) return found;
    }
    return undefined;
  }
  if (before === after) return undefined;
  return { field, before: shown(before), after: shown(after) };
}

function isObject(value: JsonValue | undefined): value is JsonValue[] | { [key: string]: JsonValue } {
  return typeof value === 'object' && value !== null;
}

function valueAt(value: JsonValue[] | { [key: string]: JsonValue }, key: string): JsonValue | undefined {
  return Array.isArray(value) ? value[Number(key)] : value[key];
}

function shown(value: JsonValue | undefined): string {
  if (value === undefined) return 'nothing';
  const text = JSON.stringify(value);
  return text.length <= 80 ? text : `${text.slice(0, 77)}...`;
}
