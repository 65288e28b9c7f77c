import { resourceExhausted } from '@plumb/kit/errors';
import type { FieldViolation, PlumbError } from '@plumb/kit/errors';
import type { Budgets, RunSpec } from '@plumb/proto/plumb/loop/v1/loop_pb.js';
import type { PlanLimits } from './plan.ts';
import { groupSize } from './sample-plan.ts';

/** What a run has used so far, in the units of its budgets. */
export interface SpendSoFar {
  /** Clips made for this run, and those that are being made. */
  readonly samples: number;
  readonly trainingSteps: number;
  readonly seconds: number;
}

/** What the budgets allow at present, for the planner. The judge service holds the budgets of its tokens and its money. */
export function budgetLimits(
  spec: RunSpec,
  budgets: Budgets | undefined,
  spend: SpendSoFar,
): Pick<PlanLimits, 'samplesLeft' | 'trainingBudget' | 'budget'> {
  if (budgets === undefined) return {};
  const { samples, trainingSteps, seconds } = budgets;
  const steps = spec.optimisation?.steps ?? 0;
  return {
    ...(samples === 0n ? {} : { samplesLeft: Math.max(0, Number(samples) - spend.samples) }),
    ...(trainingSteps === 0n || spend.trainingSteps + steps <= Number(trainingSteps)
      ? {}
      : {
          trainingBudget: budgetExhausted(
            'training_steps',
            'training steps',
            `${spend.trainingSteps} of ${trainingSteps} are used and the next job takes ${steps}`,
          ),
        }),
    ...(seconds === 0 || spend.seconds < seconds
      ? {}
      : {
          budget: budgetExhausted(
            'seconds',
            'working time',
            `${Math.round(spend.seconds)} of ${seconds} seconds are used`,
          ),
        }),
  };
}

/** The pause of a run whose budget is used up. */
export function budgetExhausted(field: string, what: string, why: string): PlumbError {
  return resourceExhausted(
    `the run's budget of ${what} (budgets.${field}) is used up: ${why}; resume with a larger one`,
    { reason: 'BUDGET_EXHAUSTED', metadata: { field } },
  );
}

/** Budgets that are no numbers to work with, or that the run cannot end within. Fields are named from the spec on. */
export function budgetViolations(spec: RunSpec): FieldViolation[] {
  const { budgets } = spec;
  if (budgets === undefined) return [];
  const violations: FieldViolation[] = [];
  const reject = (field: string, description: string): void => {
    violations.push({ field: `budgets.${field}`, description });
  };
  for (const field of ['samples', 'judgeTokens', 'trainingSteps', 'cost', 'seconds'] as const) {
    const value = Number(budgets[field]);
    const name = field.replaceAll(/[A-Z]/g, (letter) => `_${letter.toLowerCase()}`);
    if (!(Number.isFinite(value) && value >= 0)) {
      reject(name, `${value} is out of range; use more than 0, or leave it out for no limit`);
    }
  }
  const clips = groupSize(spec, 'train') + groupSize(spec, 'before') + groupSize(spec, 'after');
  if (budgets.samples > 0n && Number(budgets.samples) < clips) {
    reject(
      'samples',
      `${budgets.samples} is less than the ${clips} clips of one iteration; raise it, or take fewer samples`,
    );
  }
  const steps = (spec.optimisation?.steps ?? 0) * spec.iterations;
  if (budgets.trainingSteps > 0n && Number(budgets.trainingSteps) < steps) {
    reject(
      'training_steps',
      `${budgets.trainingSteps} is less than the ${steps} steps of ${spec.iterations} iterations; raise it, or train less`,
    );
  }
  return violations;
}
