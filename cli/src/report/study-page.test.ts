import assert from 'node:assert/strict';
import { test } from 'node:test';
import type { StudyAnalysis } from '@plumb/study';
import { studyHeadline } from './study-page.ts';

const analysis = (contrasts: readonly [against: string, difference: number, adjustedPValue: number][]) =>
  ({
    arms: [
      { id: 'rwr hpsv2', form: 'metric' },
      { id: 'dpo hpsv2', form: 'metric' },
      { id: 'rwr aif 10% noise', form: 'binary' },
    ],
    binaryAgainst: contrasts.map(([against, value, adjustedPValue]) => ({
      arm: 'rwr aif',
      against,
      difference: { value },
      adjustedPValue,
    })),
  }) as unknown as StudyAnalysis;

test('the headline counts metric rewards alone, and says what the corrected tests support', () => {
  assert.equal(
    studyHeadline(
      analysis([
        ['rwr hpsv2', 0.1, 0.2],
        ['dpo hpsv2', 0.2, 0.01],
        ['rwr aif 10% noise', 0.1, 0.01],
      ]),
    ),
    'Binary feedback did better than metric rewards in 2 of 2 comparisons, beyond chance in 1',
  );
  assert.equal(
    studyHeadline(analysis([['rwr hpsv2', -0.1, 0.01]])),
    'Binary feedback did better than metric rewards in 0 of 1 comparisons, beyond chance in 0, and worse beyond chance in 1',
  );
  assert.match(studyHeadline(analysis([])), /not compared/);
});
