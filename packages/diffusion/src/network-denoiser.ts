import { invalidArgument } from '@plumb/kit/errors';
import { cast, type Graph, type Tensor } from '@plumb/tensor-graph';
import type { TypedTensor } from '@plumb/tensor-graph/engine';
import type { ImportedNetwork, NetworkOptions } from '@plumb/tensor-graph/onnx-import';
import type { Parameterisation } from './parameterisation.ts';

/** Blocks of the transformers of diffusers, which `rematerialise: blocks` computes a second time. */
const blocks = [
  'blocks.*',
  'transformer_blocks.*',
  'single_transformer_blocks.*',
  'down_blocks.*',
  'mid_block',
  'up_blocks.*',
];

/** Signal and noise at a time, and what the denoiser is told of it. */
export interface NoiseLevel {
  readonly signal: number;
  readonly noise: number;
  readonly timestep: number;
}

/** An imported network as a denoiser: what its inputs mean, and the noise that it was trained on. */
export interface NetworkDenoiser {
  /** For messages. */
  readonly name: string;
  /** Imported for as many rows as are to share a pass. */
  readonly network: ImportedNetwork;
  /** Names of its inputs. */
  readonly inputs: {
    /** [rows, ...latents] */
    readonly latents: string;
    /** [rows] */
    readonly timestep: string;
    /** [rows, tokens, width] */
    readonly text: string;
    /** [rows, tokens], 1 for a token and 0 for padding; none unless given. */
    readonly textMask?: string;
  };
  /** Inputs that are always the same, for `rows` rows, by name. */
  readonly constants?: Readonly<Record<string, TypedTensor>>;
  /** What it predicts. */
  readonly parameterisation: Parameterisation;
  /** @param t in (0, 1); 0 is the clip, 1 is noise */
  readonly noiseLevel: (t: number) => NoiseLevel;
}

/** The straight path of rectified flow, of a model that is told `t` times the number of its training steps. */
export function flowNoise(trainingSteps = 1000): (t: number) => NoiseLevel {
  return (t) => ({ signal: 1 - t, noise: t, timestep: t * trainingSteps });
}

/**
 * A variance-preserving path in discrete steps (DDPM; Ho et al., arXiv 2006.11239).
 * @param alphaBars share of the signal's variance at every training step, falling
 */
export function discreteNoise(alphaBars: readonly number[]): (t: number) => NoiseLevel {
  return (t) => {
    const timestep = Math.min(Math.floor(t * alphaBars.length), alphaBars.length - 1);
    const alphaBar = alphaBars[timestep] ?? Number.NaN;
    return { signal: Math.sqrt(alphaBar), noise: Math.sqrt(1 - alphaBar), timestep };
  };
}

/** What the shapes of a denoiser's inputs say. */
export interface DenoiserShape {
  readonly rows: number;
  /** Of one clip. */
  readonly latents: readonly number[];
  readonly tokens: number;
  /** Features of a token. */
  readonly width: number;
  /** Whether the network is told whole timesteps. */
  readonly wholeTimesteps: boolean;
}

/**
 * @throws PlumbError INVALID_ARGUMENT naming an input that the network does not have or has with another rank
 */
export function denoiserShape({ name, network, inputs, constants = {} }: NetworkDenoiser): DenoiserShape {
  const specOf = (role: string, input: string): ImportedNetwork['inputs'][number] => {
    const spec = network.inputs.find((each) => each.name === input);
    if (spec !== undefined) return spec;
    throw invalidArgument(
      `denoiser.inputs.${role}`,
      `is ${input}, but ${name} has the inputs ${network.inputs.map((each) => each.name).join(', ')}`,
    );
  };
  const latents = specOf('latents', inputs.latents);
  const timestep = specOf('timestep', inputs.timestep);
  const text = specOf('text', inputs.text);
  const [rows = 0, ...clip] = latents.shape;
  const [textRows, tokens = 0, width = 0] = text.shape;
  if (text.shape.length !== 3 || textRows !== rows) {
    throw invalidArgument(
      'denoiser.inputs.text',
      `${inputs.text} is [${text.shape.join(', ')}]; it must be [${rows}, tokens, width]`,
    );
  }
  if (timestep.shape.join() !== String(rows)) {
    throw invalidArgument(
      'denoiser.inputs.timestep',
      `${inputs.timestep} is [${timestep.shape.join(', ')}]; it must be [${rows}]`,
    );
  }
  const known = new Set([...Object.values(inputs), ...Object.keys(constants)]);
  const missing = network.inputs.find((each) => !known.has(each.name));
  if (missing !== undefined) {
    throw invalidArgument('denoiser.constants', `have no ${missing.name}, which ${name} needs`);
  }
  return { rows, latents: clip, tokens, width, wholeTimesteps: timestep.dtype.startsWith('int') };
}

/** What a pass is conditioned on, on a graph. */
export interface NetworkConditioning {
  /** float32 [rows, tokens, width] */
  readonly text: Tensor;
  /** float32 [rows, tokens]; given where the denoiser takes a mask. */
  readonly mask: Tensor | undefined;
}

/**
 * A denoiser's prediction on a graph.
 * @param noised float32 [rows, ...latents]
 * @param timestep [rows], of the network's dtype or float32
 * @returns float32, shaped as `noised`
 */
export function predictWithNetwork(
  graph: Graph,
  { network, inputs, constants = {} }: NetworkDenoiser,
  noised: Tensor,
  timestep: Tensor,
  { text, mask }: NetworkConditioning,
  options: { readonly adapt?: NonNullable<NetworkOptions['adapt']>; readonly rematerialise?: boolean } = {},
): Tensor {
  const given = new Map<string, Tensor>([
    [inputs.latents, noised],
    [inputs.timestep, timestep],
    [inputs.text, text],
    ...Object.entries(constants).map(([name, { dtype, shape, data }]): [string, Tensor] => [
      name,
      graph.constant(data, shape, dtype),
    ]),
  ]);
  if (inputs.textMask !== undefined && mask !== undefined) given.set(inputs.textMask, mask);
  const fed: Record<string, Tensor> = {};
  for (const { name, dtype } of network.inputs) {
    const tensor = given.get(name);
    if (tensor !== undefined) fed[name] = cast(tensor, dtype);
  }
  const { adapt, rematerialise } = options;
  const [prediction] = Object.values(
    network.apply(graph, fed, {
      ...(adapt === undefined ? {} : { adapt }),
      ...(rematerialise === true ? { rematerialise: blocks } : {}),
    }),
  );
  if (prediction === undefined) throw new TypeError('the network has no output');
  return cast(prediction, 'float32');
}
