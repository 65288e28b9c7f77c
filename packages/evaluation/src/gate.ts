import { failedPrecondition } from '@plumb/kit/errors';
import { z } from 'zod';
import type { ModelComparison } from './model-comparison.ts';
import type { Comparison, PairedDifference } from './paired-difference.ts';
import type { OverOptimisation } from './over-optimisation.ts';

const share = z.number({ error: 'must be a finite number' });
const tolerance = share.min(0, 'must be at least 0');

const smallestGain = z.strictObject({
  rule: z.literal('smallest-gain'),
  /** Which comparison; the judge that the run is after unless given. */
  signal: z.string().min(1).default('judge'),
  /** Smallest difference after - before, as a share: 0.05 is five points. */
  gain: share.default(0),
  /** What the lower end of the difference's interval must reach; 0 asks for a gain that is significant. */
  lowerBound: share.default(0),
});

const largestCategoryLoss = z.strictObject({
  rule: z.literal('largest-category-loss'),
  signal: z.string().min(1).default('judge'),
  /** How far any one category may fall, as a share. */
  loss: tolerance.default(0.05),
  /**
   * A fall counts only when its whole interval lies below 0: with a handful of prompts in a category, a loss within the
   * noise says nothing.
   */
  significant: z.boolean().default(true),
});

const notLower = z.strictObject({
  rule: z.literal('not-lower'),
  /** Name of the held-out judge, or of any other signal that must not fall. */
  signal: z.string().min(1).default('held-out'),
  /** How far it may fall before that counts, as a share. */
  tolerance: tolerance.default(0),
  /**
   * What is compared with -tolerance: the `estimate` of the difference, or the `lower-bound` of its interval, which also
   * refuses when there is too little data to exclude a fall.
   */
  by: z.enum(['estimate', 'lower-bound']).default('estimate'),
});

const guardsNotLower = z.strictObject({
  rule: z.literal('guards-not-lower'),
  /** How far any guard may fall, as a share. */
  tolerance: tolerance.default(0.02),
});

const noOverOptimisation = z.strictObject({ rule: z.literal('no-over-optimisation') });

/** The rules of promotion; a candidate is promoted if all hold. */
export const gateSpec = z
  .array(
    z.discriminatedUnion('rule', [
      smallestGain,
      largestCategoryLoss,
      notLower,
      guardsNotLower,
      noOverOptimisation,
    ]),
  )
  .min(1, 'needs at least one rule; without any, everything would be promoted');

export type GateSpec = z.output<typeof gateSpec>;
/** What a person may write: parameters have defaults. */
export type GateSpecInput = z.input<typeof gateSpec>;
export type GateRule = GateSpec[number];

/** What is measured, and so can be a rule. */
export interface Measured {
  readonly heldOut: boolean;
  readonly guards: boolean;
}

/**
 * The gate of runs and studies that name none: all five rules with their defaults, which is a significant gain, no category
 * far down, the held-out judge and the guards not lower, and no over-optimisation. Without a held-out judge, or without
 * guards, the rules about them are left out: that is for trying things out, promotion needs a held-out judge.
 */
export function defaultGate({ heldOut, guards }: Measured = { heldOut: true, guards: true }): GateSpec {
  return gateSpec.parse([
    { rule: 'smallest-gain' },
    { rule: 'largest-category-loss' },
    ...(heldOut ? [{ rule: 'not-lower' }] : []),
    ...(guards ? [{ rule: 'guards-not-lower' }] : []),
    ...(heldOut ? [{ rule: 'no-over-optimisation' }] : []),
  ]);
}

/** What the gate decides on. */
export interface GateEvidence {
  /** Candidate against current model by signal: `judge`, `held-out`, and any others that rules name. */
  readonly signals: Readonly<Record<string, PairedDifference>>;
  /** Picture checks, candidate against current model, by name. */
  readonly guards: Readonly<Record<string, Comparison>>;
  readonly overOptimisation?: OverOptimisation;
}

/** One comparison of a rule with the evidence. A rule over categories or guards gives one each. */
export interface GateCheck {
  readonly rule: GateRule['rule'];
  readonly signal?: string;
  readonly category?: string;
  readonly passed: boolean;
  /** What was measured and what it was held against; absent for over-optimisation. */
  readonly observed?: number;
  readonly limit?: number;
  readonly sentence: string;
}

export interface GateDecision {
  readonly decision: 'promote' | 'refuse';
  readonly checks: readonly GateCheck[];
  /** Sentences of the checks that failed; if none did, of all. */
  readonly reasons: readonly string[];
}

/**
 * Applies the rules to an evaluation. Every rule is checked even when one has failed, so that all reasons are known.
 * @throws PlumbError FAILED_PRECONDITION if a rule needs evidence that is missing: nothing is promoted unmeasured
 */
export function decideGate(spec: GateSpec, evidence: GateEvidence): GateDecision {
  const checks = spec.flatMap((rule) => checkRule(rule, evidence));
  const failed = checks.filter(({ passed }) => !passed);
  return {
    decision: failed.length === 0 ? 'promote' : 'refuse',
    checks,
    reasons: (failed.length === 0 ? checks : failed).map(({ sentence }) => sentence),
  };
}

/** One rule of the gate, and how the candidate stood to it. */
export const ruleResultSchema = z.strictObject({ rule: z.string(), passed: z.boolean(), reason: z.string() });
export type RuleResult = z.output<typeof ruleResultSchema>;

/**
 * Applies the rules to what one evaluation has measured. A rule whose evidence is missing is one that failed, not an error:
 * nothing is promoted unmeasured.
 * @param overOptimisation signs over the whole run, in sentences; undefined where no held-out reward was measured
 */
