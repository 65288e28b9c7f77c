import { invalidArgument } from '@plumb/kit/errors';
import { add, cast, gemm, mul, reshape, sizeOf } from '@plumb/tensor-graph';
import type { Tensor, TrainableParameter } from '@plumb/tensor-graph';
import type { LinearLayer, NetworkOptions } from '@plumb/tensor-graph/onnx-import';
import { matchesPattern, type AdapterSettings } from './adapters.ts';
import { fillGaussian, randomGenerator } from './random.ts';
import type { ParameterSpec } from './video-dit.ts';

/** Layers of a pipeline's denoiser that adapters go on unless somebody says otherwise: what diffusers' own scripts adapt. */
export const defaultNetworkTargets: readonly string[] = ['*.to_q', '*.to_k', '*.to_v', '*.to_out.0'];

/**
 * A linear layer of an imported network with its adapters (LoRA): x W' becomes x W' + (alpha / rank) (x A') B', with A
 * [rank, inputs] and B [outputs, rank] as PEFT lays them out, so that the frozen W is read where it lies.
 */
export interface NetworkAdapterTarget {
  readonly layer: LinearLayer;
  /** `<module>.lora_A.weight`, [rank, inputs]. */
  readonly a: ParameterSpec;
  /** `<module>.lora_B.weight`, [outputs, rank]; 0 at first, so that training begins at the base. */
  readonly b: ParameterSpec;
}

/**
 * The layers that the settings pick, in the network's order, with their adapters.
 * @param layers those of an imported network; one that is used several times has one pair of adapters
 * @throws PlumbError INVALID_ARGUMENT naming a pattern that matches no layer, or a rank above what a layer can have
 */
export function networkAdapterTargets(
  layers: readonly LinearLayer[],
  settings: AdapterSettings,
): NetworkAdapterTarget[] {
  const byModule = new Map(layers.map((layer) => [layer.module, layer]));
  const picked = new Set<string>();
  for (const [index, pattern] of settings.targets.entries()) {
    const found = [...byModule.keys()].filter((module) => matchesPattern(pattern, module));
    for (const module of found) picked.add(module);
    if (found.length > 0) continue;
    throw invalidArgument(
      `adapters.targets[${index}]`,
      `${JSON.stringify(pattern)} matches no linear layer; they are called, for example, ${[...byModule.keys()].slice(-4).join(', ')}`,
    );
  }
  return [...byModule.values()]
    .filter(({ module }) => picked.has(module))
    .map((layer) => {
      const { module, inputs, outputs } = layer;
      if (settings.rank > Math.min(inputs, outputs)) {
        throw invalidArgument(
          'adapters.rank',
          `is ${settings.rank}, but ${module} [${inputs}, ${outputs}] has rank ${Math.min(inputs, outputs)} at most; lower it, or leave this layer out of adapters.targets`,
        );
      }
      const spec = { learningRateMultiplier: 1, weightDecay: true };
      return {
        layer,
        a: {
          ...spec,
          name: `${module}.lora_A.weight`,
          shape: [settings.rank, inputs],
          initialStd: 1 / Math.sqrt(inputs),
        },
        b: { ...spec, name: `${module}.lora_B.weight`, shape: [outputs, settings.rank], initialStd: 0 },
      };
    });
}

/** Adapters that change nothing yet, drawn from a seed. */
export function initialiseNetworkAdapters(
  targets: readonly NetworkAdapterTarget[],
  seed: string,
): Map<string, Float32Array> {
  return new Map(
    targets
      .flatMap(({ a, b }) => [a, b])
      .map(({ name, shape, initialStd }) => {
        const values = new Float32Array(sizeOf(shape));
        if (initialStd > 0) {
          fillGaussian(values, randomGenerator(seed, 'adapters', name));
          for (let i = 0; i < values.length; i++) values[i] = (values[i] ?? 0) * initialStd;
        }
        return [name, values];
      }),
  );
}

/**
 * Adapters on a graph, and what puts them onto the layers of a network there.
 * @param make a tensor for A or B: a parameter, or a constant
 * @returns `trainable` holds those that are parameters
 */
export function networkAdapters(
  targets: readonly NetworkAdapterTarget[],
  settings: AdapterSettings,
  make: (spec: ParameterSpec) => Tensor,
): {
  readonly trainable: readonly TrainableParameter[];
  readonly adapt: NonNullable<NetworkOptions['adapt']>;
} {
  const trainable: TrainableParameter[] = [];
  const made = (spec: ParameterSpec): Tensor => {
    const tensor = make(spec);
    if (tensor.source.kind === 'input' && tensor.source.trainable) {
      const { learningRateMultiplier: learningRateScale, weightDecay } = spec;
      trainable.push({ tensor, learningRateScale, weightDecay });
    }
    return tensor;
  };
  const pairs = new Map(targets.map(({ layer, a, b }) => [layer.module, { a: made(a), b: made(b) }]));
  return {
    trainable,
    adapt(layer, x, y) {
      const pair = pairs.get(layer.module);
      if (pair === undefined) return y;
      const rows = reshape(x, [sizeOf(x.shape.slice(0, -1)), layer.inputs]);
      const narrow = gemm(rows, cast(pair.a, x.dtype), undefined, { transposeB: true });
      const scaled = mul(narrow, settings.alpha / settings.rank);
      const change = gemm(scaled, cast(pair.b, x.dtype), undefined, { transposeB: true });
      return add(y, reshape(change, y.shape));
    },
  };
}
