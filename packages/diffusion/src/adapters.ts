import { createHash } from 'node:crypto';
import { dataLoss, failedPrecondition, invalidArgument, invalidArguments } from '@plumb/kit/errors';
import { add, matMul, mul, type Tensor } from '@plumb/tensor-graph';
import { readSafetensors, writeSafetensors } from '@plumb/tensor-graph/safetensors';
import { z } from 'zod';
import type { VideoModelConfig } from './config.ts';
import { encodeModel, type VideoModel } from './model-file.ts';
import { fillGaussian, randomGenerator } from './random.ts';
import { parameterSpecs, type ParameterSpec } from './video-dit.ts';

/**
 * Low-rank adapters (LoRA; Hu et al., arXiv 2106.09685): a matrix W [inputs, outputs] that stays frozen becomes
 * W + (alpha / rank) A B, with A [inputs, rank] and B [rank, outputs] trained in its place.
 */
export const adapterSettingsSchema = z
  .strictObject({
    /** Largest rank of the change to a matrix. More can express more, and costs rank * (inputs + outputs) numbers. */
    rank: z
      .int('must be a whole number')
      .min(1, 'must be at least 1; leave adapters out to train all weights'),
    /** Scale of the change, divided by the rank; the rank unless given, which is a factor of 1. */
    alpha: z.number().positive('must be above 0').optional(),
    /** Names of matrices of `parameterSpecs`, in which `*` stands for any characters. */
    targets: z
      .array(z.string().min(1, 'must not be empty'))
      .min(1, 'must name at least one matrix')
      .default(['blocks.*.attention.qkv.weight', 'blocks.*.attention.out.weight', 'blocks.*.mlp.*.weight']),
  })
  .transform((settings) => ({ ...settings, alpha: settings.alpha ?? settings.rank }));

/** Which matrices are adapted and how; complete. */
export type AdapterSettings = z.output<typeof adapterSettingsSchema>;

/** Trained adapters, and the model that they belong to. */
export interface Adapters {
  readonly settings: AdapterSettings;
  /** SHA-256 of the base model's file, as `modelHash` gives it. */
  readonly base: string;
  /** float32 values by name: `<matrix>.lora_a` [inputs, rank] and `<matrix>.lora_b` [rank, outputs]. */
  readonly parameters: ReadonlyMap<string, Float32Array>;
}

const METADATA_KEY = 'plumb.adapters';

/** @throws PlumbError INVALID_ARGUMENT with one violation for each wrong field */
export function parseAdapterSettings(input: unknown): AdapterSettings {
  const parsed = adapterSettingsSchema.safeParse(input);
  if (parsed.success) return parsed.data;
  throw invalidArguments(
    parsed.error.issues.map(({ path, message }) => ({
      field: ['adapters', ...path].join('.'),
      description: message,
    })),
  );
}

/** SHA-256, lower-case hexadecimal, of the file that `encodeModel` writes: the hash that versions are named by. */
export function modelHash(model: VideoModel): string {
  return createHash('sha256').update(encodeModel(model)).digest('hex');
}

/** A matrix that is adapted, and the weights trained for it. */
export interface AdapterTarget {
  readonly matrix: string;
  readonly a: ParameterSpec;
  readonly b: ParameterSpec;
}

/**
 * The matrices that the settings pick, in the order of `parameterSpecs`, with their adapters. A is drawn with variance
 * 1 / inputs, so that x A has the variance of x; B begins at 0, so that training begins at the base.
 * @throws PlumbError INVALID_ARGUMENT naming a pattern that matches no matrix, or a rank above what a matrix can have
 */
export function adapterTargets(config: VideoModelConfig, settings: AdapterSettings): AdapterTarget[] {
  const matrices = parameterSpecs(config).filter(({ shape }) => shape.length === 2);
  const picked = new Set<string>();
  for (const [index, pattern] of settings.targets.entries()) {
    const found = matrices.filter(({ name }) => matchesPattern(pattern, name));
    for (const { name } of found) picked.add(name);
    if (found.length > 0) continue;
    throw invalidArgument(
      `adapters.targets[${index}]`,
      `${JSON.stringify(pattern)} matches no matrix of ${config.name}; its matrices are called, for example, ${matrices
        .slice(-4)
        .map(({ name }) => name)
        .join(', ')}`,
    );
  }
  return matrices
    .filter(({ name }) => picked.has(name))
    .map(({ name, shape, ...spec }) => {
      const [inputs = 0, outputs = 0] = shape;
      if (settings.rank > Math.min(inputs, outputs)) {
        throw invalidArgument(
          'adapters.rank',
          `is ${settings.rank}, but ${name} [${inputs}, ${outputs}] has rank ${Math.min(inputs, outputs)} at most; lower it, or leave this matrix out of adapters.targets`,
        );
      }
      return {
        matrix: name,
        a: {
          ...spec,
          name: `${name}.lora_a`,
          shape: [inputs, settings.rank],
          initialStd: 1 / Math.sqrt(inputs),
        },
        b: { ...spec, name: `${name}.lora_b`, shape: [settings.rank, outputs], initialStd: 0 },
      };
    });
}

/** Every weight of the adapters, in a fixed order: what is trained in place of the model's own. */
export function adapterSpecs(config: VideoModelConfig, settings: AdapterSettings): ParameterSpec[] {
  return adapterTargets(config, settings).flatMap(({ a, b }) => [a, b]);
}

/** Adapters that change nothing yet, drawn from a seed. */
export function initialiseAdapters(
  config: VideoModelConfig,
  settings: AdapterSettings,
  seed: string,
): Map<string, Float32Array> {
  return new Map(
    adapterSpecs(config, settings).map(({ name, shape, initialStd }) => {
      const values = new Float32Array(shape.reduce((a, b) => a * b, 1));
      if (initialStd > 0) {
        fillGaussian(values, randomGenerator(seed, 'adapters', name));
        for (let i = 0; i < values.length; i++) values[i] = (values[i] ?? 0) * initialStd;
      }
      return [name, values];
    }),
  );
}

