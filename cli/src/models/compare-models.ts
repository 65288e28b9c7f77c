import { parameterSpecs } from '@plumb/diffusion';
import type { VideoModel } from '@plumb/diffusion';
import { failedPrecondition } from '@plumb/kit/errors';

/** How far apart two models are in one array of weights. */
export interface LayerDifference {
  readonly name: string;
  readonly shape: readonly number[];
  /** ||b - a|| / ||a||, Euclidean over all elements; Infinity where a is all 0 and b is not. */
  readonly relativeChange: number;
  /** Largest |b - a|. */
  readonly largestChange: number;
}

/**
 * The difference of two models, layer by layer in the order of the architecture.
 * @throws PlumbError FAILED_PRECONDITION naming the first array whose shapes differ
 */
export function compareModels(a: VideoModel, b: VideoModel): LayerDifference[] {
  return parameterSpecs(a.config).map(({ name, shape }) => {
    const before = a.parameters.get(name);
    const after = b.parameters.get(name);
    if (before === undefined || after?.length !== before.length) {
      throw failedPrecondition(
        `the models differ in architecture: ${name} has ${before?.length ?? 0} weights in one and ${after?.length ?? 0} in the other; compare models of one architecture`,
      );
    }
    let squares = 0;
    let changes = 0;
    let largestChange = 0;
    for (let i = 0; i < before.length; i++) {
      const value = before[i] ?? 0;
      const change = Math.abs((after[i] ?? 0) - value);
      squares += value * value;
      changes += change * change;
      largestChange = Math.max(largestChange, change);
    }
    return {
      name,
      shape,
      relativeChange: changes === 0 ? 0 : Math.sqrt(changes / squares),
      largestChange,
    };
  });
}
