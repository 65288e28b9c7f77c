import { decideGate, gateSpec } from '@plumb/evaluation';
import type { GateCheck, GateSpecInput } from '@plumb/evaluation';
import type { Gate, RunSpec } from '@plumb/proto/plumb/loop/v1/loop_pb.js';
import { z } from 'zod';
import type { IterationEvaluation } from './evaluation.ts';

const rulesSchema = z.array(z.strictObject({ rule: z.string(), passed: z.boolean(), reason: z.string() }));

/** One rule of the gate, and how the candidate stood to it. */
export type RuleResult = z.infer<typeof rulesSchema>[number];

/** Reads rule results out of the ledger. */
export function parseRules(text: string): RuleResult[] {
  return rulesSchema.parse(JSON.parse(text));
}

/**
 * Whether a candidate is promoted: when it meets every rule of the spec's gate. Guards and a held-out reward are looked at
 * where the evaluation has them; all rules are checked, so that all reasons are known.
 */
export function decide(
  spec: RunSpec,
  evaluation: IterationEvaluation,
): { readonly promoted: boolean; readonly rules: readonly RuleResult[] } {
  const gate = spec.gate;
  if (gate === undefined) throw new TypeError('a valid spec has a gate');
  const rules: GateSpecInput = [
    { rule: 'smallest-gain', signal: 'verdict', gain: gate.minGain, lowerBound: gate.minGainLow },
  ];
  if (evaluation.heldOut !== undefined) rules.push({ rule: 'not-lower', signal: 'held-out' });
  if (Object.keys(evaluation.guards).length > 0) {
    rules.push({ rule: 'guards-not-lower', tolerance: gate.maxGuardLoss });
  }
  const { verdict, heldOut, guards } = evaluation;
  const { checks } = decideGate(gateSpec.parse(rules), {
    signals: { verdict, ...(heldOut === undefined ? {} : { 'held-out': heldOut }) },
    guards,
  });
  const results = [...checks.map(ruleResult), ...categoryResults(gate, evaluation)];
  return { promoted: results.every(({ passed }) => passed), rules: results };
}

/** The reasons of a decision for people: of a refusal the rules that failed, of a promotion all of them. */
export function reasonsOf(rules: readonly RuleResult[], promoted: boolean): string[] {
  return rules.filter(({ passed }) => promoted || !passed).map(({ reason }) => reason);
}

function ruleResult({ rule, signal, passed, sentence }: GateCheck): RuleResult {
  return {
    rule: signal === undefined || signal === 'verdict' ? rule : `${rule}:${signal}`,
    passed,
    reason: sentence,
  };
}

/**
 * A category has fallen when it lost more than the gate bears and the whole interval of its difference lies below 0: with a
 * handful of prompts in a category, a loss within the noise says nothing.
 */
function categoryResults(gate: Gate, evaluation: IterationEvaluation): RuleResult[] {
  return Object.entries(evaluation.verdict.perCategory).map(([category, { difference }]) => {
    const { value, lower, upper } = difference;
    const passed = !(value < -gate.maxCategoryLoss && upper < 0);
    const reason =
      `The difference in ${category} is ${points(value)} (${points(lower)} to ${points(upper)}); ` +
      `${passed ? 'it has not fallen' : 'it has fallen'} by more than ${points(gate.maxCategoryLoss)} beyond its interval.`;
    return { rule: `largest-category-loss:${category}`, passed, reason };
  });
}

function points(share: number): string {
  return `${(share * 100).toFixed(1)} points`;
}
