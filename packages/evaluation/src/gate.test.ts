import assert from 'node:assert/strict';
import { describe, test } from 'node:test';
import { PlumbError } from '@plumb/kit/errors';
import { decideGate, defaultGate, gateSpec } from './gate.ts';
import type { GateEvidence } from './gate.ts';
import { detectOverOptimisation } from './over-optimisation.ts';
import { pairedDifference } from './paired-difference.ts';
import type { PairedDifference } from './paired-difference.ts';

/** 8 prompts a category, 10 samples each; `gains` of 10 samples turn from rejected to accepted (or back, if negative). */
function compared(gains: Readonly<Record<string, number>>): PairedDifference {
  return pairedDifference(
    Object.entries(gains).flatMap(([category, gain]) =>
      Array.from({ length: 80 }, (_, index) => {
        const sample = index % 10;
        const before = sample >= 5 ? 1 : 0;
        // Neighbouring prompts differ by one sample, so that there is some spread.
        const change = gain === 0 ? 0 : gain + (Math.floor(index / 10) % 2 === 0 ? 1 : -1);
        const after = gain > 0 ? (sample < change ? 1 : before) : sample >= 10 + change ? 0 : before;
        return { promptId: `${category}${Math.floor(index / 10)}`, category, before, after };
      }),
    ),
    { seed: 1, resamples: 1000 },
  );
}

const good = compared({ OR: 3, FD: 2 });
const evidence = (changes: Partial<GateEvidence> = {}): GateEvidence => ({
  signals: { judge: good, 'held-out': good },
  guards: { picture: compared({ OR: 0, FD: 0 }) },
  overOptimisation: detectOverOptimisation([
    { step: 0, trained: 0.5, heldOut: 0.5 },
    { step: 1, trained: 0.7, heldOut: 0.7 },
  ]),
  ...changes,
});

