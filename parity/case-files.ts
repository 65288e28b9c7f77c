import { readFile } from 'node:fs/promises';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import type { TypedTensor } from '@plumb/tensor-graph/engine';
import { readSafetensors } from '@plumb/tensor-graph/safetensors';

/** The committed cases. */
export const committedCases = fileURLToPath(new URL('cases/', import.meta.url));

/** What a case of an operator passes beside tensors; each operator reads the ones it knows. */
export interface OperatorOptions {
  readonly axis?: number;
  readonly axes?: readonly number[];
  readonly keepDims?: boolean;
  readonly shape?: readonly number[];
  readonly permutation?: readonly number[];
  readonly start?: number;
  readonly end?: number;
  readonly step?: number;
  readonly sizes?: readonly number[];
  /** Which results of `split` are compared. */
  readonly take?: readonly number[];
  readonly before?: readonly number[];
  readonly after?: readonly number[];
  readonly low?: number;
  readonly high?: number;
  readonly epsilon?: number;
  readonly groups?: number;
  readonly approximate?: 'none' | 'tanh';
  readonly transposeA?: boolean;
  readonly transposeB?: boolean;
  readonly strides?: number | readonly number[];
  readonly padding?: number | readonly number[];
  readonly dilations?: number | readonly number[];
  readonly outputPadding?: number | readonly number[];
  readonly factors?: readonly number[];
  /** A plain number in place of an operand. */
  readonly left?: number;
  readonly right?: number;
  /** One tensor as both operands. */
  readonly both?: 'a';
  /** Whether `scatterNd` adds. */
  readonly add?: boolean;
  readonly limit?: number;
  readonly decay?: number;
  readonly dtype?: 'float64' | 'int32';
}

/** An operator on some inputs. */
export interface OperatorCase {
  readonly name: string;
  readonly kind: 'operators';
  /** Exported name in tensor-graph. */
  readonly operator: string;
  readonly inputs: readonly string[];
  /** Inputs with a gradient. */
  readonly differentiated: readonly string[];
  /** Number of results. */
  readonly outputs: number;
  readonly options: OperatorOptions;
}

/** A loss on random predictions. */
export interface LossCase {
  readonly name: string;
  readonly kind: 'losses';
  /** Objective settings. */
  readonly settings: Readonly<Record<string, unknown>>;
  /** Sets of predictions: target, policy and reference each. */
  readonly groups: readonly string[];
  readonly extras: readonly string[];
  readonly metrics: readonly string[];
}

/** Signal, noise and preconditioning of a parameterisation, which is the name. */
export interface PathCase {
  readonly name: string;
  readonly kind: 'paths';
  readonly sigmaData: number;
}

/** The video DiT. */
export type ModelCase = { readonly name: string; readonly kind: 'models' } & (
  | { readonly check: 'prediction' }
  | {
      readonly check: 'objective';
      readonly parameterisation: 'flow' | 'v' | 'epsilon';
      readonly settings: Readonly<Record<string, unknown>>;
      readonly metrics: readonly string[];
    }
  | {
      readonly check: 'adapters';
      readonly settings: Readonly<Record<string, unknown>>;
      readonly adapters: {
        readonly rank: number;
        readonly alpha: number;
        readonly targets: readonly string[];
      };
      /** The reference is the base with the adapters off; otherwise it is the shared model `reference`. */
      readonly referenceIsBase: boolean;
      readonly metrics: readonly string[];
    }
  | {
      readonly check: 'training';
      readonly settings: Readonly<Record<string, unknown>>;
      readonly optimiser: {
        readonly beta1: number;
        readonly beta2: number;
        readonly epsilon: number;
        readonly weightDecay: number;
        readonly clipNorm: number;
      };
      readonly learningRates: readonly number[];
      readonly emaDecays: readonly number[];
      /** Batches, taken in turn. */
      readonly feeds: number;
    }
);

