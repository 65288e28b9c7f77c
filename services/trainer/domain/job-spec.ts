import { create, toJson } from '@bufbuild/protobuf';
import type { JsonValue } from '@bufbuild/protobuf';
import { defaultNetworkTargets, parseAdapterSettings, parseOptimisationSettings } from '@plumb/diffusion';
import type { AdapterSettings, OptimisationSettings } from '@plumb/diffusion';
import { invalidArguments, PlumbError } from '@plumb/kit/errors';
import type { FieldViolation } from '@plumb/kit/errors';
import { builtInModelMediaType, hasLatents, remoteModelMediaType } from '@plumb/media/model-media-types';
import { algorithms, parseObjectiveSettings } from '@plumb/objective';
import type { AlgorithmName, ObjectiveSettings } from '@plumb/objective';
import { ArtifactSchema } from '@plumb/proto/plumb/media/v1/video_pb.js';
import type { Artifact } from '@plumb/proto/plumb/media/v1/video_pb.js';
import { ModelVersionSchema } from '@plumb/proto/plumb/models/v1/model_pb.js';
import type { ModelVersion } from '@plumb/proto/plumb/models/v1/model_pb.js';
import { JobSpecSchema } from '@plumb/proto/plumb/trainer/v1/trainer_pb.js';
import type {
  Adapters,
  JobSpec,
  Objective,
  Optimisation,
  TimestepDistribution,
} from '@plumb/proto/plumb/trainer/v1/trainer_pb.js';
import { planProbe } from './probe-spec.ts';
import type { ProbePlan } from './probe-spec.ts';

/** Bytes by address and hash. */
export interface ArtifactReference {
  readonly uri: string;
  /** Lower-case hexadecimal SHA-256. */
  readonly sha256: string;
}

/** Weights with the version that they are known by. */
export interface ModelReference extends ArtifactReference {
  readonly version: string;
  /** What kind of model it is: one that can be trained. */
  readonly mediaType: string;
}

/** A job's spec, checked and with every default written out. */
export interface JobPlan {
  readonly dataSet: ArtifactReference;
  readonly base: ModelReference;
  readonly reference: ModelReference;
  /** Name of the reward that is trained on. */
  readonly reward: string;
  readonly objective: ObjectiveSettings;
  readonly optimisation: OptimisationSettings;
  /** Undefined trains all weights. */
  readonly adapters: AdapterSettings | undefined;
  readonly checkpointEverySteps: number;
  /**
   * Steps between measurements of the anchor distance on a fixed probe; undefined where the objective runs the reference
   * and measures it in every step.
   */
  readonly anchorEverySteps: number | undefined;
  /** Undefined is no limit. */
  readonly maxAnchorDistance: number | undefined;
  /** Undefined is no probe. */
  readonly probe: ProbePlan | undefined;
  /** uint64; of batches, times, noise and dropped captions. */
  readonly seed: bigint;
}

/** Steps between measurements on the probe: a forward pass of few clips, about a hundredth of the time of the steps. */
const defaultAnchorEverySteps = 10;

const sha256Pattern = /^[0-9a-f]{64}$/;

/** Weight transforms that each algorithm takes, its default first. */
const transforms: Readonly<Record<AlgorithmName, readonly string[]>> = {
  sft: ['identity'],
  'filtered-sft': ['threshold'],
  rwr: ['exp', 'shaped'],
  dpo: [],
  kto: [],
};

/**
 * Checks a spec and fills in what it leaves to defaults.
 * @param defaults steps between checkpoints where the spec says 0
 * @throws PlumbError INVALID_ARGUMENT with one violation for every bad field
 */
