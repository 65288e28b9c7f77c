import { dataLoss } from '@plumb/kit/errors';
import type { TrainingState } from '@plumb/tensor-graph';
import { readSafetensors, writeSafetensors } from '@plumb/tensor-graph/safetensors';

const kinds = ['parameters', 'firstMoment', 'secondMoment', 'ema'] as const;
const stepKey = 'plumb.training.step';

/** A checkpoint's file: everything that training needs to go on bit for bit, as one safetensors file. */
export function encodeState(state: TrainingState): Uint8Array {
  const tensors = new Map(
    kinds.flatMap((kind) =>
      Object.entries(state[kind]).map(
        ([name, data]) =>
          [`${kind}/${name}`, { dtype: 'float32' as const, shape: [data.length], data }] as const,
      ),
    ),
  );
  return writeSafetensors(tensors, { [stepKey]: String(state.step) });
}

/** @throws PlumbError DATA_LOSS naming what is wrong with the file */
export function decodeState(bytes: Uint8Array): TrainingState {
  const { tensors, metadata } = readSafetensors(bytes);
  const step = Number(metadata[stepKey]);
  if (!Number.isSafeInteger(step) || step < 0) {
    throw dataLoss(`a training checkpoint has ${stepKey} '${metadata[stepKey]}'; it must be a whole number`);
  }
  const state = { parameters: {}, firstMoment: {}, secondMoment: {}, ema: {} } satisfies Record<
    (typeof kinds)[number],
    Record<string, Float32Array>
  > as Record<(typeof kinds)[number], Record<string, Float32Array>>;
  for (const [key, { data }] of tensors) {
    const kind = kinds.find((candidate) => key.startsWith(`${candidate}/`));
    if (kind === undefined || !(data instanceof Float32Array)) {
      throw dataLoss(`a training checkpoint holds ${key}, which is no float32 part of a training state`);
    }
    state[kind][key.slice(kind.length + 1)] = data;
  }
  return { step, ...state };
}
