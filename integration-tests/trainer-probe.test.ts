import assert from 'node:assert/strict';
import { mkdtemp, readdir, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { after, before, test } from 'node:test';
import type { MessageInitShape } from '@bufbuild/protobuf';
import { clipSize } from '@plumb/diffusion';
import { fromStatus } from '@plumb/kit/errors';
import { createClient } from '@plumb/kit/rpc';
import type { RpcClient } from '@plumb/kit/rpc';
import { startNatsServer } from '@plumb/kit/testing/nats-server';
import type { TestNatsServer } from '@plumb/kit/testing/nats-server';
import { openFolderStore } from '@plumb/media';
import type { ArtifactStore } from '@plumb/media';
import type { ModelVersion } from '@plumb/proto/plumb/models/v1/model_pb.js';
import type { JobSpecSchema, ProbeSchema } from '@plumb/proto/plumb/trainer/v1/trainer_pb.js';
import { JobState, StopReason, TrainerService } from '@plumb/proto/plumb/trainer/v1/trainer_pb.js';
import type { Job, ProbeResult } from '@plumb/proto/plumb/trainer/v1/trainer_pb.js';
import { startService } from './support/service-process.ts';
import type { ServiceProcess } from './support/service-process.ts';
import { smallConfig, smallModel, storeDataSet, storeModel } from './support/small-world.ts';

const timeout = 180_000;
let folder: string;
let nats: TestNatsServer;
let artifacts: ArtifactStore;
let base: ModelVersion;
let dataSet: { uri: string; sha256: string };
let reward: ServiceProcess;
let trainer: ServiceProcess;
let client: RpcClient<typeof TrainerService>;
/** Undoes what was set up, also when setting up failed half-way. */
const cleaning = new AsyncDisposableStack();

const environment = (): Record<string, string> => ({
  PLUMB_NATS_URL: nats.url,
  PLUMB_ARTIFACTS: path.join(folder, 'artifacts'),
});
const startTrainer = (listen = '127.0.0.1:0'): Promise<ServiceProcess> =>
  startService('trainer', {
    ...environment(),
    PLUMB_LISTEN: listen,
    PLUMB_INTRA_OP_THREADS: '1',
    PLUMB_REWARD_ADDRESS: reward.address,
    PLUMB_PROBE_DEADLINE_SECONDS: '60',
  });
// The rewards of these tests are computed from pixels: there is no judge to ask.
const startReward = (listen = '127.0.0.1:0'): Promise<ServiceProcess> =>
  startService('reward', { ...environment(), PLUMB_LISTEN: listen, PLUMB_JUDGE_ADDRESS: '127.0.0.1:9' });

before(
  async () => {
    folder = await mkdtemp(path.join(tmpdir(), 'plumb-probe-'));
    cleaning.defer(() => rm(folder, { recursive: true, force: true }));
    nats = await startNatsServer();
    cleaning.defer(() => nats.stop());
    artifacts = await openFolderStore(path.join(folder, 'artifacts'));
    base = await storeModel(artifacts, smallModel('probe'));
    // Every other frame black: a policy that learns it moves more and keeps its colours less.
    dataSet = await storeDataSet(artifacts, base, { samplesPerPrompt: 6, clip: flicker });
    reward = await startReward();
    cleaning.defer(async () => void (await reward.stop()));
    trainer = await startTrainer();
    cleaning.defer(async () => void (await trainer.stop()));
    client = createClient(TrainerService, trainer.address, { waitForReady: true });
    cleaning.defer(() => {
      client.close();
    });
  },
  { timeout },
);
after(() => cleaning.disposeAsync());

const { frames, height, width } = smallConfig.video;
function flicker(index: number): Float32Array {
  return Float32Array.from({ length: clipSize(smallConfig) }, (_, place) => {
    const frame = Math.floor(place / (height * width)) % frames;
    return (frame + index) % 2 === 0 ? 1 : -1;
  });
}

interface SpecChanges {
  readonly probe?: MessageInitShape<typeof ProbeSchema>;
  readonly steps?: number;
  readonly learningRate?: number;
}

function specOf({
  probe,
  steps = 60,
  learningRate = 2e-3,
}: SpecChanges): MessageInitShape<typeof JobSpecSchema> {
  return {
    dataSet,
    base,
    objective: { algorithm: 'rwr', reward: 'aif' },
    // A constant rate, so that a longer job begins as a shorter one.
    optimisation: { steps, batchSize: 4, learningRate, schedule: 'constant', checkpointEverySteps: 7 },
    ...(probe === undefined ? {} : { probe }),
    seed: 7n,
  };
}

const probe = {
  prompts: [
    { id: 'held/0', text: 'blue ball falls' },
    { id: 'held/1', text: 'the red square falls' },
  ],
  samplesPerPrompt: 2,
  sampler: { steps: 4, guidance: 1, shift: 1 },
  everySteps: 5,
  trainedReward: 'motion_floor',
  heldOutReward: 'colour_stability',
  heldOutTolerance: 0.2,
} satisfies MessageInitShape<typeof ProbeSchema>;

/** Watches a job to its end, or until a step is seen. */
async function watch(
  id: string,
  untilStep = Infinity,
): Promise<{ job: Job | undefined; probes: ProbeResult[] }> {
  const probes: ProbeResult[] = [];
  for await (const { event } of client.watchJob({ id })) {
    if (event.case === 'job' && event.value.endTime !== undefined) return { job: event.value, probes };
    if (event.case !== 'progress') continue;
    probes.push(...event.value.probes);
    if (event.value.step >= untilStep) break;
  }
  return { job: undefined, probes };
}
const createJob = async (key: string, spec: MessageInitShape<typeof JobSpecSchema>): Promise<string> =>
  (await client.createJob({ spec, idempotencyKey: key })).job?.id ?? '';
const run = async (key: string, changes: SpecChanges): Promise<Job> => {
  const { job } = await watch(await createJob(key, specOf(changes)));
  assert.ok(job !== undefined);
  return job;
};
const reasonOf = ({ error }: Job): string => (error === undefined ? '' : fromStatus(error).reason);
/** All that a probe found, without the time it took. */
const found = (probes: readonly ProbeResult[]): unknown[] =>
  probes.map((result) => ({ ...result, seconds: 0 }));
const artifactCount = async (): Promise<number> =>
  (await readdir(path.join(folder, 'artifacts'), { recursive: true, withFileTypes: true })).filter((entry) =>
    entry.isFile(),
  ).length;

/** The job that over-optimises, undisturbed. */
let stopped: Job;

test(
  'the held-out reward falls while the trained-on one rises: the job stops and keeps the last good checkpoint',
  { timeout },
  async () => {
    const before = await artifactCount();
    const id = await createJob('stops', specOf({ probe }));
    const { job, probes } = await watch(id);
    assert.equal(job?.state, JobState.SUCCEEDED, reasonOf(job ?? assert.fail()));
    const stop = job.earlyStop ?? assert.fail(JSON.stringify(found(job.probes)));
    assert.equal(stop.reason, StopReason.OVER_OPTIMISED);
    assert.equal(job.step, stop.step);
    assert.ok(stop.keptStep > 0 && stop.keptStep < stop.step && stop.step < 60, JSON.stringify(stop));
    assert.match(stop.message, /trained-on reward rose .* held-out judge fell/);
    assert.deepEqual(found(probes), found(job.probes));
    assert.deepEqual(
      probes.map(({ step }) => step),
      Array.from({ length: stop.step / probe.everySteps + 1 }, (_, index) => index * probe.everySteps),
    );
    // patience: the last two show it, and nothing before them does.
    assert.deepEqual(
      probes.map(({ findings }) => findings.length > 0),
      probes.map(({ step }) => step > stop.keptStep),
    );
    // What is left of the job is its checkpoint and its manifest, no state to resume from.
    assert.equal(await artifactCount(), before + 2);
    stopped = job;
  },
);

test(
  'the checkpoint that is kept is that of a job of so many steps without a probe',
  { timeout },
  async () => {
    const plain = await run('short', { steps: stopped.earlyStop?.keptStep ?? 0 });
    assert.equal(plain.checkpoint?.sha256, stopped.checkpoint?.sha256);
  },
);

test('SIGKILL between probes changes nothing: the same probes, the same end', { timeout }, async () => {
  const id = await createJob('killed', specOf({ probe }));
  await watch(id, 7);
  await trainer.kill();
  trainer = await startTrainer(trainer.address);
  const { job } = await watch(id);
  assert.deepEqual(found(job?.probes ?? []), found(stopped.probes));
  assert.equal(job?.checkpoint?.sha256, stopped.checkpoint?.sha256);
  assert.equal(job?.manifest?.sha256, stopped.manifest?.sha256);
});

test('without a good probe after the base there is nothing to keep: the job fails', { timeout }, async () => {
  const job = await run('hopeless', {
    learningRate: 2e-2,
    probe: { ...probe, everySteps: 10, patience: 1, guards: ['object_persistence'] },
  });
  assert.equal(job.state, JobState.FAILED);
  assert.equal(reasonOf(job), 'OVER_OPTIMISED');
  assert.equal(job.checkpoint, undefined);
  assert.deepEqual(
    job.probes.map(({ step, guards }) => [step, Object.keys(guards)]),
    [
      [0, ['object_persistence']],
      [10, ['object_persistence']],
    ],
  );
});

test(
  'a probe without scores is never a 0: it fails the job, or is reported and the training goes on',
  { timeout },
  async () => {
    const unknown = { ...probe, heldOutReward: 'nobody' };
    const failed = await run('no scores', { steps: 6, probe: unknown });
    assert.equal(failed.state, JobState.FAILED);
    assert.equal(reasonOf(failed), 'PROBE_FAILED');
    assert.match(failed.error?.message ?? '', /nobody.*on_error/s);

    const went = await run('went on', { steps: 6, probe: { ...unknown, onError: 'continue' } });
    assert.equal(went.state, JobState.SUCCEEDED);
    assert.deepEqual(
      went.probes.map(({ step, heldOut, error }) => [step, heldOut, error === undefined]),
      [0, 5, 6].map((step) => [step, undefined, false]),
    );
  },
);

test('a reward service that restarts costs a probe time and nothing else', { timeout }, async () => {
  await reward.kill();
  const id = await createJob('restart', specOf({ probe }));
  reward = await startReward(reward.address);
  const { job } = await watch(id);
  assert.equal(job?.manifest?.sha256, stopped.manifest?.sha256);
});

test('a probe of prompts that are trained on is refused with the prompt', { timeout }, async () => {
  const job = await run('leak', {
    probe: { ...probe, prompts: [...probe.prompts, { id: 'held/2', text: 'The red  ball falls' }] },
  });
  assert.equal(job.state, JobState.FAILED);
  assert.match(job.error?.message ?? '', /spec\.probe\.prompts\[2\]\.text/);
});