export function planJob(spec: JobSpec, defaults: { readonly checkpointEverySteps: number }): JobPlan {
  const violations: FieldViolation[] = [];
  const dataSet = artifactOf(spec.dataSet, 'spec.data_set', violations);
  const base = modelOf(spec.base, 'spec.base', violations);
  const reference =
    spec.reference === undefined ? base : modelOf(spec.reference, 'spec.reference', violations);
  const reward = spec.objective?.reward ?? '';
  if (reward === '')
    violations.push({
      field: 'spec.objective.reward',
      description: 'is missing; name the reward to train on',
    });
  const objective = collect(violations, () => objectiveOf(spec.objective));
  const optimisation = collect(violations, () => optimisationOf(spec.optimisation));
  const isPipeline = base !== undefined && hasLatents(base.mediaType);
  const adapters = collect(violations, () =>
    adaptersOf(spec.adapters, isPipeline ? { targets: [...defaultNetworkTargets] } : {}),
  );
  if (isPipeline && spec.adapters === undefined) {
    violations.push({
      field: 'spec.adapters',
      description: `is missing; ${base.version} is a pipeline, whose denoiser is trained with adapters: give a rank, for example 32`,
    });
  }
  if (base !== undefined && reference !== undefined && isPipeline !== hasLatents(reference.mediaType)) {
    violations.push({
      field: 'spec.reference.weights.media_type',
      description: `is ${reference.mediaType}, but that of the base is ${base.mediaType}; use a reference of the same model`,
    });
  }
  const { checkpointEverySteps = 0, maxAnchorDistance = 0, anchorEverySteps = 0 } = spec.optimisation ?? {};
  if (checkpointEverySteps < 0) {
    violations.push({
      field: 'spec.optimisation.checkpoint_every_steps',
      description: `is ${checkpointEverySteps}; use 1 or more, or 0 for ${defaults.checkpointEverySteps}`,
    });
  }
  if (!(maxAnchorDistance >= 0 && maxAnchorDistance < Infinity)) {
    violations.push({
      field: 'spec.optimisation.max_anchor_distance',
      description: `is ${maxAnchorDistance}; use 0 for no limit, or a number above`,
    });
  }
  const inEveryStep = objective !== undefined && runsReference(objective);
  if (anchorEverySteps < 0 || (anchorEverySteps > 0 && inEveryStep)) {
    violations.push({
      field: 'spec.optimisation.anchor_every_steps',
      description: inEveryStep
        ? `is ${anchorEverySteps}, but ${objective.algorithm} runs the reference and measures the distance in every step; leave it out`
        : `is ${anchorEverySteps}; use 1 or more, or 0 for ${defaultAnchorEverySteps}`,
    });
  }
  const probe =
    spec.probe === undefined
      ? undefined
      : planProbe(spec.probe, { reward, steps: spec.optimisation?.steps ?? 0 }, violations);
  if (
    violations.length > 0 ||
    dataSet === undefined ||
    base === undefined ||
    reference === undefined ||
    objective === undefined ||
    optimisation === undefined
  ) {
    throw invalidArguments(violations);
  }
  return {
    dataSet,
    base,
    reference,
    reward,
    objective,
    optimisation,
    adapters,
    checkpointEverySteps: checkpointEverySteps || defaults.checkpointEverySteps,
    anchorEverySteps: inEveryStep ? undefined : anchorEverySteps || defaultAnchorEverySteps,
    maxAnchorDistance: maxAnchorDistance === 0 ? undefined : maxAnchorDistance,
    probe,
    seed: spec.seed,
  };
}

function runsReference(objective: ObjectiveSettings): boolean {
  return 'klAnchor' in objective ? objective.klAnchor > 0 : true;
}

function artifactOf(
  artifact: Artifact | undefined,
  field: string,
  violations: FieldViolation[],
): ArtifactReference | undefined {
  if (artifact === undefined || artifact.uri === '') {
    violations.push({ field, description: 'is missing; give its uri and sha256' });
    return undefined;
  }
  if (!sha256Pattern.test(artifact.sha256)) {
    violations.push({ field: `${field}.sha256`, description: 'must be 64 lower-case hexadecimal digits' });
    return undefined;
  }
  return { uri: artifact.uri, sha256: artifact.sha256 };
}

