import assert from 'node:assert/strict';
import { test } from 'node:test';
import fc from 'fast-check';
import { gradedValue } from './graded-value.ts';

// Where a value counts as accepted, in the loop and in its reports.
const acceptThreshold = 0.5;

test('a clip counts as accepted from the threshold of its judge on, and a better grade is worth no less', () => {
  const share = fc.integer({ min: 0, max: 100 }).map((hundredths) => hundredths / 100);
  fc.assert(
    fc.property(share, share, share, (grade, other, threshold) => {
      const value = gradedValue(grade, threshold);
      assert.ok(value >= 0 && value <= 1);
      assert.equal(value >= acceptThreshold, grade >= threshold);
      if (grade <= other) assert.ok(value <= gradedValue(other, threshold));
    }),
  );
});

test('grades 1 to 5 at the usual threshold and at that of grade 4', () => {
  const grades = [0, 0.25, 0.5, 0.75, 1];
  assert.deepEqual(
    grades.map((grade) => gradedValue(grade, 0.5)),
    grades,
  );
  assert.deepEqual(
    grades.map((grade) => gradedValue(grade, 0.75) >= acceptThreshold),
    [false, false, false, true, true],
  );
  assert.deepEqual([gradedValue(1, 1), gradedValue(0, 0), gradedValue(0.75, 1)], [1, 0.5, 0.375]);
});