/** A transformer of diffusers as ONNX, in the folder `denoisers`. */
export interface DenoiserCase {
  readonly name: string;
  readonly kind: 'denoisers';
  /** How it was exported. */
  readonly how: string;
  readonly file: string;
  /** Its adapters as diffusers saves them. */
  readonly adaptersFile: string;
  readonly parameterisation: 'flow' | 'v';
  /** Samples that the network is built for; a batch has several times as many. */
  readonly microBatch: number;
  /** Modules that are computed a second time for the gradient; may be none. */
  readonly blocks: readonly string[];
  readonly adapters: { readonly rank: number; readonly alpha: number; readonly targets: readonly string[] };
  readonly optimiser: {
    readonly beta1: number;
    readonly beta2: number;
    readonly epsilon: number;
    readonly weightDecay: number;
    readonly clipNorm: number;
  };
  readonly learningRate: number;
  readonly checks: readonly {
    readonly settings: Readonly<Record<string, unknown>> & { readonly algorithm: string };
    readonly metrics: readonly string[];
  }[];
}

/** A job of trainers/torch on the video DiT; the files that it reads are in the folder `trainers`. */
export interface TrainerCase {
  readonly name: string;
  readonly kind: 'trainers';
  /** Fields of the job file that differ from case to case. */
  readonly job: {
    readonly objective: Readonly<Record<string, unknown>>;
    readonly optimisation: Readonly<Record<string, unknown>>;
    readonly adapters?: Readonly<Record<string, unknown>>;
    readonly anchorEverySteps?: number;
  };
  /** Name of the reward that is trained on. */
  readonly reward: string;
  /** uint64 as decimal digits. */
  readonly seed: string;
  /** Of the training set that the data step made; null where exp or log are in its weights, whose last bits may differ. */
  readonly trainingSetHash: string | null;
  /** Tensors of the case, a value for each step or each measurement. */
  readonly metrics: readonly string[];
}

export type ParityCase = OperatorCase | LossCase | PathCase | ModelCase | DenoiserCase | TrainerCase;

/** `cases/index.json`. */
export interface CaseIndex {
  readonly format: 1;
  /** Of what made the cases. */
  readonly versions: Readonly<
    Record<'python' | 'torch' | 'numpy' | 'safetensors' | 'diffusers' | 'peft' | 'onnx', string>
  >;
  readonly shared: Readonly<Record<string, { readonly config?: unknown }>>;
  readonly cases: readonly ParityCase[];
}

/** Cases with their tensors. */
export interface CaseFiles {
  /** Where they were read. */
  readonly folder: string;
  readonly index: CaseIndex;
  /** Every tensor, by `<kind>/<case>:<role>`. */
  readonly tensors: ReadonlyMap<string, TypedTensor>;
  /**
   * A tensor of a case, or one that cases share.
   * @throws TypeError naming the tensor that is not there
   */
  tensor(kind: ParityCase['kind'], owner: string, role: string): TypedTensor;
  /** All tensors of an owner whose role starts with `prefix`, by the rest of the role. */
  group(kind: ParityCase['kind'], owner: string, prefix: string): Map<string, TypedTensor>;
  /** Tensors that nothing has asked for yet. */
  unread(): string[];
}

/** Reads a folder of cases. */
export async function readCases(folder: string): Promise<CaseFiles> {
  const index = JSON.parse(await readFile(join(folder, 'index.json'), 'utf8')) as CaseIndex;
  const tensors = new Map<string, TypedTensor>();
  for (const kind of new Set(index.cases.map((one) => one.kind))) {
    const file = readSafetensors(await readFile(join(folder, `${kind}.safetensors`)));
    for (const [name, tensor] of file.tensors) tensors.set(`${kind}/${name}`, tensor);
  }
  const unread = new Set(tensors.keys());
  const read = (name: string): TypedTensor => {
    const tensor = tensors.get(name);
    if (tensor === undefined) throw new TypeError(`the cases in ${folder} have no tensor ${name}`);
    unread.delete(name);
    return tensor;
  };
  return {
    folder,
    index,
    tensors,
    tensor: (kind, owner, role) => read(`${kind}/${owner}:${role}`),
    group(kind, owner, prefix) {
      const start = `${kind}/${owner}:${prefix}`;
      const names = [...tensors.keys()].filter((name) => name.startsWith(start));
      return new Map(names.map((name) => [name.slice(start.length), read(name)]));
    },
    unread: () => [...unread],
  };
}