function modelOf(
  model: ModelVersion | undefined,
  field: string,
  violations: FieldViolation[],
): ModelReference | undefined {
  if (model === undefined) {
    violations.push({ field, description: 'is missing; name the model version' });
    return undefined;
  }
  const weights = artifactOf(model.weights, `${field}.weights`, violations);
  if (weights === undefined) return undefined;
  if (!model.version.endsWith(`@${weights.sha256.slice(0, 12)}`)) {
    violations.push({
      field: `${field}.version`,
      description: `'${model.version}' is not the version of weights ${weights.sha256.slice(0, 12)}; it ends in @ and the first 12 digits of their hash`,
    });
    return undefined;
  }
  const mediaType = model.weights?.mediaType ?? '';
  // Versions that were registered without a type are the built-in model's.
  if (mediaType !== '' && mediaType !== builtInModelMediaType && !hasLatents(mediaType)) {
    violations.push({
      field: `${field}.weights.media_type`,
      description:
        mediaType === remoteModelMediaType
          ? `says that ${model.version} is a remote model, which can be sampled and judged but not trained; name a pipeline or a built-in model`
          : `is ${mediaType}, which is no kind of model that can be trained`,
    });
    return undefined;
  }
  return { ...weights, version: model.version, mediaType: mediaType || builtInModelMediaType };
}

/**
 * Runs something that checks parts of a spec.
 * @throws what it throws, with fields under the names that the proto has
 */
export function inSpec<T>(check: () => T): T {
  const violations: FieldViolation[] = [];
  let cause: unknown;
  const result = collect(violations, () => {
    try {
      return check();
    } catch (error) {
      cause = error;
      throw error;
    }
  });
  if (cause !== undefined) throw invalidArguments(violations, { cause });
  return result as T;
}

/** Seeds of the data step and of batches are JavaScript numbers: the low 53 bits. */
export function numericSeed(seed: bigint): number {
  return Number(BigInt.asUintN(53, seed));
}

/** Runs a parser and keeps its violations, under the names that the proto has. */
function collect<T>(violations: FieldViolation[], parse: () => T): T | undefined {
  try {
    return parse();
  } catch (thrown) {
    const error = PlumbError.from(thrown);
    if (error.fieldViolations === undefined) throw thrown;
    for (const { field, description } of error.fieldViolations) {
      violations.push({ field: `spec.${protoField(field)}`, description });
    }
    return undefined;
  }
}

const renamed: Readonly<Record<string, string>> = {
  'objective.transform': 'objective.weight_transform',
  'objective.beta': 'objective.temperature',
  'objective.accept_threshold': 'objective.threshold',
  'objective.shaping.eta': 'objective.eta',
  'objective.shaping.gamma': 'objective.gamma',
  'objective.shaping.standardise': 'objective.standardise',
  'objective.shaping.clip': 'objective.clip_high',
};

function protoField(field: string): string {
  const snake = field.replaceAll(/([a-z0-9])([A-Z])/g, '$1_$2').toLowerCase();
  return renamed[snake] ?? snake;
}

function isAlgorithm(name: string): name is AlgorithmName {
  return Object.hasOwn(algorithms, name);
}

