import assert from 'node:assert/strict';
import { after, describe, test } from 'node:test';
import * as tensorGraph from '@plumb/tensor-graph';
import { openInThread } from '@plumb/tensor-graph/engine';
import { gradientRules } from '../packages/tensor-graph/src/gradient-rules.ts';
import { committedCases, readCases } from './case-files.ts';
import { measureCase } from './measure.ts';
import { operatorBuilders } from './operators.ts';
import { relativeError } from './relative-error.ts';

const files = await readCases(committedCases);
const engine = openInThread({ intraOpThreads: 1 });
after(() => engine.close());
const measured = new Set<string>();
const differentiated = new Set<string>();

for (const kind of ['operators', 'paths', 'losses', 'models', 'denoisers', 'trainers'] as const) {
  describe(`${kind} agree with PyTorch ${files.index.versions.torch}`, () => {
    for (const one of files.index.cases.filter((each) => each.kind === kind)) {
      test(one.name, async () => {
        const measurement = await measureCase(engine, files, one);
        measured.add(one.name);
        for (const operator of measurement.differentiated) differentiated.add(operator);
        assert.ok(measurement.comparisons.length > 0, 'the case compares nothing');
        for (const { role, error, limit } of measurement.comparisons) {
          assert.ok(error <= limit, `${role}: relative error ${error}, limit ${limit}`);
        }
      });
    }
  });
}

describe('nothing is left out', () => {
  test('every case of the index was measured, and every stored tensor was read', () => {
    assert.deepEqual(
      files.index.cases.map(({ name }) => name).filter((name) => !measured.has(name)),
      [],
    );
    assert.deepEqual(files.unread(), []);
  });

  test('every operator with a gradient rule was differentiated by a case', () => {
    const missing = [...gradientRules.keys()].filter((operator) => !differentiated.has(operator));
    assert.deepEqual(missing, [], 'add cases for them to operator_cases.py');
  });

  test('every operator that tensor-graph exports has a case', () => {
    // Everything else of the entry; the optimiser's parts are compared as ten whole steps.
    const others = new Set(
      (
        'Graph ONNX_OPSET adamW buildTrainingStep checkState clipFactor globalNorm gradients initialTrainingState ' +
        'sizeOf toOnnx'
      ).split(' '),
    );
    const cases = new Set(files.index.cases.map((one) => (one.kind === 'operators' ? one.operator : '')));
    const exported = Object.keys(tensorGraph).filter((name) => !others.has(name));
    assert.deepEqual(
      exported.filter((name) => !cases.has(name)),
      [],
      'add cases for them to operator_cases.py',
    );
    assert.deepEqual(
      Object.keys(operatorBuilders).filter((name) => !cases.has(name)),
      [],
    );
  });
});

test('relativeError hides no difference', () => {
  assert.equal(relativeError([1, -4], [1, -2]), 1);
  assert.equal(relativeError([0, 0], [0, 0]), 0);
  assert.equal(relativeError([1e-9], [0]), Infinity);
  assert.equal(relativeError([Number.NaN], [1]), Infinity);
  assert.equal(relativeError([1], [1, 1]), Infinity);
});
