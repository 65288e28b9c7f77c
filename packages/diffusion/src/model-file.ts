import { dataLoss } from '@plumb/kit/errors';
import { readSafetensors, writeSafetensors } from '@plumb/tensor-graph/safetensors';
import { z } from 'zod';
import { videoModelConfigSchema, type VideoModelConfig } from './config.ts';
import { fillGaussian, randomGenerator } from './random.ts';
import { parameterSpecs } from './video-dit.ts';

/** A video model: its config and its weights by name. */
export interface VideoModel {
  readonly config: VideoModelConfig;
  /** float32 values by the names of `parameterSpecs`, in its order. */
  readonly parameters: ReadonlyMap<string, Float32Array>;
}

/** Key of the safetensors metadata that holds the config. */
const CONFIG_KEY = 'plumb.config';

/** Fresh weights for pretraining, drawn from a seed. */
export function initialiseModel(config: VideoModelConfig, seed: string): VideoModel {
  const parameters = new Map<string, Float32Array>();
  for (const spec of parameterSpecs(config)) {
    const values = new Float32Array(sizeOf(spec.shape));
    if (spec.initialStd > 0) {
      fillGaussian(values, randomGenerator(seed, 'weights', spec.name));
      for (let i = 0; i < values.length; i++) values[i] = (values[i] ?? 0) * spec.initialStd;
    }
    parameters.set(spec.name, values);
  }
  return { config, parameters };
}

/** The model as a safetensors file whose metadata holds the config: one file, one hash. */
export function encodeModel(model: VideoModel): Uint8Array {
  const tensors = new Map(
    parameterSpecs(model.config).map((spec) => {
      const data = model.parameters.get(spec.name);
      if (data === undefined) throw new TypeError(`the model has no weights for ${spec.name}`);
      return [spec.name, { dtype: 'float32' as const, shape: [...spec.shape], data }];
    }),
  );
  return writeSafetensors(tensors, { [CONFIG_KEY]: JSON.stringify(model.config) });
}

/**
 * Reads a model file.
 * @param source what is being read, for errors
 * @throws PlumbError DATA_LOSS naming the source and what is wrong: not safetensors, config missing or invalid, a
 * weight missing, of the wrong shape or not finite
 */
export function decodeModel(bytes: Uint8Array, source: string): VideoModel {
  const { tensors, metadata } = readSafetensors(bytes);
  const text = metadata[CONFIG_KEY];
  if (text === undefined) {
    throw dataLoss(`${source} is not a Plumb video model: its metadata has no ${CONFIG_KEY}`);
  }
  const config = parseConfig(text, source);
  const parameters = new Map<string, Float32Array>();
  for (const spec of parameterSpecs(config)) {
    const tensor = tensors.get(spec.name);
    if (tensor === undefined) throw dataLoss(`${source} has no weights for ${spec.name}; get the file again`);
    if (!(tensor.data instanceof Float32Array) || tensor.shape.join() !== spec.shape.join()) {
      throw dataLoss(
        `${source}: ${spec.name} is ${tensor.dtype} [${tensor.shape.join(', ')}], but its config needs float32 [${spec.shape.join(', ')}]`,
      );
    }
    if (!tensor.data.every(Number.isFinite)) {
      throw dataLoss(`${source}: ${spec.name} has values that are not finite`);
    }
    parameters.set(spec.name, tensor.data);
  }
  return { config, parameters };
}

function parseConfig(text: string, source: string): VideoModelConfig {
  let value: unknown;
  try {
    value = JSON.parse(text);
  } catch (error) {
    throw dataLoss(`${source}: ${CONFIG_KEY} is not JSON (${String(error)})`);
  }
  const parsed = videoModelConfigSchema.safeParse(value);
  if (!parsed.success)
    throw dataLoss(`${source}: ${CONFIG_KEY} is invalid: ${z.prettifyError(parsed.error)}`);
  return parsed.data;
}

function sizeOf(shape: readonly number[]): number {
  return shape.reduce((a, b) => a * b, 1);
}
