import assert from 'node:assert/strict';
import { test } from 'node:test';
import { create } from '@bufbuild/protobuf';
import type { MessageInitShape } from '@bufbuild/protobuf';
import { PlumbError } from '@plumb/kit/errors';
import { ModelState, ModelVersionSchema } from '@plumb/proto/plumb/models/v1/model_pb.js';
import {
  AdaptersSchema,
  JobSpecSchema,
  ObjectiveSchema,
  OptimisationSchema,
  ProbeSchema,
} from '@plumb/proto/plumb/trainer/v1/trainer_pb.js';
import type { JobSpec } from '@plumb/proto/plumb/trainer/v1/trainer_pb.js';
import { firstDifference, planJob } from './job-spec.ts';

const hash = 'ab'.repeat(32);
const model = {
  version: `toybox@${hash.slice(0, 12)}`,
  model: 'toybox',
  weights: { uri: `artifact:sha256/${hash}`, sha256: hash },
};

function spec(fields: {
  base?: MessageInitShape<typeof ModelVersionSchema>;
  objective?: MessageInitShape<typeof ObjectiveSchema>;
  optimisation?: MessageInitShape<typeof OptimisationSchema>;
  adapters?: MessageInitShape<typeof AdaptersSchema>;
  probe?: MessageInitShape<typeof ProbeSchema>;
  seed?: bigint;
}): JobSpec {
  return create(JobSpecSchema, {
    dataSet: { uri: `artifact:sha256/${hash}`, sha256: hash },
    base: create(ModelVersionSchema, fields.base ?? model),
    objective: create(ObjectiveSchema, fields.objective ?? { algorithm: 'rwr', reward: 'aif' }),
    optimisation: create(
      OptimisationSchema,
      fields.optimisation ?? { steps: 10, batchSize: 4, learningRate: 1e-4 },
    ),
    ...(fields.adapters === undefined ? {} : { adapters: create(AdaptersSchema, fields.adapters) }),
    ...(fields.probe === undefined ? {} : { probe: create(ProbeSchema, fields.probe) }),
    seed: fields.seed ?? 2n ** 64n - 1n,
  });
}

const defaults = { checkpointEverySteps: 50 };
const fieldsOf = (made: ReturnType<typeof spec>): string[] => {
  try {
    planJob(made, defaults);
  } catch (error) {
    assert.ok(error instanceof PlumbError && error.code === 'INVALID_ARGUMENT');
    return (error.fieldViolations ?? []).map(({ field }) => field);
  }
  return [];
};

test('the precision is float32, or one that is known', () => {
  const optimisation = { steps: 10, batchSize: 4, learningRate: 1e-4 };
  assert.equal(planJob(spec({}), defaults).optimisation.precision, 'float32');
  const half = spec({ optimisation: { ...optimisation, precision: 'float16' } });
  assert.equal(planJob(half, defaults).optimisation.precision, 'float16');
  assert.deepEqual(fieldsOf(spec({ optimisation: { ...optimisation, precision: 'int8' } })), [
    'spec.optimisation.precision',
  ]);
});

test('a short spec is complete: the rest has defaults', () => {
  const plan = planJob(spec({}), defaults);
  assert.equal(plan.objective.algorithm, 'rwr');
  assert.equal(plan.reference.sha256, plan.base.sha256);
  assert.equal(plan.checkpointEverySteps, 50);
  assert.equal(plan.maxAnchorDistance, undefined);
  assert.equal(plan.optimisation.clipNorm, 1);
  assert.equal(plan.seed, 2n ** 64n - 1n);
});

test('an absent setting has the default of the objective and of the optimiser; 0 is a value where it may be one', () => {
  const plan = planJob(spec({}), defaults);
  assert.equal(plan.optimisation.captionDropout, 0.1);
  assert.equal(plan.objective.acceptThreshold, 0.5);
  const zero = planJob(
    spec({
      objective: { algorithm: 'filtered-sft', reward: 'aif', threshold: 0, weighting: 'multiply' },
      optimisation: { steps: 10, batchSize: 4, learningRate: 1e-4, captionDropout: 0 },
    }),
    defaults,
  );
  assert.equal(zero.optimisation.captionDropout, 0);
  assert.equal(zero.objective.acceptThreshold, 0);
  assert.ok(zero.objective.algorithm === 'filtered-sft' && zero.objective.weighting === 'multiply');
});

test('kto takes its estimate of the divergence and the balance of its classes, and nothing else does', () => {
  const { objective } = planJob(
    spec({ objective: { algorithm: 'kto', reward: 'aif', klEstimate: 'batch', labelBalance: 'none' } }),
    defaults,
  );
  assert.ok(objective.algorithm === 'kto');
  assert.equal(objective.klEstimate, 'batch');
  assert.equal(objective.labelBalance, 'none');
  assert.deepEqual(
    fieldsOf(
      spec({
        objective: {
          algorithm: 'dpo',
          reward: 'aif',
          klEstimate: 'batch',
          labelBalance: 'none',
          weighting: 'multiply',
        },
      }),
    ).toSorted(),
    ['spec.objective.kl_estimate', 'spec.objective.label_balance', 'spec.objective.weighting'],
  );
});

