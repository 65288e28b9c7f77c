import assert from 'node:assert/strict';
import { describe, test } from 'node:test';
import { clone, create } from '@bufbuild/protobuf';
import type { MessageInitShape } from '@bufbuild/protobuf';
import { BudgetsSchema, GateSchema, RunSpecSchema } from '@plumb/proto/plumb/loop/v1/loop_pb.js';
import type { RunSpec } from '@plumb/proto/plumb/loop/v1/loop_pb.js';
import { AdaptersSchema, ProbeSchema } from '@plumb/proto/plumb/trainer/v1/trainer_pb.js';
import type { Probe } from '@plumb/proto/plumb/trainer/v1/trainer_pb.js';
import { Category, Split } from '@plumb/proto/plumb/prompts/v1/prompt_pb.js';
import type { Prompt } from '@plumb/proto/plumb/prompts/v1/prompt_pb.js';
import { specFixture } from '../testing/run-spec-fixture.ts';
import { defaultMaxErrorShare, firstDifference, specViolations, withDefaults } from './run-spec.ts';

function changed(change: (spec: RunSpec) => void): RunSpec {
  const spec = clone(RunSpecSchema, specFixture());
  change(spec);
  return spec;
}

function prompt(spec: RunSpec, index: number): Prompt {
  const found = spec.prompts[index];
  assert.ok(found !== undefined);
  return found;
}

const objective = (spec: RunSpec) => {
  assert.ok(spec.objective !== undefined);
  return spec.objective;
};
const evaluation = (spec: RunSpec) => {
  assert.ok(spec.evaluation !== undefined);
  return spec.evaluation;
};

const probe = (fields: MessageInitShape<typeof ProbeSchema>): Probe =>
  create(ProbeSchema, {
    everySteps: 10,
    heldOutReward: 'motion_floor',
    sampler: { steps: 4, guidance: 1, shift: 1 },
    ...fields,
  } as MessageInitShape<typeof ProbeSchema>);

