import assert from 'node:assert/strict';
import { test } from 'node:test';
import { create } from '@bufbuild/protobuf';
import type { MessageInitShape } from '@bufbuild/protobuf';
import { pipelineMediaType } from '@plumb/media/model-media-types';
import { SamplerSettingsSchema } from '@plumb/proto/plumb/models/v1/model_pb.js';
import { Category } from '@plumb/proto/plumb/prompts/v1/prompt_pb.js';
import { JobSpecSchema } from '@plumb/proto/plumb/trainer/v1/trainer_pb.js';
import { planJob } from '../domain/job-spec.ts';
import type { JobPlan } from '../domain/job-spec.ts';
import { torchCommand, torchJob } from './torch-training.ts';

const sha256 = 'ab'.repeat(32);
const weights = { uri: `artifact:${sha256}`, sha256 };

function planOf(change: MessageInitShape<typeof JobSpecSchema> = {}): JobPlan {
  const spec = create(JobSpecSchema, {
    dataSet: weights,
    base: { version: `toybox@${sha256.slice(0, 12)}`, weights },
    objective: { algorithm: 'dpo', reward: 'aif', temperature: 50 },
    optimisation: { steps: 20, batchSize: 8, learningRate: 1e-3, maxAnchorDistance: 0.5 },
    seed: 18_446_744_073_709_551_615n,
    ...(change as object),
  });
  return planJob(spec, { checkpointEverySteps: 50 });
}

test('a job file has every setting of the plan, and a seed that JSON holds', () => {
  const plan = planOf();
  const job: unknown = JSON.parse(JSON.stringify(torchJob('job-1', plan, undefined)));
  assert.deepEqual(job, {
    kind: 'plumb.torch-job',
    version: 1,
    jobId: 'job-1',
    dataSet: { sha256 },
    base: { version: plan.base.version, sha256 },
    reward: 'aif',
    objective: JSON.parse(JSON.stringify(plan.objective)),
    optimisation: JSON.parse(JSON.stringify(plan.optimisation)),
    checkpointEverySteps: 50,
    maxAnchorDistance: 0.5,
    seed: '18446744073709551615',
  });
});

test('a pipeline is trained where its PyTorch weights are', () => {
  const base = {
    version: `wan@${sha256.slice(0, 12)}`,
    weights: { ...weights, mediaType: pipelineMediaType },
  };
  const plan = planOf({ base, adapters: { rank: 4 } });
  assert.deepEqual(torchJob('job-1', plan, '/models/wan')['base'], {
    version: base.version,
    path: '/models/wan',
  });
  assert.throws(() => torchJob('job-1', plan, undefined), {
    reason: 'CONFIGURATION_INVALID',
    message: /^PLUMB_TRAINING_MODEL: is missing; wan@/,
  });
});

test('a probe is refused: only the engine samples', () => {
  const plan = planOf({
    probe: {
      prompts: [{ id: 'p', text: 'the red ball falls', category: Category.FALLING_DOWN }],
      everySteps: 10,
      sampler: create(SamplerSettingsSchema, { steps: 4, guidance: 1.5, shift: 1 }),
      heldOutReward: 'other',
    },
  });
  assert.throws(
    () => torchJob('job-1', plan, undefined),
    /spec\.probe: cannot be run by PLUMB_TRAINING_COMMAND/,
  );
});

test('the command is given the job, a folder for what comes out, and the artifacts', () => {
  const command = torchCommand({ command: ['torchrun', '-m', 'plumb_torch'], folder: '/shared/job-1' });
  assert.equal(
    command.join(' '),
    'torchrun -m plumb_torch --job /shared/job-1/job.json --output /shared/job-1/output --artifacts /shared/job-1/artifacts',
  );
});
