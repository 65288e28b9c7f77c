import { dataLoss, invalidArgument } from '@plumb/kit/errors';
import type { TypedTensor } from '@plumb/tensor-graph/engine';
import { readSafetensors, writeSafetensors } from '@plumb/tensor-graph/safetensors';
import { z } from 'zod';
import type { NetworkAdapterTarget } from './network-adapters.ts';
import type { AdapterSettings } from './adapters.ts';

/** Key of the metadata that diffusers reads the adapters' configuration from. */
const METADATA_KEY = 'lora_adapter_metadata';

/** What tools put before the names of a denoiser's layers: diffusers' pipelines, PEFT, and trainers of single files. */
const PREFIXES = ['transformer.', 'unet.', 'base_model.model.', 'diffusion_model.'];

/** Adapters as a file of another tool has them. */
export interface PeftAdapters {
  readonly rank: number;
  readonly alpha: number;
  /** Adapted layers by name, in the order of the file. */
  readonly modules: readonly string[];
  /** float32 values by `<module>.lora_A.weight` and `<module>.lora_B.weight`. */
  readonly parameters: ReadonlyMap<string, Float32Array>;
}

/**
 * Adapters of an imported network in the naming of diffusers and PEFT: `transformer.<module>.lora_A.weight` [rank, inputs]
 * and `.lora_B.weight` [outputs, rank]. The factor alpha / rank is multiplied into B, since not every tool reads it from
 * the file: alpha is the rank for all readers.
 *
 * @param component the pipeline's component that the network is
 * @throws PlumbError INVALID_ARGUMENT for values that are missing or do not fit the targets
 */
export function encodePeftAdapters(
  targets: readonly NetworkAdapterTarget[],
  settings: AdapterSettings,
  parameters: ReadonlyMap<string, Float32Array>,
  component: 'transformer' | 'unet' = 'transformer',
): Uint8Array {
  const scale = settings.alpha / settings.rank;
  const tensors = new Map<string, TypedTensor>();
  for (const { a, b } of targets) {
    for (const { name, shape } of [a, b]) {
      const values = parameters.get(name);
      if (values?.length !== shape.reduce((x, y) => x * y, 1)) {
        throw invalidArgument(
          `adapters.parameters.${name}`,
          values === undefined
            ? 'is missing'
            : `has ${values.length} values; it must be [${shape.join(', ')}]`,
        );
      }
      const data = name === b.name ? values.map((value) => value * scale) : values;
      tensors.set(`${component}.${name}`, { dtype: 'float32', shape, data });
    }
  }
  const configuration = {
    [`${component}.r`]: settings.rank,
    [`${component}.lora_alpha`]: settings.rank,
    [`${component}.target_modules`]: targets.map(({ layer }) => layer.module),
  };
  return writeSafetensors(tensors, { format: 'pt', [METADATA_KEY]: JSON.stringify(configuration) });
}

const configurationSchema = z.record(z.string(), z.unknown());

/**
 * Reads adapters that diffusers or PEFT wrote. Half precision becomes float32. Alpha is what the metadata or the tensors
 * `<module>.alpha` say, and the rank where neither does.
 *
 * @param source what is being read, for errors
 * @throws PlumbError DATA_LOSS naming the source and what is wrong: not safetensors, a tensor that is no adapter, half of a
 *   pair, different ranks or alphas, a value that is not finite
 */