/** The objective's settings; 0 and the empty string are what a proto has when a field is not set, and take the default. */
function objectiveOf(objective: Objective | undefined): ObjectiveSettings {
  const algorithm = objective?.algorithm ?? '';
  if (objective === undefined || !isAlgorithm(algorithm)) {
    throw invalidArguments([
      {
        field: 'objective.algorithm',
        description: `'${algorithm}' is unknown; use one of ${Object.keys(algorithms).join(', ')}`,
      },
    ]);
  }
  const violations: FieldViolation[] = [];
  const allowed = transforms[algorithm];
  const transform = objective.weightTransform;
  if (transform !== '' && !allowed.includes(transform)) {
    violations.push({
      field: 'objective.weightTransform',
      description:
        allowed.length === 0
          ? `'${transform}' does not apply to ${algorithm}, which has margins and no weights; leave it out`
          : `'${transform}' does not apply to ${algorithm}; use ${allowed.join(' or ')}, or leave it out`,
    });
  }
  const forward = algorithms[algorithm].projection === 'forward-em';
  const inapplicable = (field: string, set: boolean, to: string): void => {
    if (set)
      violations.push({
        field: `objective.${field}`,
        description: `does not apply to ${algorithm}, only to ${to}; leave it out`,
      });
  };
  const forwardOnly = 'sft, filtered-sft and rwr';
  inapplicable('klAnchor', !forward && objective.klAnchor !== 0, forwardOnly);
  inapplicable('maxWeight', !forward && objective.maxWeight !== 0, forwardOnly);
  inapplicable('normalisation', !forward && objective.normalisation !== '', forwardOnly);
  inapplicable('weighting', !forward && objective.weighting !== '', forwardOnly);
  inapplicable('klEstimate', algorithm !== 'kto' && objective.klEstimate !== '', 'kto');
  inapplicable('labelBalance', algorithm !== 'kto' && objective.labelBalance !== '', 'kto');
  inapplicable('maxPairsPerPrompt', algorithm !== 'dpo' && objective.maxPairsPerPrompt !== 0, 'dpo');
  inapplicable('pairs', algorithm !== 'dpo' && objective.pairs !== '', 'dpo');
  inapplicable('maxUsesPerSample', algorithm !== 'dpo' && objective.maxUsesPerSample !== 0, 'dpo');
  inapplicable('minMargin', algorithm !== 'dpo' && objective.minMargin !== 0, 'dpo');
  inapplicable(
    'temperature',
    (algorithm === 'sft' || algorithm === 'filtered-sft') && objective.temperature !== 0,
    'rwr, dpo and kto',
  );
  if (objective.sftAnchor !== 0 && forward) inapplicable('sftAnchor', true, 'dpo and kto');
  if (violations.length > 0) throw invalidArguments(violations);
  const { clipLow, clipHigh } = objective;
  if ((clipLow === undefined) !== (clipHigh === undefined)) {
    const missing = clipLow === undefined ? 'clipLow' : 'clipHigh';
    throw invalidArguments([
      {
        field: `objective.${missing}`,
        description: 'is missing; give both bounds of the shaped reward or neither',
      },
    ]);
  }
  const strength =
    objective.temperature === 0
      ? {}
      : { [algorithm === 'rwr' ? 'temperature' : 'beta']: objective.temperature };
  return parseObjectiveSettings({
    algorithm,
    shaping: {
      ...(objective.eta === 0 ? {} : { eta: objective.eta }),
      gamma: objective.gamma,
      ...(objective.standardise === '' ? {} : { standardise: objective.standardise }),
      ...(clipLow === undefined || clipHigh === undefined ? {} : { clip: [clipLow, clipHigh] }),
    },
    ...(objective.maxUnscoredShare === undefined ? {} : { maxUnscoredShare: objective.maxUnscoredShare }),
    ...(objective.threshold === undefined ? {} : { acceptThreshold: objective.threshold }),
    ...(objective.weighting === '' ? {} : { weighting: objective.weighting }),
    ...(objective.klEstimate === '' ? {} : { klEstimate: objective.klEstimate }),
    ...(objective.labelBalance === '' ? {} : { labelBalance: objective.labelBalance }),
    ...(objective.balance === '' ? {} : { balance: objective.balance }),
    ...(objective.normalisation === '' ? {} : { normalisation: objective.normalisation }),
    ...(objective.maxWeight === 0 ? {} : { maxWeight: objective.maxWeight }),
    ...(objective.klAnchor === 0 ? {} : { klAnchor: objective.klAnchor }),
    ...(objective.sftAnchor === 0 ? {} : { sftAnchor: objective.sftAnchor }),
    ...(algorithm === 'rwr' && transform !== '' ? { transform } : {}),
    ...(objective.maxPairsPerPrompt === 0 ? {} : { maxPairsPerPrompt: objective.maxPairsPerPrompt }),
    // A smallest margin asks for the pairing that knows margins.
    ...(objective.minMargin === 0 ? {} : { minMargin: objective.minMargin, pairs: 'margin' }),
    ...(objective.pairs === '' ? {} : { pairs: objective.pairs }),
    ...(objective.maxUsesPerSample === 0 ? {} : { maxUsesPerSample: objective.maxUsesPerSample }),
    ...strength,
  });
}