export function applyGate(
  spec: GateSpec,
  measured: ModelComparison,
  overOptimisation: readonly string[] | undefined,
): { readonly promoted: boolean; readonly rules: RuleResult[] } {
  const { verdict, heldOut, trained } = measured;
  const signals: Record<string, PairedDifference> = {
    judge: verdict,
    ...(heldOut === undefined ? {} : { 'held-out': heldOut }),
    ...(trained === undefined ? {} : { trained }),
  };
  const guards = { ...measured.guards, ...measured.guardRewards };
  const rules = spec.flatMap((rule): RuleResult[] => {
    const unmeasured = (what: string): RuleResult[] => [
      { rule: rule.rule, passed: false, reason: `${what}; nothing is promoted unmeasured.` },
    ];
    if ('signal' in rule && signals[rule.signal] === undefined) {
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
    return checkRule(rule, { signals, guards }).map(ruleResult);
  });
  return { promoted: rules.every(({ passed }) => passed), rules };
}

function ruleResult({ rule, signal, category, passed, sentence }: GateCheck): RuleResult {
  const subject = category ?? (signal === 'judge' ? undefined : signal);
  return { rule: subject === undefined ? rule : `${rule}:${subject}`, passed, reason: sentence };
}

function checkRule(rule: GateRule, evidence: GateEvidence): GateCheck[] {
  switch (rule.rule) {
    case 'smallest-gain': {
      const { rule: name, signal, gain, lowerBound } = rule;
      const compared = signalOf(signal, evidence);
      const { difference } = compared;
      const unit = unitOf(compared);
      const lower = `the lower end of the gain's ${percent(difference.level)} interval by ${signal}`;
      return [
        atLeast({ rule: name, signal }, difference.value, gain, `the gain by ${signal}`, unit),
        atLeast({ rule: name, signal }, difference.lower, lowerBound, lower, unit),
      ];
    }
    case 'largest-category-loss': {
      const { rule: name, signal, loss, significant } = rule;
      const categories = Object.entries(signalOf(signal, evidence).perCategory);
      return categories.map(([category, compared]) => {
        const { difference } = compared;
        const unit = unitOf(compared);
        const check = atLeast(
          { rule: name, signal, category },
          difference.value,
          -loss,
          `the difference in ${category} by ${signal}`,
          unit,
        );
        if (check.passed || !significant || difference.upper < 0) return check;
        const sentence =
          `The difference in ${category} by ${signal} is ${unit(difference.value)}, ` +
          `but within its noise: its interval reaches to ${unit(difference.upper)}.`;
        return { ...check, passed: true, sentence };
      });
    }
    case 'not-lower': {
      const { rule: name, signal, by } = rule;
      const compared = signalOf(signal, evidence);
      const { difference } = compared;
      const observed = by === 'estimate' ? difference.value : difference.lower;
      const subject = `the ${by === 'estimate' ? '' : 'lower end of the '}difference by ${signal}`;
      return [atLeast({ rule: name, signal }, observed, -rule.tolerance, subject, unitOf(compared))];
    }
    case 'guards-not-lower': {
      const guards = Object.entries(evidence.guards);
      if (guards.length === 0) {
        throw failedPrecondition(
          'gate: rule guards-not-lower has no guards to look at; evaluate picture checks or drop the rule',
        );
      }
      return guards.map(([signal, compared]) =>
        atLeast(
          { rule: rule.rule, signal },
          compared.difference.value,
          -rule.tolerance,
          `the difference of guard ${signal}`,
          unitOf(compared),
        ),
      );
    }
    case 'no-over-optimisation':
      break;
  }
  const { overOptimisation } = evidence;
  if (overOptimisation === undefined) {
    throw failedPrecondition(
      'gate: rule no-over-optimisation has nothing to look at; pass overOptimisation or drop the rule',
    );
  }
  const { detected, findings } = overOptimisation;
  const sentence = detected
    ? findings.map((finding) => finding.sentence).join(' ')
    : 'The held-out judge and the guards did not fall while the trained-on reward rose.';
  return [{ rule: rule.rule, passed: !detected, sentence }];
}

function signalOf(signal: string, { signals }: GateEvidence): PairedDifference {
  const found = signals[signal];
  if (found === undefined) {
    throw failedPrecondition(
      `gate: no evaluation by '${signal}', which a rule needs; there is ${Object.keys(signals).join(', ') || 'none'}`,
    );
  }
  return found;
}

function atLeast(
  origin: Pick<GateCheck, 'rule' | 'signal' | 'category'>,
  observed: number,
  limit: number,
  subject: string,
  unit: Unit,
): GateCheck {
  const passed = observed >= limit;
  const sentence = `${subject} is ${unit(observed)}, ${passed ? 'at least' : 'below'} ${unit(limit)}`;
  return {
    ...origin,
    passed,
    observed,
    limit,
    sentence: `${sentence[0]?.toUpperCase()}${sentence.slice(1)}.`,
  };
}

type Unit = (value: number) => string;

/** Shares are told in percentage points, means of any other range in the reward's own unit; both signed. */
function unitOf({ before, after }: Comparison): Unit {
  const isShare = [before, after].every(({ value }) => value >= 0 && value <= 1);
  const signed = (value: number, text: string): string => `${value >= 0 ? '+' : ''}${text}`;
  return isShare
    ? (value) => signed(value, `${(value * 100).toFixed(1)} points`)
    : (value) => signed(value, value.toPrecision(3));
}

function percent(level: number): string {
  return `${Number((level * 100).toPrecision(4))}%`;
}