export function decodePeftAdapters(bytes: Uint8Array, source: string): PeftAdapters {
  const { tensors, metadata } = readSafetensors(bytes);
  const parameters = new Map<string, Float32Array>();
  const pairs = new Map<string, { rankOfA?: number; rankOfB?: number }>();
  const alphas = new Set<number>();
  for (const [name, tensor] of tensors) {
    const own = withoutPrefix(name);
    const match = /^(.+)\.(?:lora_(A|B)(?:\.[^.]+)?\.weight|(alpha))$/.exec(own);
    if (match === null) {
      throw dataLoss(
        `${source}: ${name} is no LoRA adapter of a linear layer (<module>.lora_A.weight, <module>.lora_B.weight)`,
      );
    }
    const [, module = '', side, isAlpha] = match;
    const values = numbersOf(tensor);
    if (values === undefined) throw dataLoss(`${source}: ${name} is ${tensor.dtype}; adapters are floats`);
    if (!values.every(Number.isFinite)) throw dataLoss(`${source}: ${name} has values that are not finite`);
    if (isAlpha !== undefined) {
      alphas.add(values[0] ?? Number.NaN);
      continue;
    }
    const [rows, columns] = tensor.shape;
    if (tensor.shape.length !== 2 || rows === undefined || columns === undefined) {
      throw dataLoss(
        `${source}: ${name} is [${tensor.shape.join(', ')}]; adapters of linear layers are matrices`,
      );
    }
    const pair = pairs.get(module) ?? {};
    pairs.set(module, pair);
    if (side === 'A') pair.rankOfA = rows;
    else pair.rankOfB = columns;
    parameters.set(`${module}.lora_${side}.weight`, values);
  }
  const ranks = new Set<number>();
  for (const [module, { rankOfA, rankOfB }] of pairs) {
    if (rankOfA === undefined || rankOfA !== rankOfB) {
      throw dataLoss(`${source}: ${module} has lora_A of rank ${rankOfA} and lora_B of rank ${rankOfB}`);
    }
    ranks.add(rankOfA);
  }
  const [rank] = ranks;
  if (rank === undefined) throw dataLoss(`${source} has no adapters`);
  if (ranks.size > 1) {
    throw dataLoss(
      `${source} has adapters of ranks ${[...ranks].join(', ')}; only one rank for all is supported`,
    );
  }
  const stated = alphaOfMetadata(metadata[METADATA_KEY], source);
  if (stated !== undefined) alphas.add(stated);
  const [alpha = rank] = alphas;
  if (alphas.size > 1 || !(alpha > 0)) {
    throw dataLoss(`${source} has alphas ${[...alphas].join(', ')}; only one above 0 for all is supported`);
  }
  return { rank, alpha, modules: [...pairs.keys()], parameters };
}

function withoutPrefix(name: string): string {
  const prefix = PREFIXES.find((candidate) => name.startsWith(candidate));
  return prefix === undefined ? name : name.slice(prefix.length);
}

function alphaOfMetadata(text: string | undefined, source: string): number | undefined {
  if (text === undefined) return undefined;
  let value: unknown;
  try {
    value = JSON.parse(text);
  } catch (cause) {
    throw dataLoss(`${source}: ${METADATA_KEY} is not JSON (${String(cause)})`);
  }
  const parsed = configurationSchema.safeParse(value);
  if (!parsed.success) throw dataLoss(`${source}: ${METADATA_KEY} is no object`);
  const entries = Object.entries(parsed.data).map(([key, item]) => [withoutPrefix(key), item] as const);
  const configuration = Object.fromEntries(entries);
  const patterns = configuration['alpha_pattern'];
  if (configuration['use_dora'] === true || configuration['use_rslora'] === true) {
    throw dataLoss(`${source} has DoRA or rank-stabilised adapters; only plain LoRA is supported`);
  }
  if (typeof patterns === 'object' && patterns !== null && Object.keys(patterns).length > 0) {
    throw dataLoss(`${source} has an alpha_pattern; only one alpha for all layers is supported`);
  }
  const alpha = configuration['lora_alpha'];
  return typeof alpha === 'number' ? alpha : undefined;
}

/** The elements of a float tensor. */
function numbersOf({ dtype, data }: TypedTensor): Float32Array | undefined {
  if (data instanceof Float32Array) return data;
  if (data instanceof Float64Array) return Float32Array.from(data);
  if (!(data instanceof Uint16Array)) return undefined;
  if (dtype === 'bfloat16') return new Float32Array(Uint32Array.from(data, (bits) => bits << 16).buffer);
  return Float32Array.from(data, halfToNumber);
}

/** IEEE 754 binary16 to a number. */
function halfToNumber(bits: number): number {
  const exponent = (bits >> 10) & 0x1f;
  const fraction = bits & 0x3ff;
  const sign = bits & 0x8000 ? -1 : 1;
  if (exponent === 0x1f) return fraction === 0 ? sign * Infinity : Number.NaN;
  return sign * (exponent === 0 ? fraction * 2 ** -24 : (1024 + fraction) * 2 ** (exponent - 25));
}
