import assert from 'node:assert/strict';
import { createHash } from 'node:crypto';
import { mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { after, before, test } from 'node:test';
import type { MessageInitShape } from '@bufbuild/protobuf';
import { fromStatus } from '@plumb/kit/errors';
import { createClient } from '@plumb/kit/rpc';
import type { RpcClient } from '@plumb/kit/rpc';
import { startNatsServer } from '@plumb/kit/testing/nats-server';
import type { TestNatsServer } from '@plumb/kit/testing/nats-server';
import { openFolderStore } from '@plumb/media';
import type { ArtifactStore } from '@plumb/media';
import type { ModelVersion } from '@plumb/proto/plumb/models/v1/model_pb.js';
import { JobState, TrainerService } from '@plumb/proto/plumb/trainer/v1/trainer_pb.js';
import type { Job, JobSpecSchema } from '@plumb/proto/plumb/trainer/v1/trainer_pb.js';
import { Job as JobModel } from 'kubernetes-models/batch/v1/Job';
import { checkedBy, commonKinds, startKubernetesApi } from './support/kubernetes-api/api-server.ts';
import type { KubernetesApi } from './support/kubernetes-api/api-server.ts';
import { lives, startJobController } from './support/kubernetes-api/job-controller.ts';
import type { JobController, PodLife } from './support/kubernetes-api/job-controller.ts';
import type { StoredObject } from './support/kubernetes-api/object-store.ts';
import { startService } from './support/service-process.ts';
import type { ServiceProcess } from './support/service-process.ts';
import { smallModel, storeDataSet, storeModel } from './support/small-world.ts';

const steps = 240;
const namespace = 'plumb';
const jobs = `${namespace}/jobs`;
const root = path.resolve(import.meta.dirname, '..');

let folder: string;
let nats: TestNatsServer;
let artifacts: ArtifactStore;
let base: ModelVersion;
let dataSet: { uri: string; sha256: string };
let api: KubernetesApi;
let cluster: JobController;
let trainer: ServiceProcess;
let client: RpcClient<typeof TrainerService>;
/** What the trainer's own engine makes of the job. */
let calm: Job;
/** The lives of the next job's pods, by the id of the job. */
const scripts = new Map<string, readonly PodLife[]>();
let nextScript: readonly PodLife[] = [];

const kinds = [
  ...commonKinds.map((kind) => (kind.kind === 'Job' ? { ...kind, invalid: checkedBy(JobModel) } : kind)),
  { group: 'trainer.kubeflow.org', version: 'v1alpha1', plural: 'trainjobs', kind: 'TrainJob', status: true },
];

/** Settings of the trainer and of its pods alike. */
const shared = (): Record<string, string> => ({
  PLUMB_NATS_URL: nats.url,
  PLUMB_ARTIFACTS: path.join(folder, 'artifacts'),
  PLUMB_INTRA_OP_THREADS: '1',
});

const start = (more: Record<string, string> = {}): Promise<ServiceProcess> =>
  startService('trainer', {
    ...shared(),
    PLUMB_TRAINING_BACKEND: 'kubernetes-job',
    PLUMB_KUBECONFIG: path.join(folder, 'kubeconfig'),
    PLUMB_TRAINING_POD_TEMPLATE: path.join(folder, 'template.json'),
    PLUMB_TRAINING_OWNER: 'Deployment/trainer',
    PLUMB_TRAINING_BACKOFF_LIMIT: '2',
    PLUMB_TRAINING_IMAGE_DEADLINE_SECONDS: '1',
    ...more,
  });

/** Exchanges the trainer for one with other settings, on another port. */
async function restart(more: Record<string, string> = {}): Promise<void> {
  client.close();
  await trainer.stop();
  trainer = await start(more);
  client = createClient(TrainerService, trainer.address, { waitForReady: true });
}

before(async () => {
  folder = await mkdtemp(path.join(tmpdir(), 'plumb-training-cluster-'));
  nats = await startNatsServer();
  artifacts = await openFolderStore(path.join(folder, 'artifacts'));
  base = await storeModel(artifacts, smallModel('cluster'));
  const { uri, sha256 } = await storeDataSet(artifacts, base, { samplesPerPrompt: 4 });
  dataSet = { uri, sha256 };
  api = await startKubernetesApi(kinds);
  api.store.create(`${namespace}/deployments`, {
    metadata: { name: 'trainer' } as StoredObject['metadata'],
    spec: {},
  });
  await api.writeKubeconfig(path.join(folder, 'kubeconfig'));
  await writeFile(
    path.join(folder, 'template.json'),
    JSON.stringify({
      metadata: { labels: { team: 'video' } },
      spec: {
        tolerations: [{ key: 'nvidia.com/gpu', operator: 'Exists', effect: 'NoSchedule' }],
        containers: [
          {
            name: 'trainer',
            image: 'plumb/trainer:test',
            command: [process.execPath, path.join(root, 'services/trainer/job.ts')],
            env: Object.entries(shared()).map(([name, value]) => ({ name, value })),
            resources: { limits: { 'nvidia.com/gpu': 1 } },
          },
        ],
      },
    }),
  );
  cluster = startJobController(api, {
    namespace,
    lifeOf: (job, attempt) => {
      const id = job.metadata.labels?.['plumb.dev/job-id'] ?? '';
      const script = scripts.get(id) ?? nextScript;
      scripts.set(id, script);
      return script[attempt] ?? lives.real;
    },
  });
  trainer = await start({ PLUMB_TRAINING_BACKEND: 'local' });
  client = createClient(TrainerService, trainer.address, { waitForReady: true });
  const { job } = await watch(await createJob('calm'));
  assert.ok(job?.checkpoint !== undefined);
  calm = job;
  await restart();
});

after(async () => {
  client.close();
  await trainer.stop();
  await cluster.stop();
  await api.stop();
  await nats.stop();
  await rm(folder, { recursive: true, force: true });
});

function specOf(
  change: Partial<MessageInitShape<typeof JobSpecSchema>> = {},
): MessageInitShape<typeof JobSpecSchema> {
  return {
    dataSet,
    base,
    objective: { algorithm: 'rwr', reward: 'aif' },
    optimisation: { steps, batchSize: 4, learningRate: 1e-3, emaDecay: 0.9, checkpointEverySteps: 20 },
    seed: 7n,
    runId: 'run-test',
    iteration: 1,
    ...change,
  } as MessageInitShape<typeof JobSpecSchema>;
}

async function createJob(
  idempotencyKey: string,
  spec = specOf(),
  script: readonly PodLife[] = [],
): Promise<string> {
  nextScript = script;
  return (await client.createJob({ spec, idempotencyKey })).job?.id ?? '';
}

interface Watched {
  readonly points: Map<number, number>;
  /** Phases of the cluster, in the order in which they were told. */
  readonly phases: string[];
  readonly job: Job | undefined;
}

/** Watches a job to its end, or until something holds. */
async function watch(id: string, until: (seen: Watched) => boolean = () => false): Promise<Watched> {
  const points = new Map<number, number>();
  const phases: string[] = [];
  let job: Job | undefined;
  for await (const { event } of client.watchJob({ id })) {
    if (event.case === 'job') {
      job = event.value;
      const phase = job.placement?.phase ?? '';
      if (phase !== '' && phases.at(-1) !== phase) phases.push(phase);
    } else if (event.case === 'progress') {
      assert.ok(!points.has(event.value.step), `step ${event.value.step} came twice`);
      points.set(event.value.step, event.value.loss);
    }
    if (until({ points, phases, job })) break;
  }
  return { points, phases, job };
}

/** Resolves when the job has done some steps. */
async function stepped(id: Promise<string>, step: number): Promise<void> {
  await watch(await id, ({ points }) => Math.max(0, ...points.keys()) >= step);
}

const objectOf = (id: string): StoredObject | undefined =>
  api.store.list(jobs).find(({ metadata }) => metadata.labels?.['plumb.dev/job-id'] === id);
const created = (): number =>
  api.requests.filter(({ verb, path }) => verb === 'POST' && path.endsWith('/jobs')).length;

function assertSame({ job, points }: Watched): void {
  assert.equal(job?.state, JobState.SUCCEEDED, JSON.stringify(job?.error?.message));
  assert.equal(job.checkpoint?.sha256, calm.checkpoint?.sha256);
  assert.deepEqual(
    [...points.keys()],
    Array.from({ length: steps }, (_, index) => index + 1),
  );
}

test('a job runs in a pod and ends bit for bit as in the trainer itself', { timeout: 300_000 }, async () => {
  const id = await createJob('pod');
  const watched = await watch(id);
  assertSame(watched);
  const object = objectOf(id);
  assert.equal(object?.metadata.name, `plumb-${id}`);
  assert.deepEqual(object['spec'].template.spec.tolerations?.[0]?.key, 'nvidia.com/gpu');
  assert.equal(object.metadata.labels?.['app.kubernetes.io/managed-by'], 'plumb-trainer');
  const owner = api.store.get(`${namespace}/deployments`, 'trainer').metadata.uid;
  assert.equal(object.metadata.ownerReferences?.[0]?.uid, owner);
  assert.equal(watched.job?.placement?.object, `${namespace}/plumb-${id}`);
});

test(
  'killed for memory, evicted and on a lost node: the job goes on each time, and the bits are the same',
  { timeout: 300_000 },
  async () => {
    const id = Promise.withResolvers<string>();
    id.resolve(
      await createJob('hard life', specOf(), [
        lives.outOfMemory,
        lives.evicted(stepped(id.promise, 21)),
        lives.nodeLost,
      ]),
    );
    const watched = await watch(await id.promise);
    assertSame(watched);
    const pods = api.store
      .list(`${namespace}/pods`)
      .filter(({ metadata }) => metadata.name.startsWith(`plumb-${watched.job?.id}`));
    assert.equal(pods.length, 4);
  },
);

test(
  'preempted by the scheduler, evicted by the kubelet and on a silent node: told as what it is, and the bits are the same',
  { timeout: 300_000 },
  async () => {
    const { promise: id, resolve } = Promise.withResolvers<string>();
    const told = async (phase: string): Promise<Watched> =>
      await watch(await id, ({ phases }) => phases.includes(phase));
    const preempted = told('preempted');
    const evicted = told('evicted');
    const lost = told('node-lost');
    resolve(
      await createJob('taken away', specOf(), [
        lives.evicted(
          stepped(id, 21),
          'PreemptionByScheduler',
          'preempting for a higher priority',
          preempted,
        ),
        lives.evictedByKubelet(stepped(id, 61), evicted),
        lives.nodeSilent(stepped(id, 101), lost),
      ]),
    );
    assertSame(await watch(await id));
    const messageOf = async (seen: Promise<Watched>): Promise<string> =>
      (await seen).job?.placement?.message ?? '';
    assert.match(await messageOf(preempted), /PreemptionByScheduler.*goes on from the last checkpoint/);
    assert.match(await messageOf(evicted), /was evicted: The node was low on resource/);
    assert.match(await messageOf(lost), /does not answer/);
    // None of it counts towards the backoff limit.
    const jobId = await id;
    // The pod records the end of the job; the cluster sees the pod end a moment later.
    await until(() => objectOf(jobId)?.['status']?.conditions?.[0]?.type === 'Complete');
  },
);

test('a killed trainer adopts the job that its cluster runs', { timeout: 300_000 }, async () => {
  const before = created();
  const id = await createJob('adopted');
  await stepped(Promise.resolve(id), 5);
  await trainer.kill();
  client.close();
  trainer = await start();
  client = createClient(TrainerService, trainer.address, { waitForReady: true });
  assertSame(await watch(id));
  assert.equal(created(), before + 1);
});

test('cancelling deletes the job and nothing else', { timeout: 300_000 }, async () => {
  const stranger = api.store.create(jobs, {
    metadata: {
      name: 'plumb-stranger',
      labels: { 'app.kubernetes.io/managed-by': 'plumb-trainer', 'plumb.dev/trainer': 'other' },
    } as unknown as StoredObject['metadata'],
    spec: { suspend: true, template: { spec: { containers: [] } } },
  });
  const id = await createJob('cancelled');
  await stepped(Promise.resolve(id), 5);
  const { job } = await client.cancelJob({ id });
  assert.equal(job?.state, JobState.CANCELLED);
  await until(() => objectOf(id) === undefined);
  assert.equal(api.store.get(jobs, 'plumb-stranger').metadata.uid, stranger.metadata.uid);
  const deleted = api.requests.filter(({ verb }) => verb === 'DELETE').map(({ path }) => path);
  assert.deepEqual(deleted, [`/apis/batch/v1/namespaces/plumb/jobs/plumb-${id}`]);
});

test(
  'a job whose name somebody else has taken is refused, and what bears the name stays',
  { timeout: 300_000 },
  async () => {
    const key = 'a name that is taken';
    const name = `plumb-job-${createHash('sha256').update(key).digest('hex').slice(0, 16)}`;
    const taken = api.store.create(jobs, {
      metadata: { name, labels: { team: 'another' } } as unknown as StoredObject['metadata'],
      spec: { suspend: true, template: { spec: { containers: [] } } },
    });
    const { job } = await watch(await createJob(key));
    assert.equal(`plumb-${job?.id}`, name);
    assert.equal(job?.state, JobState.FAILED);
    assert.ok(job.error !== undefined);
    const error = fromStatus(job.error);
    assert.equal(error.reason, 'JOB_CONFLICT');
    assert.match(error.message, new RegExp(`Job ${name} exists.*PLUMB_TRAINING_INSTANCE`));
    // Nobody touched it.
    assert.deepEqual(api.store.get(jobs, name), taken);
  },
);

test(
  'bad input fails the job at once, with the reason of the trainer itself',
  { timeout: 300_000 },
  async () => {
    const oneClass = await storeDataSet(artifacts, base, { samplesPerPrompt: 2, label: () => 1 });
    const id = await createJob(
      'bad input',
      specOf({ dataSet: oneClass, objective: { algorithm: 'dpo', reward: 'aif' } as never }),
    );
    const { job } = await watch(id);
    assert.equal(job?.state, JobState.FAILED);
    assert.ok(job.error !== undefined);
    assert.equal(fromStatus(job.error).reason, 'DATASET_UNUSABLE');
    await until(() => objectOf(id)?.['status']?.conditions?.[0]?.reason === 'PodFailurePolicy');
    assert.equal(objectOf(id)?.['status'].failed, 1);
  },
);

test('ends that no pod can record: image, backoff, deletion by somebody', { timeout: 300_000 }, async () => {
  const image = await watch(await createJob('image', specOf(), [lives.imageError]));
  assert.equal(image.job?.state, JobState.FAILED);
  assert.match(image.job.error?.message ?? '', /ImagePullBackOff.*pull secret/);
  assert.ok(image.phases.includes('image-error'), image.phases.join());
  await until(() => objectOf(image.job?.id ?? '') === undefined);

  const memory = await watch(
    await createJob('memory', specOf(), [lives.outOfMemory, lives.outOfMemory, lives.outOfMemory]),
  );
  assert.equal(memory.job?.state, JobState.FAILED);
  assert.match(memory.job.error?.message ?? '', /PLUMB_TRAINING_BACKOFF_LIMIT.*killed for memory/);

  const id = await createJob('deleted');
  await stepped(Promise.resolve(id), 5);
  api.store.remove(jobs, `plumb-${id}`);
  const { job } = await watch(id);
  assert.equal(job?.state, JobState.FAILED);
  assert.match(job.error?.message ?? '', /somebody deleted the job/);
});

test('the API server away, its watches cut and its history forgotten', { timeout: 300_000 }, async () => {
  await api.goAway();
  const id = await createJob('away');
  await watch(id, ({ phases }) => phases.includes('pending'));
  await api.comeBack();
  await stepped(Promise.resolve(id), 5);
  api.disconnect();
  api.store.compact();
  await until(() => api.watches >= 2);
  api.bookmark();
  // The job ends while nobody answers: its record is enough.
  await api.goAway();
  const watched = await watch(id);
  await api.comeBack();
  assertSame(watched);
});

test(
  'while the API server is away the cluster goes on: a pod is lost, another ends the job, and nothing of it is left to see',
  { timeout: 300_000 },
  async () => {
    const { promise: id, resolve } = Promise.withResolvers<string>();
    const before = created();
    resolve(
      await createJob('unseen', specOf(), [lives.evictedByKubelet(stepped(id, 41), Promise.resolve())]),
    );
    await stepped(id, 5);
    await api.goAway();
    const name = `plumb-${await id}`;
    await until(() => api.store.get(jobs, name)['status']?.conditions?.[0]?.type === 'Complete');
    // The cluster removes what has finished, and forgets what happened.
    api.store.remove(jobs, name);
    api.store.compact();
    await api.comeBack();
    assertSame(await watch(await id));
    assert.equal(created(), before + 1);
  },
);

test(
  'a deadline ends a job; one that has finished may be removed by the cluster and stays finished',
  { timeout: 300_000 },
  async () => {
    await restart({
      PLUMB_TRAINING_ACTIVE_DEADLINE_SECONDS: '3600',
      PLUMB_TRAINING_TTL_SECONDS: '60',
    });
    const late = await createJob('late');
    await stepped(Promise.resolve(late), 5);
    const spec: unknown = objectOf(late)?.['spec'];
    assert.partialDeepStrictEqual(spec, { activeDeadlineSeconds: 3600, ttlSecondsAfterFinished: 60 });
    cluster.exceedDeadline(`plumb-${late}`);
    const { job } = await watch(late);
    assert.equal(job?.state, JobState.FAILED);
    assert.match(
      job.error?.message ?? '',
      /longer than its deadline; raise PLUMB_TRAINING_ACTIVE_DEADLINE_SECONDS/,
    );

    const before = created();
    const id = await createJob('finished');
    assertSame(await watch(id));
    await until(() => objectOf(id)?.['status']?.conditions?.[0]?.type === 'Complete');
    api.store.remove(jobs, `plumb-${id}`);
    await restart();
    const { job: standing } = await client.getJob({ id });
    assert.equal(standing?.state, JobState.SUCCEEDED);
    assert.equal(standing.checkpoint?.sha256, calm.checkpoint?.sha256);
    assert.equal(created(), before + 1);
    assert.equal(objectOf(id), undefined);
  },
);

test(
  'in a queue of Kueue: suspended, admitted, preempted, admitted again',
  { timeout: 300_000 },
  async () => {
    await restart({ PLUMB_TRAINING_QUEUE: 'training', PLUMB_TRAINING_PRIORITY_CLASS: 'low' });
    const id = await createJob('queued');
    const { phases } = await watch(id, ({ phases }) => phases.includes('suspended'));
    assert.ok(phases.includes('suspended'), phases.join());
    const object = objectOf(id);
    assert.equal(object?.['spec'].suspend, true);
    assert.equal(object.metadata.labels?.['kueue.x-k8s.io/queue-name'], 'training');
    assert.equal(object.metadata.labels['kueue.x-k8s.io/priority-class'], 'low');
    const suspend = (to: boolean): void => {
      const standing = objectOf(id);
      if (standing !== undefined) {
        api.store.replace(jobs, { ...standing, spec: { ...standing['spec'], suspend: to } }, 'main');
      }
    };
    suspend(false);
    await stepped(Promise.resolve(id), 21);
    api.store.create(`${namespace}/workloads`, {
      metadata: {
        name: 'job-plumb',
        labels: { 'kueue.x-k8s.io/job-uid': object.metadata.uid },
      } as unknown as StoredObject['metadata'],
      status: {
        conditions: [
          { type: 'Evicted', status: 'True', reason: 'Preempted', message: 'to accommodate a workload' },
        ],
      },
    });
    // The status has a subresource of its own.
    const workload = api.store.get(`${namespace}/workloads`, 'job-plumb');
    workload['status'] = {
      conditions: [
        { type: 'Evicted', status: 'True', reason: 'Preempted', message: 'to accommodate a workload' },
      ],
    };
    suspend(true);
    const preempted = await watch(id, (seen) => seen.phases.includes('preempted'));
    assert.match(preempted.job?.placement?.message ?? '', /Kueue took its place away/);
    suspend(false);
    assertSame(await watch(id));
    await restart();
  },
);

test('Kubeflow: TrainJobs, and a sentence where there is no Kubeflow', { timeout: 300_000 }, async () => {
  const controller = startJobController(api, { namespace, plural: 'trainjobs', lifeOf: () => lives.real });
  await restart({ PLUMB_TRAINING_BACKEND: 'kubeflow', PLUMB_TRAINING_RUNTIME: 'plumb' });
  const id = await createJob('kubeflow');
  assertSame(await watch(id));
  const [object] = api.store.list(`${namespace}/trainjobs`);
  assert.equal(object?.['spec'].runtimeRef.name, 'plumb');
  await controller.stop();

  const bare = await startKubernetesApi(commonKinds);
  await bare.writeKubeconfig(path.join(folder, 'bare'));
  await assert.rejects(
    start({
      PLUMB_TRAINING_BACKEND: 'kubeflow',
      PLUMB_KUBECONFIG: path.join(folder, 'bare'),
      PLUMB_TRAINING_OWNER: '',
    }),
    /no Kubeflow Trainer.*set PLUMB_TRAINING_BACKEND to kubernetes-job/,
  );
  await bare.stop();
  await restart();
});

test(
  'a service account without rights ends the trainer with the right that it lacks',
  { timeout: 300_000 },
  async () => {
    api.forbid = (verb, path) => verb === 'GET' && path.endsWith('/deployments/trainer');
    await assert.rejects(start(), /reading Deployment trainer: Kubernetes answers 403/);
    api.forbid = undefined;
  },
);

/** Waits for a condition that no event announces. */
async function until(holds: () => boolean): Promise<void> {
  while (!holds()) await new Promise((resolve) => setTimeout(resolve, 20));
}
