import { applyGate, defaultGate, gateSpec, ruleResultSchema } from '@plumb/evaluation';
import type { GateRule as CheckedRule, RuleResult } from '@plumb/evaluation';
import { fieldPath } from '@plumb/kit/errors';
import type { FieldViolation } from '@plumb/kit/errors';
import type { GateRule, RunSpec } from '@plumb/proto/plumb/loop/v1/loop_pb.js';
import { z } from 'zod';
import type { IterationEvaluation } from './evaluation.ts';

const rulesSchema = z.array(ruleResultSchema);

/** Reads rule results out of the ledger. */
export function parseRules(text: string): RuleResult[] {
  return rulesSchema.parse(JSON.parse(text));
}

/** Signals that rules may name. */
const signals = ['judge', 'held-out', 'trained'] as const;

/**
 * What is wrong with a spec's gate: rules that do not exist, parameters of another rule, and signals that the spec's
 * evaluation will not have. Fields are named from the spec on, for example `gate.rules[0].gain`.
 */
export function gateViolations(spec: RunSpec): FieldViolation[] {
  const gate = spec.gate;
  if (gate === undefined || gate.rules.length === 0) return [];
  const violations: FieldViolation[] = [];
  for (const field of ['minGain', 'minGainLow', 'maxCategoryLoss', 'maxGuardLoss'] as const) {
    if (gate[field] === 0) continue;
    const name = field.replaceAll(/[A-Z]/g, (letter) => `_${letter.toLowerCase()}`);
    violations.push({ field: `gate.${name}`, description: 'the gate has rules; say it in a rule instead' });
  }
  for (const [index, rule] of gate.rules.entries()) {
    const field = `gate.rules[${index}]`;
    const parsed = gateSpec.safeParse([ruleInput(rule)]);
    if (!parsed.success) {
      for (const issue of parsed.error.issues) {
        const place = fieldPath(issue.path.slice(1)).replaceAll(
          /[A-Z]/g,
          (letter) => `_${letter.toLowerCase()}`,
        );
        violations.push({
          field: issue.path.length <= 1 ? field : `${field}.${place}`,
          description: issue.message,
        });
      }
      continue;
    }
    for (const checked of parsed.data) {
      const description = missingEvidence(checked, spec);
      if (description !== undefined) violations.push({ field, description });
    }
  }
  return violations;
}

function missingEvidence(rule: CheckedRule, spec: RunSpec): string | undefined {
  const heldOut = spec.evaluation?.heldOutReward ?? '';
  if ('signal' in rule) {
    if (!signals.some((signal) => signal === rule.signal)) {
      return `signal '${rule.signal}' is unknown; use one of ${signals.join(', ')}`;
    }
    if (rule.signal === 'held-out' && heldOut === '') {
      return 'needs a held-out reward; name one in evaluation.held_out_reward, or drop the rule';
    }
  }
  if (rule.rule === 'no-over-optimisation' && heldOut === '') {
    return 'compares the trained-on reward with a held-out one; name one in evaluation.held_out_reward, or drop the rule';
  }
  return undefined;
}

/** A rule without what is not set. */
function ruleInput(rule: GateRule): object {
  const { rule: name, signal, gain, lowerBound, loss, tolerance, by, significant } = rule;
  return {
    rule: name,
    ...(signal === '' ? {} : { signal }),
    ...(gain === undefined ? {} : { gain }),
    ...(lowerBound === undefined ? {} : { lowerBound }),
    ...(loss === undefined ? {} : { loss }),
    ...(tolerance === undefined ? {} : { tolerance }),
    ...(by === '' ? {} : { by }),
    ...(significant === undefined ? {} : { significant }),
  };
}

/** The rules of a spec's gate: its list, else those that its four numbers stand for, else the default ones. */
export function rulesOf(
  spec: RunSpec,
  evaluation: Pick<IterationEvaluation, 'guards' | 'guardRewards'>,
): CheckedRule[] {
  const gate = spec.gate;
  if (gate === undefined) throw new TypeError('a valid spec has a gate');
  if (gate.rules.length > 0) return gateSpec.parse(gate.rules.map(ruleInput));
  const heldOut = (spec.evaluation?.heldOutReward ?? '') !== '';
  const guards = Object.keys({ ...evaluation.guards, ...evaluation.guardRewards }).length > 0;
  const { minGain, minGainLow, maxCategoryLoss, maxGuardLoss } = gate;
  if ([minGain, minGainLow, maxCategoryLoss, maxGuardLoss].every((number) => number === 0)) {
    return defaultGate({ heldOut, guards: guards || (spec.evaluation?.guards.length ?? 0) > 0 });
  }
  return gateSpec.parse([
    { rule: 'smallest-gain', gain: minGain, lowerBound: minGainLow },
    { rule: 'largest-category-loss', loss: maxCategoryLoss },
    ...(heldOut ? [{ rule: 'not-lower' }] : []),
    ...(guards ? [{ rule: 'guards-not-lower', tolerance: maxGuardLoss }] : []),
  ]);
}

/**
 * Whether a candidate is promoted: when it meets every rule of the spec's gate. All rules are checked, so that all reasons
 * are known; a rule whose evidence was not measured is one that failed.
 */
export function decide(
  spec: RunSpec,
  evaluation: IterationEvaluation,
): { readonly promoted: boolean; readonly rules: readonly RuleResult[] } {
  return applyGate(rulesOf(spec, evaluation), evaluation, evaluation.overOptimisation);
}

/** The reasons of a decision for people: of a refusal the rules that failed, of a promotion all of them. */
export function reasonsOf(rules: readonly RuleResult[], promoted: boolean): string[] {
  return rules.filter(({ passed }) => promoted || !passed).map(({ reason }) => reason);
}
