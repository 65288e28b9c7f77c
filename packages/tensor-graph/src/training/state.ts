import { invalidArgument } from '@plumb/kit/errors';
import { describeShape } from '../errors.ts';
import { sizeOf } from '../graph.ts';
import type { LossScaling } from './precision.ts';
import { initialLossScaling } from './precision.ts';
import type { StateKind, TrainingProgram } from './program.ts';
import { stateKinds } from './program.ts';

/** Everything that a training run needs to go on as if it had never stopped, by name of parameter. */
export interface TrainingState {
  /** Steps taken so far, with those that were skipped. */
  readonly step: number;
  readonly parameters: Readonly<Record<string, Float32Array>>;
  readonly firstMoment: Readonly<Record<string, Float32Array>>;
  readonly secondMoment: Readonly<Record<string, Float32Array>>;
  /** Moving average of the parameters; empty when the program keeps none. */
  readonly ema: Readonly<Record<string, Float32Array>>;
  /** Of float16 programs only. */
  readonly lossScaling?: LossScaling;
}

/** The field of the state that holds a kind. */
export const stateField = {
  parameter: 'parameters',
  firstMoment: 'firstMoment',
  secondMoment: 'secondMoment',
  ema: 'ema',
} as const satisfies Record<StateKind, keyof TrainingState>;

/**
 * The state before the first step: moments 0, and the moving average equal to the parameters. Arrays are shared with
 * `parameters`, not copied.
 */
export function initialTrainingState(
  program: TrainingProgram,
  parameters: Readonly<Record<string, Float32Array>>,
): TrainingState {
  const own: Record<string, Float32Array> = {};
  const zeros: Record<string, Float32Array> = {};
  for (const { name, shape } of program.parameters) {
    const values = parameters[name];
    if (values === undefined) throw invalidArgument(`parameters.${name}`, 'is missing');
    own[name] = values;
    zeros[name] = new Float32Array(sizeOf(shape));
  }
  const state: TrainingState = {
    step: 0,
    parameters: own,
    firstMoment: zeros,
    secondMoment: zeros,
    ema: program.optimiser.ema === true ? own : {},
    ...(program.precision === 'float16' ? { lossScaling: initialLossScaling } : {}),
  };
  checkState(program, state);
  return state;
}

/**
 * @throws PlumbError INVALID_ARGUMENT naming the array that is missing or has the wrong number of elements
 */
export function checkState(program: TrainingProgram, state: TrainingState): void {
  if (!Number.isSafeInteger(state.step) || state.step < 0) {
    throw invalidArgument('state.step', `${state.step} must be a non-negative integer`);
  }
  if ((state.lossScaling !== undefined) !== (program.precision === 'float16')) {
    throw invalidArgument(
      'state.lossScaling',
      state.lossScaling === undefined
        ? 'is missing; a float16 job goes on from the state of a float16 job'
        : `belongs to a float16 job; this one computes in ${program.precision}`,
    );
  }
  for (const kind of stateKinds(program)) {
    for (const { name, shape } of program.parameters) {
      const values = state[stateField[kind]][name];
      if (values?.length !== sizeOf(shape)) {
        throw invalidArgument(
          `state.${stateField[kind]}.${name}`,
          values === undefined
            ? 'is missing'
            : `has ${values.length} elements; shape ${describeShape(shape)} needs ${sizeOf(shape)}`,
        );
      }
    }
  }
}
