import assert from 'node:assert/strict';
import { test } from 'node:test';
import { readPrometheusText } from './prometheus-text.ts';

test('values, labels with escapes, comments', () => {
  const text = [
    '# HELP a_total Of a test',
    '# TYPE a_total counter',
    'a_total{job="x",text="say \\"hi\\" {now}\\nplease"} 3',
    'b 0.5',
    'c_bucket{le="+Inf"} 7 1700000000',
    'd NaN',
    'not a line at all',
    '',
  ].join('\n');
  assert.deepEqual(readPrometheusText(text), [
    { name: 'a_total', labels: { job: 'x', text: 'say "hi" {now}\nplease' }, value: 3 },
    { name: 'b', labels: {}, value: 0.5 },
    { name: 'c_bucket', labels: { le: '+Inf' }, value: 7 },
  ]);
});