/** 0 and the empty list are what a proto has when a field is not set; a rank has no default. */
function adaptersOf(
  adapters: Adapters | undefined,
  defaults: { readonly targets?: readonly string[] },
): AdapterSettings | undefined {
  if (adapters === undefined) return undefined;
  const { rank, alpha, targets } = adapters;
  return parseAdapterSettings({
    rank,
    ...defaults,
    ...(alpha === 0 ? {} : { alpha }),
    ...(targets.length === 0 ? {} : { targets }),
  });
}

function optimisationOf(optimisation: Optimisation | undefined): OptimisationSettings {
  if (optimisation === undefined) {
    throw invalidArguments([
      { field: 'optimisation', description: 'is missing; give steps, batch_size and learning_rate' },
    ]);
  }
  const {
    steps,
    batchSize,
    learningRate,
    weightDecay,
    warmupSteps,
    schedule,
    clipNorm,
    emaDecay,
    captionDropout,
    rematerialise,
    precision,
  } = optimisation;
  return parseOptimisationSettings({
    steps,
    batchSize,
    learningRate,
    weightDecay,
    warmupSteps,
    ...(schedule === '' ? {} : { schedule }),
    ...(clipNorm === 0 ? {} : { clipNorm }),
    emaDecay,
    ...(captionDropout === undefined ? {} : { captionDropout }),
    ...(rematerialise === '' ? {} : { rematerialise }),
    ...(precision === '' ? {} : { precision }),
    ...(optimisation.timesteps === undefined ? {} : { timesteps: timestepsOf(optimisation.timesteps) }),
  });
}

function timestepsOf({ kind, mean, std, low, high }: TimestepDistribution): unknown {
  switch (kind) {
    case 'logit-normal':
      return { kind, mean, std };
    case 'window':
      return { kind, low, high };
    case 'uniform':
      // Bounds other than the whole interval make a window of it.
      return (low === 0 && high === 0) || (low === 0 && high === 1)
        ? { kind }
        : { kind: 'window', low, high };
    default:
      return { kind };
  }
}

/**
 * Where two specs differ first: the field's path with both values; undefined when they are equal. Models and the data set
 * are what their hashes say: the state of a version may have changed since, and a store may have moved.
 */
export function firstDifference(
  before: JobSpec,
  after: JobSpec,
): { readonly field: string; readonly before: string; readonly after: string } | undefined {
  const options = { useProtoFieldName: true };
  return differenceOf(
    toJson(JobSpecSchema, byContent(before), options),
    toJson(JobSpecSchema, byContent(after), options),
    'spec',
  );
}

function byContent(spec: JobSpec): JobSpec {
  const artifact = ({ sha256 }: Artifact): Artifact => create(ArtifactSchema, { sha256 });
  const model = ({ version, weights }: ModelVersion): ModelVersion =>
    create(ModelVersionSchema, { version, ...(weights === undefined ? {} : { weights: artifact(weights) }) });
  const { dataSet, base, reference } = spec;
  return {
    ...spec,
    ...(dataSet === undefined ? {} : { dataSet: artifact(dataSet) }),
    ...(base === undefined ? {} : { base: model(base) }),
    ...(reference === undefined ? {} : { reference: model(reference) }),
  };
}

type Difference = { readonly field: string; readonly before: string; readonly after: string };

function differenceOf(
  before: JsonValue | undefined,
  after: JsonValue | undefined,
  field: string,
): Difference | undefined {
  if (isRecord(before) && isRecord(after)) {
    for (const key of new Set([...Object.keys(before), ...Object.keys(after)])) {
      const found = differenceOf(before[key], after[key], `${field}.${key}`);
      if (found !== undefined) return found;
    }
    return undefined;
  }
  // What is left are scalars, and arrays, of which a spec has only short ones of scalars.
  const [one, other] = [JSON.stringify(before), JSON.stringify(after)];
  return one === other ? undefined : { field, before: one ?? 'nothing', after: other ?? 'nothing' };
}

function isRecord(value: JsonValue | undefined): value is { [key: string]: JsonValue } {
  return typeof value === 'object' && value !== null && !Array.isArray(value);
}
