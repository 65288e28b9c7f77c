import { decideGate, defaultGate, gateSpec } from '@plumb/evaluation';
import type { GateCheck, GateRule as CheckedRule, PairedDifference } from '@plumb/evaluation';
import { fieldPath } from '@plumb/kit/errors';
import type { FieldViolation } from '@plumb/kit/errors';
import type { GateRule, RunSpec } from '@plumb/proto/plumb/loop/v1/loop_pb.js';
import { z } from 'zod';
import type { IterationEvaluation } from './evaluation.ts';

const rulesSchema = z.array(z.strictObject({ rule: z.string(), passed: z.boolean(), reason: z.string() }));

/** One rule of the gate, and how the candidate stood to it. */
export type RuleResult = z.infer<typeof rulesSchema>[number];

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
function rulesOf(spec: RunSpec, evaluation: IterationEvaluation): CheckedRule[] {
  const gate = spec.gate;
  if (gate === undefined) throw new TypeError('a valid spec has a gate');
  if (gate.rules.length > 0) return gateSpec.parse(gate.rules.map(ruleInput));
  const heldOut = (spec.evaluation?.heldOutReward ?? '') !== '';
  const guards = Object.keys(guardsOf(evaluation)).length > 0;
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

function guardsOf({ guards, guardRewards }: IterationEvaluation) {
  return { ...guards, ...guardRewards };
}

/**
 * Whether a candidate is promoted: when it meets every rule of the spec's gate. All rules are checked, so that all reasons
 * are known; a rule whose evidence was not measured is one that failed.
 */
export function decide(
  spec: RunSpec,
  evaluation: IterationEvaluation,
): { readonly promoted: boolean; readonly rules: readonly RuleResult[] } {
  const { verdict, heldOut, trained, overOptimisation } = evaluation;
  const measured: Record<string, PairedDifference> = {
    judge: verdict,
    ...(heldOut === undefined ? {} : { 'held-out': heldOut }),
    ...(trained === undefined ? {} : { trained }),
  };
  const guards = guardsOf(evaluation);
  const results = rulesOf(spec, evaluation).flatMap((rule): RuleResult[] => {
    const unmeasured = (what: string): RuleResult[] => [
      { rule: rule.rule, passed: false, reason: `${what}; nothing is promoted unmeasured.` },
    ];
    if ('signal' in rule && measured[rule.signal] === undefined) {
      return unmeasured(`No clip has a value by the signal ${rule.signal}`);
    }
    if (rule.rule === 'guards-not-lower' && Object.keys(guards).length === 0) {
      return unmeasured('No guard was measured');
    }
    if (rule.rule === 'no-over-optimisation') {
      if (overOptimisation === undefined) return unmeasured('No held-out reward was measured');
      const passed = overOptimisation.length === 0;
      const reason = passed
        ? 'Neither the held-out reward nor a guard fell while the trained-on reward rose.'
        : overOptimisation.join(' ');
      return [{ rule: rule.rule, passed, reason }];
    }
    return decideGate([rule], { signals: measured, guards }).checks.map(ruleResult);
  });
  return { promoted: results.every(({ passed }) => passed), rules: results };
}

/** The reasons of a decision for people: of a refusal the rules that failed, of a promotion all of them. */
export function reasonsOf(rules: readonly RuleResult[], promoted: boolean): string[] {
  return rules.filter(({ passed }) => promoted || !passed).map(({ reason }) => reason);
}

function ruleResult({ rule, signal, category, passed, sentence }: GateCheck): RuleResult {
  const subject = category ?? (signal === 'judge' ? undefined : signal);
  return { rule: subject === undefined ? rule : `${rule}:${subject}`, passed, reason: sentence };
}
