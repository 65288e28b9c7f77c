import assert from 'node:assert/strict';
import { mkdir, mkdtemp, readdir, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { after, before, test } from 'node:test';
import { create } from '@bufbuild/protobuf';
import type { MessageInitShape } from '@bufbuild/protobuf';
import { decodeAdapters, decodeModel, encodeModel, mergeAdapters } from '@plumb/diffusion';
import { fromStatus, PlumbError } from '@plumb/kit/errors';
import { createClient } from '@plumb/kit/rpc';
import type { RpcClient } from '@plumb/kit/rpc';
import { startNatsServer } from '@plumb/kit/testing/nats-server';
import type { TestNatsServer } from '@plumb/kit/testing/nats-server';
import { openFolderStore } from '@plumb/media';
import type { ArtifactStore } from '@plumb/media';
import type { ModelVersion } from '@plumb/proto/plumb/models/v1/model_pb.js';
import type {
  AdaptersSchema,
  JobSpecSchema,
  ObjectiveSchema,
  OptimisationSchema,
} from '@plumb/proto/plumb/trainer/v1/trainer_pb.js';
import { JobState, ProbeSchema, TrainerService } from '@plumb/proto/plumb/trainer/v1/trainer_pb.js';
import type { Job } from '@plumb/proto/plumb/trainer/v1/trainer_pb.js';
import { childrenOf, startService } from './support/service-process.ts';
import type { ServiceProcess } from './support/service-process.ts';
import { smallModel, storeDataSet, storeModel } from './support/small-world.ts';

const steps = 60;

let folder: string;
let nats: TestNatsServer;
let artifacts: ArtifactStore;
let base: ModelVersion;
let dataSet: { uri: string; sha256: string };
let trainer: ServiceProcess;
let client: RpcClient<typeof TrainerService>;
/** The job that nothing disturbed. */
let calm: Job;

const start = (listen = '127.0.0.1:0'): Promise<ServiceProcess> =>
  startService('trainer', {
    PLUMB_LISTEN: listen,
    PLUMB_NATS_URL: nats.url,
    PLUMB_ARTIFACTS: path.join(folder, 'artifacts'),
    PLUMB_INTRA_OP_THREADS: '1',
  });

before(async () => {
  folder = await mkdtemp(path.join(tmpdir(), 'plumb-trainer-'));
  nats = await startNatsServer();
  artifacts = await openFolderStore(path.join(folder, 'artifacts'));
  base = await storeModel(artifacts, smallModel('trainer'));
  const { uri, sha256 } = await storeDataSet(artifacts, base, { samplesPerPrompt: 6 });
  dataSet = { uri, sha256 };
  trainer = await start();
  client = createClient(TrainerService, trainer.address, { waitForReady: true });
});

after(async () => {
  client.close();
  await trainer.stop();
  await nats.stop();
  await rm(folder, { recursive: true, force: true });
});

function specOf(
  options: {
    objective?: MessageInitShape<typeof ObjectiveSchema>;
    optimisation?: MessageInitShape<typeof OptimisationSchema>;
    dataSet?: { uri: string; sha256: string };
    adapters?: MessageInitShape<typeof AdaptersSchema>;
  } = {},
): MessageInitShape<typeof JobSpecSchema> {
  return {
    dataSet: options.dataSet ?? dataSet,
    base,
    objective: { algorithm: 'rwr', reward: 'aif', ...options.objective } as MessageInitShape<
      typeof ObjectiveSchema
    >,
    optimisation: {
      steps,
      batchSize: 4,
      learningRate: 1e-3,
      emaDecay: 0.9,
      captionDropout: 0.1,
      checkpointEverySteps: 7,
      ...options.optimisation,
    } as MessageInitShape<typeof OptimisationSchema>,
    ...(options.adapters === undefined ? {} : { adapters: options.adapters }),
    seed: 7n,
    runId: 'run-test',
  };
}

async function createJob(idempotencyKey: string, spec = specOf()): Promise<string> {
  return (await client.createJob({ spec, idempotencyKey })).job?.id ?? '';
}

/** Watches a job until a step, or until it has ended; gives its points and its last record. */
async function watch(
  id: string,
  options: { afterStep?: number; untilStep?: number } = {},
): Promise<{ points: Map<number, number>; job: Job | undefined }> {
  const points = new Map<number, number>();
  let job: Job | undefined;
  for await (const { event } of client.watchJob({ id, afterStep: options.afterStep ?? 0 })) {
    if (event.case === 'job') job = event.value;
    if (event.case !== 'progress') continue;
    assert.ok(!points.has(event.value.step), `step ${event.value.step} came twice`);
    points.set(event.value.step, event.value.loss);
    if (event.value.step >= (options.untilStep ?? Infinity)) break;
  }
  return { points, job };
}

const range = (from: number, to: number): number[] =>
  Array.from({ length: to - from + 1 }, (_, index) => from + index);
const artifactCount = async (): Promise<number> =>
  (await readdir(path.join(folder, 'artifacts'), { recursive: true, withFileTypes: true })).filter((entry) =>
    entry.isFile(),
  ).length;
const reasonOf = (job: Job | undefined): string =>
  job?.error === undefined ? '' : fromStatus(job.error).reason;

test('a job trains a model, streams every step, and leaves a manifest', { timeout: 60_000 }, async () => {
  const id = await createJob('calm');
  const { points, job } = await watch(id);
  assert.deepEqual([...points.keys()], range(1, steps));
  assert.equal(job?.state, JobState.SUCCEEDED);
  assert.equal(job.step, steps);
  assert.equal(job.dataSetSummary?.samples, 24);
  assert.ok(job.dataSetSummary.largestWeight > 1 && job.dataSetSummary.cappedWeights === 0);
  assert.ok(job.checkpoint !== undefined && job.manifest !== undefined);
  assert.notEqual(job.checkpoint.sha256, base.weights?.sha256);
  decodeModel(await artifacts.get(job.checkpoint.uri, job.checkpoint.sha256), 'the checkpoint');
  const manifest: unknown = JSON.parse(
    new TextDecoder().decode(await artifacts.get(job.manifest.uri, job.manifest.sha256)),
  );
  assert.ok(typeof manifest === 'object' && manifest !== null && 'result' in manifest);
  assert.deepEqual(manifest.result, { sha256: job.checkpoint.sha256 });
  calm = job;
});

test(
  'SIGKILL in the middle: the job goes on and ends bit for bit the same',
  { timeout: 60_000 },
  async () => {
    const id = await createJob('killed');
    const { points: seen } = await watch(id, { untilStep: 16 });
    await trainer.kill();
    trainer = await start(trainer.address);
    const last = Math.max(...seen.keys());
    const { points: rest, job } = await watch(id, { afterStep: last });
    assert.deepEqual([...rest.keys()], range(last + 1, steps));
    assert.equal(job?.checkpoint?.sha256, calm.checkpoint?.sha256);
    assert.equal(job?.manifest?.sha256, calm.manifest?.sha256);
    const whole = await watch(id);
    assert.deepEqual(whole.points, (await watch(calm.id)).points);
    for (const [step, loss] of [...seen, ...rest]) assert.equal(whole.points.get(step), loss);
  },
);

test('a killed engine costs a job nothing but time', { timeout: 60_000 }, async () => {
  const id = await createJob('crashed');
  await watch(id, { untilStep: 16 });
  for (const pid of await childrenOf(trainer.pid)) process.kill(pid, 'SIGKILL');
  const { job } = await watch(id, { afterStep: 16 });
  assert.equal(job?.checkpoint?.sha256, calm.checkpoint?.sha256);
});

test('a stopped trainer takes a checkpoint, and the next one begins there', { timeout: 60_000 }, async () => {
  const id = await createJob('stopped');
  await watch(id, { untilStep: 9 });
  assert.equal(await trainer.stop(), 0);
  trainer = await start(trainer.address);
  const { job } = await watch(id, { afterStep: 9 });
  assert.equal(job?.checkpoint?.sha256, calm.checkpoint?.sha256);
  assert.equal(job?.manifest?.sha256, calm.manifest?.sha256);
});

test(
  'a job that does not run its reference probes the distance to it, and stops at its limit',
  { timeout: 60_000 },
  async () => {
    const probed: Record<number, number> = {};
    for await (const { event } of client.watchJob({ id: calm.id })) {
      if (event.case !== 'progress' || event.value.anchorDistance === undefined) continue;
      probed[event.value.step] = event.value.anchorDistance;
    }
    assert.deepEqual(Object.keys(probed).map(Number), [10, 20, 30, 40, 50, 60]);
    assert.ok((probed[10] ?? 0) > 0 && (probed[60] ?? 0) > (probed[10] ?? 0), JSON.stringify(probed));

    const maxAnchorDistance = (probed[20] ?? 0) / 2 + (probed[30] ?? 0) / 2;
    const { points, job } = await watch(
      await createJob('far', specOf({ optimisation: { maxAnchorDistance, anchorEverySteps: 5 } })),
    );
    assert.equal(job?.state, JobState.FAILED);
    assert.equal(reasonOf(job), 'TRAINING_DIVERGED');
    assert.match(job.error?.message ?? '', /max_anchor_distance/);
    assert.ok(job.checkpoint !== undefined, 'the last good checkpoint is kept');
    assert.ok(Math.max(...points.keys()) < 30);
  },
);

test(
  'a job trains adapters: its checkpoint is base and adapters merged; a rank that no matrix has fails it',
  { timeout: 60_000 },
  async () => {
    const few = { optimisation: { steps: 9 } };
    const { job } = await watch(await createJob('adapters', specOf({ ...few, adapters: { rank: 2 } })));
    assert.equal(job?.state, JobState.SUCCEEDED, reasonOf(job));
    assert.ok(job.checkpoint !== undefined && job.adapters !== undefined && base.weights !== undefined);
    const read = ({ uri, sha256 }: { uri: string; sha256: string }): Promise<Uint8Array> =>
      artifacts.get(uri, sha256);
    const adapters = decodeAdapters(await read(job.adapters), 'the adapters');
    assert.equal(adapters.base, base.weights.sha256);
    const merged = mergeAdapters(decodeModel(await read(base.weights), 'the base'), adapters);
    assert.deepEqual(Buffer.from(encodeModel(merged)), Buffer.from(await read(job.checkpoint)));
    assert.notEqual(job.checkpoint.sha256, base.weights.sha256);

    const { job: failed } = await watch(
      await createJob('too many', specOf({ ...few, adapters: { rank: 17 } })),
    );
    assert.equal(failed?.state, JobState.FAILED);
    assert.match(failed.error?.message ?? '', /spec\.adapters\.rank/);
    assert.equal(failed.checkpoint, undefined);
  },
);

test(
  'one key is one job; another spec under the key is refused with the field that differs',
  { timeout: 60_000 },
  async () => {
    assert.equal(await createJob('calm'), calm.id);
    await assert.rejects(
      createJob('calm', specOf({ optimisation: { learningRate: 2e-3 } })),
      (error: unknown) =>
        error instanceof PlumbError &&
        error.code === 'ALREADY_EXISTS' &&
        error.reason === 'IDEMPOTENCY_KEY_REUSED' &&
        error.message.includes('spec.optimisation.learning_rate'),
    );
    await assert.rejects(
      createJob('rank 0', specOf({ adapters: { rank: 0 } })),
      (error: unknown) =>
        error instanceof PlumbError && error.fieldViolations?.[0]?.field === 'spec.adapters.rank',
    );
    await assert.rejects(
      createJob('no reward service', {
        ...specOf(),
        probe: create(ProbeSchema, {
          prompts: [{ id: 'held', text: 'red ball' }],
          sampler: { steps: 4, guidance: 1, shift: 1 },
          everySteps: 10,
          heldOutReward: 'motion_floor',
        }),
      }),
      (error: unknown) =>
        error instanceof PlumbError &&
        error.code === 'FAILED_PRECONDITION' &&
        error.message.includes('PLUMB_REWARD_ADDRESS'),
    );
    await assert.rejects(
      createJob('bad', specOf({ optimisation: { steps: 0 }, objective: { algorithm: 'ppo' } })),
      (error: unknown) => {
        assert.ok(error instanceof PlumbError && error.code === 'INVALID_ARGUMENT');
        const fields = error.fieldViolations?.map(({ field }) => field) ?? [];
        assert.ok(
          fields.includes('spec.objective.algorithm') && fields.includes('spec.optimisation.steps'),
          fields.join(),
        );
        return true;
      },
    );
  },
);

test(
  'a job is cancelled within a step, and the next one in the queue begins',
  { timeout: 60_000 },
  async () => {
    const long = specOf({ optimisation: { steps: 1_000_000, checkpointEverySteps: 1_000_000 } });
    const first = await createJob('long', long);
    const second = await createJob('waiting', specOf({ optimisation: { steps: 5 } }));
    const third = await createJob('never', long);
    await watch(first, { untilStep: 5 });
    assert.equal((await client.getJob({ id: second })).job?.state, JobState.PENDING);
    assert.equal((await client.cancelJob({ id: third })).job?.state, JobState.CANCELLED);
    const cancelled = (await client.cancelJob({ id: first })).job;
    assert.equal(cancelled?.state, JobState.CANCELLED);
    const { points, job } = await watch(first);
    assert.equal(job?.step, cancelled.step);
    assert.equal(points.size, cancelled.step);
    assert.equal((await watch(second)).job?.state, JobState.SUCCEEDED);
    assert.equal((await client.cancelJob({ id: second })).job?.state, JobState.SUCCEEDED);
    const { jobs } = await client.listJobs({ runId: 'run-test' });
    assert.deepEqual(
      jobs.slice(-3).map(({ id }) => id),
      [first, second, third],
    );
  },
);

test('data sets that cannot be trained on end the job with a typed reason', { timeout: 60_000 }, async () => {
  const failureOf = async (
    key: string,
    spec: MessageInitShape<typeof JobSpecSchema>,
  ): Promise<Job | undefined> => {
    const before = await artifactCount();
    const { job } = await watch(await createJob(key, spec));
    assert.equal(job?.state, JobState.FAILED, key);
    assert.equal(job.checkpoint, undefined);
    assert.equal(await artifactCount(), before, `${key}: something was written`);
    return job;
  };
  const oneClass = await storeDataSet(artifacts, base, { samplesPerPrompt: 2, label: () => 1 });
  const dpo = { algorithm: 'dpo', reward: 'aif' };
  assert.equal(
    reasonOf(await failureOf('one class', specOf({ dataSet: oneClass, objective: dpo }))),
    'DATASET_UNUSABLE',
  );

  // JSON has no NaN; a number that is too large for a double is how one that is not finite gets in.
  const notFinite = await artifacts.put(
    new TextEncoder().encode(JSON.stringify(oneClass.manifest).replace('"value":1', '"value":1e999')),
    { mediaType: 'application/json' },
  );
  const invalid = await failureOf('not finite', specOf({ dataSet: notFinite }));
  assert.equal(reasonOf(invalid), 'DATASET_UNUSABLE');
  assert.match(invalid?.error?.message ?? '', /scores/);

  const tampered = await storeDataSet(artifacts, base, { samplesPerPrompt: 3, seed: 'tampered' });
  const clip = tampered.manifest.samples.at(-1)?.video.sha256 ?? '';
  await writeFile(path.join(folder, 'artifacts', 'sha256', clip.slice(0, 2), clip), 'something else');
  const damaged = await failureOf('tampered', specOf({ dataSet: tampered }));
  assert.equal(damaged?.error === undefined ? '' : fromStatus(damaged.error).code, 'DATA_LOSS');
  assert.match(damaged?.error?.message ?? '', /clip of sample/);

  const other = 'ab'.repeat(32);
  await mkdir(path.join(folder, 'artifacts', 'sha256', 'ab'), { recursive: true });
  await writeFile(path.join(folder, 'artifacts', 'sha256', 'ab', other), JSON.stringify(oneClass.manifest));
  const mismatched = await failureOf(
    'another manifest',
    specOf({ dataSet: { uri: `artifact:sha256/${other}`, sha256: other } }),
  );
  assert.match(mismatched?.error?.message ?? '', /data set manifest.*abab.*is damaged.*make it again/);

  const unknown = await failureOf('unknown reward', specOf({ objective: { reward: 'clip-score' } }));
  assert.match(unknown?.error?.message ?? '', /clip-score/);
});

test('a job that diverges fails with the last good checkpoint', { timeout: 60_000 }, async () => {
  const id = await createJob(
    'diverges',
    specOf({
      objective: { algorithm: 'dpo' },
      optimisation: { learningRate: 0.05, checkpointEverySteps: 1, maxAnchorDistance: 0.5 },
    }),
  );
  const { job } = await watch(id);
  assert.equal(job?.state, JobState.FAILED);
  assert.equal(reasonOf(job), 'TRAINING_DIVERGED');
  assert.ok(job.checkpoint !== undefined);
  decodeModel(await artifacts.get(job.checkpoint.uri, job.checkpoint.sha256), 'the last good checkpoint');
});