/** W + (alpha / rank) A B on the graph of its operands. */
export function adaptedMatrix(settings: AdapterSettings, base: Tensor, a: Tensor, b: Tensor): Tensor {
  // The factor goes to A, the smaller of what it could go to.
  return add(base, matMul(mul(a, settings.alpha / settings.rank), b));
}

/**
 * The model that base and adapters make together, as a model of its own.
 * @throws PlumbError FAILED_PRECONDITION when the adapters were trained on another model; INVALID_ARGUMENT when they
 *   do not fit it
 */
export function mergeAdapters(model: VideoModel, adapters: Adapters): VideoModel {
  const hash = modelHash(model);
  if (adapters.base !== hash) {
    throw failedPrecondition(
      `the adapters were trained on the model with hash ${adapters.base}, and this one has ${hash}; merge them into their own base`,
    );
  }
  return mergeParameters(model, adapters.settings, adapters.parameters);
}

/** `mergeAdapters` for adapters that are known to belong to the model. */
export function mergeParameters(
  model: VideoModel,
  settings: AdapterSettings,
  values: ReadonlyMap<string, Float32Array>,
): VideoModel {
  const parameters = new Map(model.parameters);
  const scale = settings.alpha / settings.rank;
  const { rank } = settings;
  for (const { matrix, a, b } of adapterTargets(model.config, settings)) {
    const base = model.parameters.get(matrix);
    if (base === undefined) throw new TypeError(`the model has no weights named ${matrix}`);
    const left = requireValues(values, a);
    const right = requireValues(values, b);
    const [inputs = 0] = a.shape;
    const [, outputs = 0] = b.shape;
    const merged = new Float32Array(base.length);
    for (let row = 0; row < inputs; row++) {
      for (let column = 0; column < outputs; column++) {
        let sum = 0;
        for (let k = 0; k < rank; k++) {
          sum += (left[row * rank + k] ?? 0) * (right[k * outputs + column] ?? 0);
        }
        const at = row * outputs + column;
        merged[at] = (base[at] ?? 0) + scale * sum;
      }
    }
    parameters.set(matrix, merged);
  }
  return { config: model.config, parameters };
}

function requireValues(
  values: ReadonlyMap<string, Float32Array>,
  { name, shape }: ParameterSpec,
): Float32Array {
  const found = values.get(name);
  const size = shape.reduce((a, b) => a * b, 1);
  if (found?.length === size) return found;
  throw invalidArgument(
    `adapters.parameters.${name}`,
    found === undefined
      ? 'is missing'
      : `has ${found.length} values; [${shape.join(', ')}] needs ${size}; use the adapters of this model`,
  );
}

/** Adapters as a safetensors file whose metadata hold rank, alpha, targets and the hash of the base. */
export function encodeAdapters(config: VideoModelConfig, adapters: Adapters): Uint8Array {
  const { rank, alpha, targets } = adapters.settings;
  const tensors = new Map(
    adapterSpecs(config, adapters.settings).map((spec) => [
      spec.name,
      {
        dtype: 'float32' as const,
        shape: [...spec.shape],
        data: requireValues(adapters.parameters, spec),
      },
    ]),
  );
  return writeSafetensors(tensors, {
    [METADATA_KEY]: JSON.stringify({ format: 1, rank, alpha, targets, base: adapters.base }),
  });
}

const metadataSchema = z.strictObject({
  format: z.literal(1),
  rank: z.int().min(1),
  alpha: z.number().positive(),
  targets: z.array(z.string().min(1)).min(1),
  base: z.string().regex(/^[0-9a-f]{64}$/),
});

/**
 * Reads an adapters file. Whether it fits a model is seen when it is merged.
 * @param source what is being read, for errors
 * @throws PlumbError DATA_LOSS naming the source and what is wrong: not safetensors, metadata missing or invalid, a
 *   value that is not a finite float32
 */
export function decodeAdapters(bytes: Uint8Array, source: string): Adapters {
  const { tensors, metadata } = readSafetensors(bytes);
  const text = metadata[METADATA_KEY];
  if (text === undefined) {
    throw dataLoss(`${source} is not a file of Plumb adapters: its metadata has no ${METADATA_KEY}`);
  }
  const parsed = metadataSchema.safeParse(parseJson(text, source));
  if (!parsed.success)
    throw dataLoss(`${source}: ${METADATA_KEY} is invalid: ${z.prettifyError(parsed.error)}`);
  const { rank, alpha, targets, base } = parsed.data;
  const parameters = new Map<string, Float32Array>();
  for (const [name, { dtype, data }] of tensors) {
    if (!(data instanceof Float32Array)) throw dataLoss(`${source}: ${name} is ${dtype}, not float32`);
    if (!data.every(Number.isFinite)) throw dataLoss(`${source}: ${name} has values that are not finite`);
    parameters.set(name, data);
  }
  return { settings: { rank, alpha, targets }, base, parameters };
}

function parseJson(text: string, source: string): unknown {
  try {
    return JSON.parse(text);
  } catch (error) {
    throw dataLoss(`${source}: ${METADATA_KEY} is not JSON (${String(error)})`);
  }
}

/** Whether a name is of a pattern, in which `*` stands for any characters. */
export function matchesPattern(pattern: string, name: string): boolean {
  const literal = (text: string): string => text.replaceAll(/[$()*+.?[\\\]^{|}]/g, String.raw`\$&`);
  return new RegExp(`^${pattern.split('*').map(literal).join('.*')}$`).test(name);
}
