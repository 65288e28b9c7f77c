import { dataLoss } from '@plumb/kit/errors';
import type { TrainingState } from '@plumb/tensor-graph';
import { readSafetensors, writeSafetensors } from '@plumb/tensor-graph/safetensors';

const STEP_KEY = 'plumb.step';
const PARTS = ['parameters', 'ema', 'firstMoment', 'secondMoment'] as const;

/** A training state as a safetensors file: tensors named `<part>/<weight>`, the step in the metadata. */
export function encodeTrainingState(state: TrainingState): Uint8Array {
  const tensors = new Map(
    PARTS.flatMap((part) =>
      Object.entries(state[part]).map(
        ([name, data]) =>
          [`${part}/${name}`, { dtype: 'float32' as const, shape: [data.length], data }] as const,
      ),
    ),
  );
  return writeSafetensors(tensors, { [STEP_KEY]: String(state.step) });
}

/**
 * Reads what `encodeTrainingState` wrote.
 * @throws PlumbError DATA_LOSS naming the source and what is wrong
 */
export function decodeTrainingState(bytes: Uint8Array, source: string): TrainingState {
  const { tensors, metadata } = readSafetensors(bytes);
  const step = Number(metadata[STEP_KEY]);
  if (!Number.isSafeInteger(step) || step < 0) {
    throw dataLoss(`${source} is not a training state: its metadata has no ${STEP_KEY}`);
  }
  const parts: Record<(typeof PARTS)[number], Record<string, Float32Array>> = {
    parameters: {},
    ema: {},
    firstMoment: {},
    secondMoment: {},
  };
  for (const [name, tensor] of tensors) {
    const part = PARTS.find((prefix) => name.startsWith(`${prefix}/`));
    if (part === undefined || !(tensor.data instanceof Float32Array)) {
      throw dataLoss(`${source}: ${name} (${tensor.dtype}) is not a part of a training state`);
    }
    parts[part][name.slice(part.length + 1)] = tensor.data;
  }
  return { step, ...parts };
}
