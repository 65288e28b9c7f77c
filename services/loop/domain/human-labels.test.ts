import assert from 'node:assert/strict';
import { describe, test } from 'node:test';
import { create } from '@bufbuild/protobuf';
import { HumanLabelsSchema } from '@plumb/proto/plumb/loop/v1/loop_pb.js';
import type { RunSpec } from '@plumb/proto/plumb/loop/v1/loop_pb.js';
import { specFixture } from '../testing/run-spec-fixture.ts';
import { humanLabelsMissing, majorityVerdict } from './human-labels.ts';
import { specViolations, withDefaults } from './run-spec.ts';

function specWith(labels: { readonly use?: string; readonly atLeast?: number }): RunSpec {
  return withDefaults({ ...specFixture(), labels: create(HumanLabelsSchema, labels) });
}

describe('the majority of raters', () => {
  test('decides, and a tie decides nothing', () => {
    assert.equal(majorityVerdict({ accepting: 2, rejecting: 1 }), true);
    assert.equal(majorityVerdict({ accepting: 0, rejecting: 1 }), false);
    assert.equal(majorityVerdict({ accepting: 1, rejecting: 1 }), undefined);
    assert.equal(majorityVerdict({ accepting: 0, rejecting: 0 }), undefined);
  });
});

describe('labels in a spec', () => {
  test('what is right is accepted, and no word is the word none', () => {
    assert.deepEqual(specViolations(specWith({ use: 'override', atLeast: 12 })), []);
    assert.deepEqual(specViolations(specWith({})), []);
    assert.equal(specWith({}).labels?.use, 'none');
    assert.equal(specFixture().labels, undefined, 'a spec without labels stays the spec that it was');
  });

  for (const [what, labels, field, words] of [
    ['an unknown use', { use: 'replace' }, 'spec.labels.use', /none or override/],
    [
      'more labels than there are clips',
      { use: 'override', atLeast: 13 },
      'spec.labels.at_least',
      /use 0 to 12/,
    ],
    ['a negative number', { use: 'override', atLeast: -1 }, 'spec.labels.at_least', /out of range/],
    ['waiting for what is not used', { use: 'none', atLeast: 3 }, 'spec.labels.at_least', /override/],
  ] as const) {
    test(`${what} is refused with its fix`, () => {
      const [violation, ...more] = specViolations(specWith(labels));
      assert.equal(violation?.field, field);
      assert.match(violation.description, words);
      assert.deepEqual(more, []);
    });
  }

  test('a run that trains on something else than the verdict takes none', () => {
    const spec = specWith({ use: 'override' });
    spec.rewards = ['aif', 'flow'];
    if (spec.objective !== undefined) spec.objective.reward = 'flow';
    const [violation] = specViolations(spec);
    assert.equal(violation?.field, 'spec.labels.use');
    assert.match(violation.description, /train on 'aif'/);
  });
});

describe('the freeze waits', () => {
  const spec = specWith({ use: 'override', atLeast: 2 });
  const accepted = { accepting: 1, rejecting: 0 };

  test('until enough clips are decided on; divided raters decide nothing', () => {
    const error = humanLabelsMissing(spec, 3, [accepted, { accepting: 1, rejecting: 1 }]);
    assert.equal(error?.reason, 'HUMAN_LABELS_MISSING');
    assert.deepEqual(error.metadata, { iteration: '3', decided: '1', needed: '2' });
    assert.equal(humanLabelsMissing(spec, 3, [accepted, accepted]), undefined);
  });

  test('for nothing where the spec does not say so', () => {
    assert.equal(humanLabelsMissing(specWith({ use: 'override' }), 1, []), undefined);
    assert.equal(humanLabelsMissing(specFixture(), 1, []), undefined);
  });
});
