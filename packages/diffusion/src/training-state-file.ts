import { dataLoss } from '@plumb/kit/errors';
import type { LossScaling, TrainingState } from '@plumb/tensor-graph';
import { readSafetensors, writeSafetensors } from '@plumb/tensor-graph/safetensors';
import { z } from 'zod';

const STEP_KEY = 'plumb.step';
const LOSS_SCALING_KEY = 'plumb.loss-scaling';
const PARTS = ['parameters', 'ema', 'firstMoment', 'secondMoment'] as const;

/** A training state as a safetensors file: tensors named `<part>/<weight>`, step and loss scaling in the metadata. */
export function encodeTrainingState(state: TrainingState): Uint8Array {
  const tensors = new Map(
    PARTS.flatMap((part) =>
      Object.entries(state[part]).map(
        ([name, data]) =>
          [`${part}/${name}`, { dtype: 'float32' as const, shape: [data.length], data }] as const,
      ),
    ),
  );
  return writeSafetensors(tensors, {
    [STEP_KEY]: String(state.step),
    ...(state.lossScaling === undefined ? {} : { [LOSS_SCALING_KEY]: JSON.stringify(state.lossScaling) }),
  });
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
  const scaling = metadata[LOSS_SCALING_KEY];
  return { step, ...parts, ...(scaling === undefined ? {} : { lossScaling: parseScaling(scaling, source) }) };
}

const scalingSchema = z.strictObject({
  scale: z.number().positive(),
  stableSteps: z.int().min(0),
  skippedSteps: z.int().min(0),
});

function parseScaling(text: string, source: string): LossScaling {
  try {
    return scalingSchema.parse(JSON.parse(text));
  } catch (cause) {
    throw dataLoss(`${source}: ${LOSS_SCALING_KEY} is invalid: ${text}`, { cause });
  }
}
