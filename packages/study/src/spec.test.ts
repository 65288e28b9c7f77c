import assert from 'node:assert/strict';
import { test } from 'node:test';
import { armId, armsOf, parseStudySpec } from './spec.ts';

const base = {
  name: 'some',
  model: 'model.safetensors',
  prompts: { set: 'prompts.json' },
  rewards: 'rewards',
};

test('the matrix is every combination of each block, each arm once', () => {
  const spec = parseStudySpec(
    {
      ...base,
      matrix: [
        { algorithms: ['sft', 'rwr'], rewards: ['aif', 'clip_score'] },
        { algorithms: ['rwr', 'dpo'], rewards: ['aif'], judgeNoise: [0, 0.2] },
        { algorithms: ['rwr'], rewards: ['aif'], betas: [0.1] },
      ],
    },
    'study.yaml',
  );
  assert.deepEqual(armsOf(spec).map(armId), [
    'sft',
    'rwr aif',
    'rwr clip_score',
    'rwr aif 20% noise',
    'dpo aif',
    'dpo aif 20% noise',
    'rwr aif beta 0.1',
  ]);
});

for (const [what, wrong, message] of [
  [
    'noise in a metric',
    { algorithms: ['rwr'], rewards: ['clip_score'], judgeNoise: [0.1] },
    /judgeNoise.+clip_score/,
  ],
  ['no reward', { algorithms: ['rwr'] }, /rewards.+rwr needs a reward/],
  ['a beta of none', { algorithms: ['sft'], betas: [1] }, /betas.+sft/],
  ['an unknown algorithm', { algorithms: ['ppo'] }, /algorithms\[0\].+one of sft/],
  ['an unknown field', { algorithms: ['sft'], reward: 'aif' }, /matrix\[0\].+reward/],
] as const) {
  test(`refuses ${what}, naming the field`, () => {
    assert.throws(() => parseStudySpec({ ...base, matrix: [wrong] }, 'study.yaml'), message);
  });
}