/** What breaks a spec, the field that is named, and a part of what is said of it. */
const poisons: [name: string, change: (spec: RunSpec) => void, field: string, says: RegExp][] = [
  ['no base', (s) => void delete s.base, 'spec.base', /is missing/],
  [
    'a version of other weights',
    (s) => s.base && (s.base.version = 'toy@000000000000'),
    'spec.base.version',
    /is not toy@a/,
  ],
  ['a bad model name', (s) => s.base && (s.base.model = 'To y'), 'spec.base.model', /no model name/],
  [
    'two prompts of one id',
    (s) => (prompt(s, 1).id = prompt(s, 0).id),
    'spec.prompts[1].id',
    /also the id of prompts\[0\]/,
  ],
  [
    'two prompts of one text',
    (s) => (prompt(s, 1).text = `  ${prompt(s, 0).text.toUpperCase()} `),
    'spec.prompts[1].text',
    /remove one/,
  ],
  [
    'a leak',
    (s) => (prompt(s, 3).text = prompt(s, 0).text),
    'spec.prompts[3].text',
    /must not be trained on/,
  ],
  ['an empty prompt', (s) => (prompt(s, 0).text = ' '), 'spec.prompts[0].text', /is empty/],
  [
    'a long prompt',
    (s) => (prompt(s, 0).text = 'x'.repeat(10_000)),
    'spec.prompts[0].text',
    /has 10000 characters/,
  ],
  [
    'no category',
    (s) => (prompt(s, 0).category = Category.UNSPECIFIED),
    'spec.prompts[0].category',
    /five categories/,
  ],
  [
    'no split',
    (s) => (prompt(s, 0).split = Split.UNSPECIFIED),
    'spec.prompts[0].split',
    /training or held out/,
  ],
  [
    'nothing held out',
    (s) => (s.prompts = s.prompts.filter((p) => p.split === Split.TRAIN)),
    'spec.prompts',
    /hold some back/,
  ],
  [
    'nothing to train on',
    (s) => (s.prompts = s.prompts.filter((p) => p.split !== Split.TRAIN)),
    'spec.prompts',
    /no training prompt/,
  ],
  [
    'a category that is not held out',
    (s) =>
      (s.prompts = s.prompts.filter((p) => p.split === Split.TRAIN || p.category === Category.FALLING_DOWN)),
    'spec.prompts',
    /category DM has no held-out prompt/,
  ],
  ['no hash', (s) => (s.promptSetHash = 'x'), 'spec.prompt_set_hash', /64 lower-case/],
  ['no samples', (s) => (s.samplesPerPrompt = 0), 'spec.samples_per_prompt', /1 to 1024/],
  ['too many samples', (s) => (s.samplesPerPrompt = 1025), 'spec.samples_per_prompt', /1 to 1024/],
  ['no sampler', (s) => void delete s.sampler, 'spec.sampler', /is missing/],
  ['no steps', (s) => s.sampler && (s.sampler.steps = 0), 'spec.sampler.steps', /1 to 1000/],
  [
    'a guidance that is no number',
    (s) => s.sampler && (s.sampler.guidance = Number.NaN),
    'spec.sampler.guidance',
    /NaN is out of range/,
  ],
  [
    'adapters without a rank',
    (s) => void (s.adapters = create(AdaptersSchema)),
    'spec.adapters.rank',
    /use 1 or more/,
  ],
  [
    'a probe by the reward that is trained on',
    (s) => void (s.probe = probe({ heldOutReward: 'aif' })),
    'spec.probe.held_out_reward',
    /trained on/,
  ],
  [
    'a probe of a prompt that is trained on',
    (s) => void (s.probe = probe({ prompts: [prompt(s, 0)] })),
    'spec.probe.prompts[0]',
    /trained on/,
  ],
  [
    'a probe without a schedule',
    (s) => void (s.probe = probe({ everySteps: 0 })),
    'spec.probe.every_steps',
    /1 to/,
  ],
  ['no rewards', (s) => (s.rewards = []), 'spec.rewards', /at least one/],
  ['a reward twice', (s) => s.rewards.push('aif'), 'spec.rewards[1]', /named twice/],
  [
    'an unknown algorithm',
    (s) => (objective(s).algorithm = 'ppo'),
    'spec.objective.algorithm',
    /'ppo' is unknown; use one of sft/,
  ],
  [
    'another reward to train on',
    (s) => (objective(s).reward = 'clip'),
    'spec.objective.reward',
    /name one of aif/,
  ],
  ['an unknown reference', (s) => (s.reference = 'next'), 'spec.reference', /previous or pretrained/],
  ['too many iterations', (s) => (s.iterations = 101), 'spec.iterations', /1 to 100/],
  ['no optimisation', (s) => void delete s.optimisation, 'spec.optimisation', /is missing/],
  [
    'a learning rate of nothing',
    (s) => s.optimisation && (s.optimisation.learningRate = 0),
    'spec.optimisation.learning_rate',
    /more than 0/,
  ],
  [
    'a held-out reward that is trained on',
    (s) => (evaluation(s).heldOutReward = 'aif'),
    'spec.evaluation.held_out_reward',
    /trained on/,
  ],
  ['no verdict', (s) => (evaluation(s).reward = ''), 'spec.evaluation.reward', /is missing/],
  ['a gate of 200 percent', (s) => s.gate && (s.gate.minGain = 2), 'spec.gate.min_gain', /-1 to 1/],
  [
    'a held-out reward that scores training clips',
    (s) => {
      s.rewards.push('clip');
      evaluation(s).heldOutReward = 'clip';
    },
    'spec.evaluation.held_out_reward',
    /also scores the training samples/,
  ],
  [
    'a guard that is trained on',
    (s) => evaluation(s).guards.push('aif'),
    'spec.evaluation.guards[0]',
    /cannot guard against itself/,
  ],
  [
    'dpo with one clip a prompt',
    (s) => {
      objective(s).algorithm = 'dpo';
      s.samplesPerPrompt = 1;
    },
    'spec.samples_per_prompt',
    /at least 2/,
  ],
  [
    'a batch larger than the data',
    (s) => s.optimisation && (s.optimisation.batchSize = 13),
    'spec.optimisation.batch_size',
    /13 is more than the 12 training clips/,
  ],
  [
    'a budget below one iteration',
    (s) => (s.budgets = create(BudgetsSchema, { samples: 27n })),
    'spec.budgets.samples',
    /27 is less than the 28 clips/,
  ],
  [
    'a budget below the training steps',
    (s) => (s.budgets = create(BudgetsSchema, { trainingSteps: 2n })),
    'spec.budgets.training_steps',
    /less than the 3 steps/,
  ],
  [
    'a budget of less than nothing',
    (s) => (s.budgets = create(BudgetsSchema, { cost: -1 })),
    'spec.budgets.cost',
    /more than 0/,
  ],
  [
    'a gate rule that there is not',
    (s) => (s.gate = create(GateSchema, { rules: [{ rule: 'largest-gain' }] })),
    'spec.gate.rules[0].rule',
    /./,
  ],
  [
    'a gate rule with the setting of another',
    (s) => (s.gate = create(GateSchema, { rules: [{ rule: 'smallest-gain', tolerance: 0.1 }] })),
    'spec.gate.rules[0]',
    /tolerance/,
  ],
  [
    'a gate rule on a held-out reward that there is not',
    (s) => (s.gate = create(GateSchema, { rules: [{ rule: 'not-lower' }] })),
    'spec.gate.rules[0]',
    /evaluation\.held_out_reward/,
  ],
  [
    'rules and numbers',
    (s) => (s.gate = create(GateSchema, { minGain: 0.1, rules: [{ rule: 'smallest-gain' }] })),
    'spec.gate.min_gain',
    /in a rule instead/,
  ],
  ['all may be errors', (s) => (s.maxErrorShare = 1), 'spec.max_error_share', /less than 1/],
];