test('each algorithm takes its own settings from the shared fields', () => {
  const rwr = planJob(
    spec({
      objective: {
        algorithm: 'rwr',
        reward: 'aif',
        temperature: 0.5,
        weightTransform: 'shaped',
        eta: 2,
        gamma: 0.25,
        maxWeight: 4,
      },
    }),
    defaults,
  ).objective;
  assert.ok(
    rwr.algorithm === 'rwr' && rwr.temperature === 0.5 && rwr.transform === 'shaped' && rwr.maxWeight === 4,
  );
  assert.deepEqual([rwr.shaping.eta, rwr.shaping.gamma], [2, 0.25]);
  const dpo = planJob(
    spec({
      objective: { algorithm: 'dpo', reward: 'aif', temperature: 100, minMargin: 0.5, maxPairsPerPrompt: 3 },
    }),
    defaults,
  ).objective;
  assert.ok(
    dpo.algorithm === 'dpo' && dpo.beta === 100 && dpo.pairs === 'margin' && dpo.maxPairsPerPrompt === 3,
  );
});

test('the SFT anchor is for the reverse projections', () => {
  for (const algorithm of ['dpo', 'kto']) {
    const { objective } = planJob(spec({ objective: { algorithm, reward: 'aif', sftAnchor: 3 } }), defaults);
    assert.ok('sftAnchor' in objective && objective.sftAnchor === 3);
    assert.deepEqual(fieldsOf(spec({ objective: { algorithm, reward: 'aif', sftAnchor: -1 } })), [
      'spec.objective.sft_anchor',
    ]);
  }
  assert.deepEqual(fieldsOf(spec({ objective: { algorithm: 'rwr', reward: 'aif', sftAnchor: 3 } })), [
    'spec.objective.sft_anchor',
  ]);
});

test('every bad field is named, under the name that the proto has', () => {
  assert.deepEqual(fieldsOf(create(JobSpecSchema)), [
    'spec.data_set',
    'spec.base',
    'spec.objective.reward',
    'spec.objective.algorithm',
    'spec.optimisation',
  ]);
  assert.deepEqual(fieldsOf(spec({ optimisation: { steps: 0, batchSize: -4, learningRate: 1e-4 } })), [
    'spec.optimisation.steps',
    'spec.optimisation.batch_size',
    'spec.optimisation.warmup_steps',
  ]);
  assert.deepEqual(fieldsOf(spec({ base: { ...model, version: 'toybox@000000000000' } })), [
    'spec.base.version',
  ]);
  assert.deepEqual(
    fieldsOf(spec({ objective: { algorithm: 'sft', reward: 'aif', weightTransform: 'exp' } })),
    ['spec.objective.weight_transform'],
  );
  assert.deepEqual(fieldsOf(spec({ objective: { algorithm: 'kto', reward: 'aif', klAnchor: 1 } })), [
    'spec.objective.kl_anchor',
  ]);
  assert.deepEqual(fieldsOf(spec({ objective: { algorithm: 'rwr', reward: 'aif', temperature: -1 } })), [
    'spec.objective.temperature',
  ]);
});

test('the anchor distance is probed where the objective does not run the reference', () => {
  const optimisation = { steps: 10, batchSize: 4, learningRate: 1e-4, maxAnchorDistance: 0.1 };
  const dpo = { algorithm: 'dpo', reward: 'aif' };
  const anchored = { algorithm: 'rwr', reward: 'aif', klAnchor: 1 };
  assert.equal(planJob(spec({ optimisation }), defaults).anchorEverySteps, 10);
  assert.equal(
    planJob(spec({ optimisation: { ...optimisation, anchorEverySteps: 3 } }), defaults).anchorEverySteps,
    3,
  );
  for (const objective of [dpo, anchored]) {
    assert.equal(planJob(spec({ optimisation, objective }), defaults).anchorEverySteps, undefined);
  }
  const field = ['spec.optimisation.anchor_every_steps'];
  assert.deepEqual(fieldsOf(spec({ optimisation: { ...optimisation, anchorEverySteps: -1 } })), field);
  assert.deepEqual(
    fieldsOf(spec({ optimisation: { ...optimisation, anchorEverySteps: 3 }, objective: dpo })),
    field,
  );
});

test('adapters have a rank and defaults for the rest', () => {
  assert.equal(planJob(spec({}), defaults).adapters, undefined);
  const { adapters } = planJob(spec({ adapters: { rank: 4 } }), defaults);
  assert.deepEqual([adapters?.rank, adapters?.alpha, adapters?.targets.length], [4, 4, 3]);
  const chosen = { rank: 2, alpha: 8, targets: ['blocks.*.mlp.*.weight'] };
  assert.deepEqual(planJob(spec({ adapters: chosen }), defaults).adapters, chosen);
  assert.deepEqual(fieldsOf(spec({ adapters: { rank: 0, alpha: -1 } })), [
    'spec.adapters.rank',
    'spec.adapters.alpha',
  ]);
});