describe('decideGate', () => {
  test('promotes a candidate that is better everywhere, and says why', () => {
    const { decision, checks, reasons } = decideGate(defaultGate(), evidence());
    assert.equal(decision, 'promote');
    assert.ok(checks.every(({ passed }) => passed));
    assert.equal(reasons.length, checks.length);
    assert.match(reasons[0] ?? '', /^The gain by judge is \+25\.0 points, at least \+0\.0 points\.$/);
  });

  test('a loss in one category refuses, although the whole has gained', () => {
    const judge = compared({ OR: 4, FD: -2 });
    assert.ok(judge.difference.value > 0);
    const { decision, checks, reasons } = decideGate(
      gateSpec.parse([{ rule: 'largest-category-loss' }]),
      evidence({ signals: { judge } }),
    );
    assert.equal(decision, 'refuse');
    assert.deepEqual(
      checks.map(({ category, passed }) => [category, passed]),
      [
        ['FD', false],
        ['OR', true],
      ],
    );
    assert.deepEqual(reasons, ['The difference in FD by judge is -20.0 points, below -5.0 points.']);
  });

  test('a loss within the noise refuses only where the rule says so', () => {
    const outcomes = [0, 1, 2, 3].flatMap((prompt) =>
      [0, 1].map((sample) => ({
        promptId: `FD${prompt}`,
        category: 'FD',
        before: 1,
        after: prompt === 0 ? sample : 1,
      })),
    );
    const judge = pairedDifference(outcomes, { seed: 1, resamples: 1000 });
    assert.ok(judge.difference.value < -0.1 && judge.difference.upper >= 0);
    const decide = (significant: boolean) =>
      decideGate(
        gateSpec.parse([{ rule: 'largest-category-loss', significant }]),
        evidence({ signals: { judge } }),
      );
    assert.equal(decide(false).decision, 'refuse');
    assert.equal(decide(true).decision, 'promote');
    assert.match(decide(true).reasons[0] ?? '', /within its noise/);
  });

  test('every rule can refuse alone, and all reasons are given', () => {
    const bad = compared({ OR: -3, FD: -3 });
    const refused = decideGate(
      defaultGate(),
      evidence({
        signals: { judge: compared({ OR: 0, FD: 0 }), 'held-out': bad },
        guards: { picture: bad },
        overOptimisation: detectOverOptimisation([
          { step: 0, trained: 0.5, heldOut: 0.5 },
          { step: 1, trained: 0.7, heldOut: 0.2 },
        ]),
      }),
    );
    assert.equal(refused.decision, 'refuse');
    assert.deepEqual(
      refused.checks.filter(({ passed }) => !passed).map(({ rule }) => rule),
      ['not-lower', 'guards-not-lower', 'no-over-optimisation'],
    );
    assert.equal(refused.reasons.length, 3);
  });

  test('a gain that is asked to be significant is refused when its interval reaches below', () => {
    const judge = compared({ OR: 1, FD: 0 });
    const spec = gateSpec.parse([{ rule: 'smallest-gain', gain: 0.02, lowerBound: 0.04 }]);
    const { decision, checks } = decideGate(spec, evidence({ signals: { judge } }));
    assert.equal(decision, 'refuse');
    assert.deepEqual(
      checks.map(({ passed }) => passed),
      [true, false],
    );
  });

  test('not-lower by the lower bound also refuses where there is too little data', () => {
    const signals = { 'held-out': compared({ OR: 1, FD: -1 }) };
    const byEstimate = gateSpec.parse([{ rule: 'not-lower', tolerance: 0.01 }]);
    const byBound = gateSpec.parse([{ rule: 'not-lower', tolerance: 0.01, by: 'lower-bound' }]);
    assert.equal(decideGate(byEstimate, evidence({ signals })).decision, 'promote');
    assert.equal(decideGate(byBound, evidence({ signals })).decision, 'refuse');
  });

  test('the default leaves out what cannot be measured, and nothing else', () => {
    const rules = (gate: ReturnType<typeof defaultGate>): string[] => gate.map(({ rule }) => rule);
    assert.deepEqual(rules(defaultGate({ heldOut: false, guards: false })), [
      'smallest-gain',
      'largest-category-loss',
    ]);
    assert.deepEqual(rules(defaultGate()), [
      'smallest-gain',
      'largest-category-loss',
      'not-lower',
      'guards-not-lower',
      'no-over-optimisation',
    ]);
  });

  test('a reward that is no share is told in its own unit', () => {
    const scaled = pairedDifference(
      Array.from({ length: 8 }, (_, index) => ({
        promptId: `OR${index}`,
        category: 'OR',
        before: 12,
        after: 11.5,
      })),
      { seed: 1, resamples: 1000 },
    );
    const { reasons } = decideGate(gateSpec.parse([{ rule: 'not-lower' }]), {
      signals: { 'held-out': scaled },
      guards: {},
    });
    assert.deepEqual(reasons, ['The difference by held-out is -0.500, below +0.00.']);
  });

  test('nothing is promoted unmeasured: missing evidence is an error that names it', () => {
    const code = (changes: Partial<GateEvidence>): string => {
      let thrown: unknown;
      try {
        decideGate(defaultGate(), { signals: {}, guards: {}, ...changes });
      } catch (error) {
        thrown = error;
      }
      assert.ok(thrown instanceof PlumbError);
      return `${thrown.code} ${thrown.message}`;
    };
    assert.match(code({}), /FAILED_PRECONDITION.*'judge'/);
    assert.match(code({ signals: { judge: good } }), /FAILED_PRECONDITION.*'held-out'/);
    assert.match(code({ signals: { judge: good, 'held-out': good } }), /guards-not-lower/);
    assert.match(
      code({ signals: { judge: good, 'held-out': good }, guards: { picture: good } }),
      /no-over-optimisation/,
    );
  });

  test('a spec without rules or with unknown ones is refused', () => {
    assert.equal(gateSpec.safeParse([]).success, false);
    assert.equal(gateSpec.safeParse([{ rule: 'largest-gain' }]).success, false);
    assert.equal(gateSpec.safeParse([{ rule: 'not-lower', tolerance: -1 }]).success, false);
  });
});
