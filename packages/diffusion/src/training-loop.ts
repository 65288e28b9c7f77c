import { setTimeout as delay } from 'node:timers/promises';
import { PlumbError } from '@plumb/kit/errors';
import { initialTrainingState, type TrainingProgram, type TrainingState } from '@plumb/tensor-graph';
import type { Engine, TypedTensor } from '@plumb/tensor-graph/engine';
import type { AnchorProbe } from './anchor-probe.ts';
import { learningRateAt, type OptimisationSettings } from './optimisation.ts';
import type { TrainingExample } from './training-batch.ts';

/** How long the feeds of a step have to reach the engine before those of the next are made, in milliseconds. */
const headStartMs = 20;

/** A float16 gradient that overflows with a loss scaled by less has diverged. */
const smallestLossScale = 1;

/** A training job on an engine. Steps must be taken in order. */
export interface Training<Example = TrainingExample> {
  /** Steps done. */
  readonly step: number;
  /**
   * Takes one optimiser step on `batchSize` examples.
   * @param upcoming makes the examples of the step after, which is called while the engine works on this one; their
   * noise is drawn then as well. Give those very examples to the next call.
   * @returns metrics of the step: `loss`, `gradientNorm` (before clipping) and the objective's own; of a float16 training
   * also `lossScale` and `skippedSteps` so far, and `gradientNorm` is not finite in a step that was skipped
   * @throws PlumbError INTERNAL (TRAINING_DIVERGED) when loss or gradient is not finite; the state is then lost
   */
  advance(
    examples: readonly Example[],
    upcoming?: () => readonly Example[] | undefined,
  ): Promise<{ readonly loss: number; readonly gradientNorm: number } & Readonly<Record<string, number>>>;
  /**
   * Mean squared distance between the predictions of policy and reference on the fixed examples of `anchorProbe`: one
   * forward pass. Does not change what the next step does.
   * @throws TypeError when the training was opened without a probe
   */
  anchorDistance(): Promise<number>;
  /** Weights and optimiser state after the last step: all that is needed to go on bit for bit. */
  state(): Promise<TrainingState>;
  close(): Promise<void>;
}

/** What a training loop runs, whatever the model is. */
export interface TrainingJob<Example> {
  /** For the engine's errors. */
  readonly name: string;
  readonly program: TrainingProgram;
  /** Values of the trained parameters at the beginning, by name. */
  readonly start: ReadonlyMap<string, Float32Array>;
  /** What computes the gradients; `cpu` unless given. */
  readonly device?: 'cpu' | 'cuda';
  readonly optimisation: OptimisationSettings;
  /** Inputs of a step: a function of the examples and the number of the step alone. */
  readonly feeds: (examples: readonly Example[], step: number) => Record<string, TypedTensor>;
  /** State of an earlier run of the same job, to go on from. */
  readonly state?: TrainingState;
  /** Opens a probe on the training that the engine knows by this id. */
  readonly anchorProbe?: (id: string) => Promise<AnchorProbe>;
}

/** Opens a job on an engine; its state lives there and crosses over only when asked for. */
export async function openTrainingLoop<Example>(
  engine: Engine,
  job: TrainingJob<Example>,
): Promise<Training<Example>> {
  const { optimisation } = job;
  const initial = job.state ?? initialTrainingState(job.program, Object.fromEntries(job.start));
  const id = await engine.openTraining(
    job.name,
    job.program,
    initial,
    job.device === undefined ? {} : { device: job.device },
  );
  const probe = await job.anchorProbe?.(id);
  let step = initial.step;
  let prepared:
    { examples: readonly Example[]; step: number; feeds: Record<string, TypedTensor> } | undefined;
  return {
    get step() {
      return step;
    },
    async advance(examples, upcoming) {
      if (examples.length !== optimisation.batchSize) {
        throw new TypeError(`a step takes ${optimisation.batchSize} examples, not ${examples.length}`);
      }
      const feeds =
        prepared?.examples === examples && prepared.step === step
          ? prepared.feeds
          : job.feeds(examples, step);
      const running = engine.trainStep(id, feeds, {
        learningRate: learningRateAt(optimisation, step),
        ...(optimisation.emaDecay > 0 ? { emaDecay: emaDecayAt(optimisation.emaDecay, step) } : {}),
      });
      if (upcoming !== undefined) {
        // Large feeds cross over in pieces, for which this thread must be free; what goes wrong in the step is told below.
        await Promise.race([running.catch(() => undefined), delay(headStartMs)]);
      }
      const next = upcoming?.();
      prepared =
        next === undefined ? undefined : { examples: next, step: step + 1, feeds: job.feeds(next, step + 1) };
      const result = await running;
      const { loss: value, gradientNorm, ...others } = result;
      if (value === undefined || gradientNorm === undefined) {
        throw new TypeError('the training program reports no loss or no gradientNorm');
      }
      // A float16 gradient that overflows is skipped and scaled down, down to where scaling is not what it needs.
      const scaling = result['lossScale'] !== undefined && result['lossScale'] >= smallestLossScale;
      if (!Number.isFinite(value) || !(Number.isFinite(gradientNorm) || scaling)) {
        throw new PlumbError({
          code: 'INTERNAL',
          reason: 'TRAINING_DIVERGED',
          message: `training diverged at step ${step}: loss ${value}, gradient norm ${gradientNorm}; lower optimisation.learningRate`,
        });
      }
      step++;
      return { ...others, loss: value, gradientNorm };
    },
    anchorDistance() {
      if (probe === undefined) throw new TypeError('this training has no anchor probe');
      return probe.distance();
    },
    state: () => engine.readTraining(id),
    async close() {
      await probe?.close();
      await engine.closeTraining(id);
    },
  };
}

/** A moving average with full decay would remember the random beginning for long: it starts shorter. */
function emaDecayAt(decay: number, step: number): number {
  return Math.min(decay, (step + 1) / (step + 10));
}