describe('spec', () => {
  test('a valid one has no violations', () => {
    assert.deepEqual(specViolations(specFixture()), []);
  });

  for (const [name, change, field, says] of poisons) {
    test(`${name}: the field and the fix are named`, () => {
      const violations = specViolations(changed(change));
      const found = violations.find((violation) => violation.field === field);
      assert.ok(found !== undefined, JSON.stringify(violations));
      assert.match(found.description, says);
    });
  }

  test('every bad thing is named at once, within reason', () => {
    const spec = changed((bad) => {
      bad.samplesPerPrompt = 0;
      bad.rewards = [];
      bad.prompts = Array.from({ length: 200 }, () => prompt(bad, 0));
    });
    assert.equal(specViolations(spec).length, 50);
  });

  test('defaults are written out', () => {
    const spec = withDefaults(
      changed((bare) => {
        bare.iterations = 0;
        bare.reference = '';
        delete bare.evaluation;
        delete bare.gate;
        delete bare.maxErrorShare;
      }),
    );
    assert.equal(spec.iterations, 1);
    assert.equal(spec.reference, 'previous');
    assert.equal(spec.evaluation?.reward, 'aif');
    assert.equal(spec.evaluation.samplesPerPrompt, 1);
    assert.deepEqual(spec.evaluation.sampler, spec.sampler);
    assert.equal(spec.maxErrorShare, defaultMaxErrorShare);
    assert.deepEqual(specViolations(spec), []);
  });

  test('a probe takes one held-out prompt of each category, and the sampler and held-out reward of the evaluation', () => {
    const spec = changed((s) => {
      evaluation(s).heldOutReward = 'motion_floor';
      s.probe = create(ProbeSchema, { everySteps: 5 });
    });
    const full = withDefaults(spec);
    assert.deepEqual(
      full.probe?.prompts.map(({ id }) => id),
      ['DM/heldout/0', 'FD/heldout/0'],
    );
    assert.deepEqual(full.probe.sampler, full.evaluation?.sampler);
    assert.equal(full.probe.heldOutReward, 'motion_floor');
    assert.deepEqual(specViolations(full), []);
  });

  test('the first difference of two specs is named with both values', () => {
    assert.equal(firstDifference(specFixture(), specFixture()), undefined);
    const other = changed((spec) => (prompt(spec, 2).text = 'something else'));
    assert.deepEqual(firstDifference(specFixture(), other), {
      field: 'spec.prompts[2].text',
      before: '"a red ball does DM number 2"',
      after: '"something else"',
    });
    const more = changed((spec) => (spec.seed = 8n));
    assert.deepEqual(firstDifference(specFixture(), more), {
      field: 'spec.seed',
      before: '"7"',
      after: '"8"',
    });
  });
});