test('the first difference of two specs is named with both values', () => {
  assert.equal(firstDifference(spec({}), spec({})), undefined);
  const promoted = { ...model, state: ModelState.PROMOTED, reasons: ['passed the gate'] };
  assert.equal(firstDifference(spec({}), spec({ base: promoted })), undefined);
  assert.deepEqual(firstDifference(spec({}), spec({ seed: 5n })), {
    field: 'spec.seed',
    before: '"18446744073709551615"',
    after: '"5"',
  });
  assert.equal(
    firstDifference(spec({}), spec({ optimisation: { steps: 11, batchSize: 4, learningRate: 1e-4 } }))?.field,
    'spec.optimisation.steps',
  );
});

test('the whole data step can be set', () => {
  const { objective } = planJob(
    spec({
      objective: {
        algorithm: 'dpo',
        reward: 'flow',
        standardise: 'per-prompt',
        clipLow: -2,
        clipHigh: 2,
        pairs: 'best-worst',
        maxUsesPerSample: 3,
        maxUnscoredShare: 0.1,
        balance: 'prompt',
      },
    }),
    defaults,
  );
  assert.ok(objective.algorithm === 'dpo');
  assert.deepEqual(objective.shaping, { standardise: 'per-prompt', eta: 1, gamma: 0, clip: [-2, 2] });
  assert.deepEqual(
    [objective.pairs, objective.maxUsesPerSample, objective.maxUnscoredShare, objective.balance],
    ['best-worst', 3, 0.1, 'prompt'],
  );
  const rwr = (objectiveFields: MessageInitShape<typeof ObjectiveSchema>): string[] =>
    fieldsOf(
      spec({ objective: create(ObjectiveSchema, { algorithm: 'rwr', reward: 'aif', ...objectiveFields }) }),
    );
  assert.deepEqual(rwr({ clipLow: 0 }), ['spec.objective.clip_high']);
  assert.deepEqual(rwr({ clipLow: 1, clipHigh: 1 }), ['spec.objective.clip_high']);
  assert.deepEqual(rwr({ standardise: 'all' }), ['spec.objective.standardise']);
  assert.deepEqual(rwr({ pairs: 'binary' }), ['spec.objective.pairs']);
});

const held = {
  prompts: [{ id: 'held/1', text: 'the ball falls' }],
  sampler: { steps: 4, guidance: 1, shift: 1 },
  everySteps: 5,
  heldOutReward: 'referee',
};

test('a short probe is complete: it watches the reward that is trained on, and fails without scores', () => {
  const { probe } = planJob(spec({ probe: held }), defaults);
  assert.deepEqual(
    [probe?.trainedReward, probe?.samplesPerPrompt, probe?.patience, probe?.onError],
    ['aif', 1, 2, 'fail'],
  );
  assert.deepEqual([probe?.trainedTolerance, probe?.heldOutTolerance, probe?.guardTolerance], [0, 0.05, 0.1]);
});

test('every bad field of a probe is named', () => {
  const bad = (changes: object): string[] => fieldsOf(spec({ probe: { ...held, ...changes } }));
  const cases: [object, string][] = [
    [{ prompts: [] }, 'prompts'],
    [{ prompts: [{ id: '', text: 'x' }] }, 'prompts[0].id'],
    [{ prompts: [...held.prompts, ...held.prompts] }, 'prompts[1].id'],
    [{ prompts: [{ id: 'a', text: ' ' }] }, 'prompts[0].text'],
    [{ samplesPerPrompt: -1 }, 'samples_per_prompt'],
    [{ samplesPerPrompt: 2000 }, 'samples_per_prompt'],
    [{ sampler: undefined }, 'sampler'],
    [{ sampler: { steps: 0, guidance: 1, shift: 1 } }, 'sampler.steps'],
    [{ everySteps: 0 }, 'every_steps'],
    [{ heldOutReward: '' }, 'held_out_reward'],
    [{ heldOutReward: 'aif' }, 'held_out_reward'],
    [{ guards: ['referee'] }, 'guards[0]'],
    [{ guards: ['motion_floor', 'motion_floor'] }, 'guards[1]'],
    [{ heldOutTolerance: -1 }, 'held_out_tolerance'],
    [{ guardTolerance: Number.NaN }, 'guard_tolerance'],
    [{ patience: -1 }, 'patience'],
    [{ maxErrorShare: 1 }, 'max_error_share'],
    [{ onError: 'ignore' }, 'on_error'],
  ];
  for (const [changes, field] of cases) {
    assert.deepEqual(bad(changes), [`spec.probe.${field}`], JSON.stringify(changes));
  }
});
