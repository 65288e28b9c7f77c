import assert from 'node:assert/strict';
import { mkdtemp, readFile, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { after, before, test } from 'node:test';
import { createClient } from '@plumb/kit/rpc';
import type { RpcClient } from '@plumb/kit/rpc';
import { startNatsServer } from '@plumb/kit/testing/nats-server';
import type { TestNatsServer } from '@plumb/kit/testing/nats-server';
import { openFolderStore } from '@plumb/media';
import { LoopService, RunState } from '@plumb/proto/plumb/loop/v1/loop_pb.js';
import { ModelRegistryService } from '@plumb/proto/plumb/loop/v1/model_registry_pb.js';
import { Event as EventModel } from 'kubernetes-models/events.k8s.io/v1/Event';
import { startPeers } from '../services/loop/testing/protocol-peers.ts';
import type { ProtocolPeers } from '../services/loop/testing/protocol-peers.ts';
import { modelFixture } from '../services/loop/testing/run-spec-fixture.ts';
import { checkedBy, commonKinds, startKubernetesApi } from './support/kubernetes-api/api-server.ts';
import type { KubernetesApi } from './support/kubernetes-api/api-server.ts';
import type { StoredObject } from './support/kubernetes-api/object-store.ts';
import { startService } from './support/service-process.ts';
import type { ServiceProcess } from './support/service-process.ts';

const objects = 'plumb/feedbackruns';
const objectsPath = '/apis/plumb.dev/v1alpha1/namespaces/plumb/feedbackruns';
const kinds = [
  ...commonKinds.map((kind) => (kind.kind === 'Event' ? { ...kind, invalid: checkedBy(EventModel) } : kind)),
  { group: 'plumb.dev', version: 'v1alpha1', plural: 'feedbackruns', kind: 'FeedbackRun', status: true },
];

let folder: string;
let nats: TestNatsServer;
let peers: ProtocolPeers;
let api: KubernetesApi;
let loop: ServiceProcess;
let client: RpcClient<typeof LoopService>;
let model: string;
let promptSet: unknown;

const environment = (): Record<string, string> => ({
  PLUMB_NATS_URL: nats.url,
  PLUMB_ARTIFACTS: path.join(folder, 'artifacts'),
  PLUMB_DATABASE_URL: `pglite:${path.join(folder, 'ledger')}`,
  PLUMB_TRAINER_ADDRESS: peers.trainerAddress,
  PLUMB_FEEDBACK_RUNS: 'true',
  PLUMB_POD_NAME: 'loop-0',
  PLUMB_POD_NAMESPACE: 'plumb',
  PLUMB_KUBECONFIG: path.join(folder, 'kubeconfig'),
});

async function startLoop(): Promise<void> {
  loop = await startService('loop', environment());
  client = createClient(LoopService, loop.address, { waitForReady: true });
}

before(async () => {
  folder = await mkdtemp(path.join(tmpdir(), 'plumb-feedback-run-'));
  nats = await startNatsServer();
  peers = await startPeers({ natsUrl: nats.url, artifacts: path.join(folder, 'artifacts') });
  api = await startKubernetesApi(kinds);
  await api.writeKubeconfig(path.join(folder, 'kubeconfig'));
  promptSet = JSON.parse(await readFile(new URL('../prompts/toybox.json', import.meta.url), 'utf8'));
  const store = await openFolderStore(path.join(folder, 'artifacts'));
  // The peers know the base model by a hash that begins with an `a`.
  let weights = '';
  for (let salt = 0; !weights.startsWith('a'); salt += 1) {
    const bytes = Buffer.from(`weights ${salt}`);
    ({ sha256: weights } = await store.put(bytes, { mediaType: 'application/octet-stream' }));
  }
  await startLoop();
  const registry = createClient(ModelRegistryService, loop.address, { waitForReady: true });
  const modelVersion = modelFixture(weights);
  await registry.createModelVersion({ modelVersion, idempotencyKey: 'base' });
  await registry.promoteModelVersion({
    version: modelVersion.version,
    reason: 'first',
    idempotencyKey: 'base',
  });
  registry.close();
  model = 'toy@promoted';
});

after(async () => {
  client.close();
  await loop.stop();
  await peers.stop();
  await api.stop();
  await nats.stop();
  await rm(folder, { recursive: true, force: true });
});

/** A small valid spec. */
const spec = (change: Record<string, unknown> = {}): Record<string, unknown> => ({
  model,
  prompts: { set: promptSet, trainPerCategory: 1, heldoutPerCategory: 1 },
  samplesPerPrompt: 2,
  optimisation: { steps: 3, batchSize: 2, learningRate: 1e-4 },
  evaluation: { samplesPerPrompt: 2 },
  ...change,
});

/** As kubectl apply: makes an object, or gives it another spec. */
function apply(name: string, wanted: Record<string, unknown>): StoredObject {
  const standing = api.store.list(objects).find(({ metadata }) => metadata.name === name);
  return standing === undefined
    ? api.store.create(objects, {
        metadata: { name, namespace: 'plumb' } as StoredObject['metadata'],
        spec: wanted,
      })
    : api.store.replace(objects, { ...standing, spec: wanted }, 'main');
}

const statusOf = (name: string) => api.store.get(objects, name)['status'];
const conditionOf = (name: string, type: string) =>
  statusOf(name)?.conditions?.find((condition: { type: string }) => condition.type === type);
const eventsOf = (name: string): string[] =>
  api.store
    .list('plumb/events')
    .filter((event) => event['regarding'].name === name)
    .map((event) => `${event['type']} ${event['reason']}`);

/** Waits for a condition that no event announces. */
async function until(holds: () => boolean): Promise<void> {
  while (!holds()) await new Promise((resolve) => setTimeout(resolve, 20));
}

const timeout = 600_000;

test('kubectl apply makes a run; the status follows it to its end', { timeout }, async () => {
  const { metadata } = apply('whole', spec());
  await until(() => conditionOf('whole', 'Succeeded')?.status === 'True');
  const status = statusOf('whole');
  assert.equal(status.state, 'Succeeded');
  assert.equal(status.observedGeneration, 1);
  assert.equal(status.iteration, '1/1');
  assert.match(status.acceptance, /^\d+\.\d% -> \d+\.\d%$/);
  assert.equal(conditionOf('whole', 'Accepted').status, 'True');
  assert.equal(conditionOf('whole', 'Progressing').status, 'False');
  const { run } = await client.getRun({ id: status.runId });
  assert.equal(run?.state, RunState.SUCCEEDED);
  assert.equal(run.idempotencyKey, `feedbackrun.plumb.${metadata.uid}`);
  assert.equal(run.spec?.name, 'whole');
  assert.equal(status.currentModel, run.currentModelVersion);
  await until(() => eventsOf('whole').includes('Normal RunSucceeded'));
  assert.equal(eventsOf('whole').filter((event) => event === 'Normal RunCreated').length, 1);
  if (process.env['PLUMB_TEST_LOGS'] === '1') {
    process.stdout.write(
      `${JSON.stringify([api.store.get(objects, 'whole'), api.store.list('plumb/events')])}\n`,
    );
  }
});

test(
  'a bad spec is a condition with the field and the fix, and an event; mended, it runs',
  { timeout },
  async () => {
    apply('bad', spec({ iterations: 0, model: 'weights.safetensors' }));
    await until(() => conditionOf('bad', 'Accepted')?.status === 'False');
    assert.equal(statusOf('bad').state, 'Refused');
    assert.equal(conditionOf('bad', 'Accepted').reason, 'SpecRefused');
    assert.match(conditionOf('bad', 'Accepted').message, /spec\.iterations.*at least 1/);
    assert.match(conditionOf('bad', 'Accepted').message, /spec\.model.*toybox@promoted/);
    await until(() => eventsOf('bad').includes('Warning SpecRefused'));

    // What fields say together, and names that nobody knows, are found by the loop.
    apply('bad', spec({ optimisation: { steps: 3, batchSize: 64, learningRate: 1e-4 } }));
    await until(() => /batch_size.*64 is more than/.test(conditionOf('bad', 'Accepted').message));
    apply('bad', spec({ model: 'nobody@promoted' }));
    await until(() => /nobody@promoted/.test(conditionOf('bad', 'Accepted').message));

    apply('bad', spec({ seed: 5 }));
    await until(() => conditionOf('bad', 'Accepted').status === 'True');
    assert.equal(conditionOf('bad', 'Accepted').observedGeneration, 4);
    await until(() => statusOf('bad').state === 'Succeeded');
  },
);

test(
  'paused and resumed by the spec; another spec is refused while the run goes on',
  { timeout },
  async () => {
    peers.behaviour.clipMs = 50;
    apply('steered', spec({ seed: 6 }));
    await until(() => statusOf('steered')?.state === 'Running');
    apply('steered', spec({ seed: 6, paused: true }));
    await until(() => statusOf('steered').state === 'Paused');
    const id: string = statusOf('steered').runId;
    assert.equal(conditionOf('steered', 'Paused').reason, 'Requested');
    assert.equal((await client.getRun({ id })).run?.state, RunState.PAUSED);
    assert.equal(statusOf('steered').observedGeneration, 2);

    apply('steered', spec({ seed: 7, paused: true }));
    await until(() => conditionOf('steered', 'Accepted').reason === 'SpecChanged');
    assert.match(conditionOf('steered', 'Accepted').message, /spec\.seed is "6" in run .* and "7" here/);
    apply('steered', spec({ seed: 6 }));
    await until(() => statusOf('steered').state === 'Running');
    assert.equal(conditionOf('steered', 'Accepted').status, 'True');

    // Paused by somebody else: the object does not undo it, and says so.
    await client.pauseRun({ id });
    await until(() => conditionOf('steered', 'Paused').reason === 'PausedElsewhere');
    await client.resumeRun({ id });
    peers.behaviour.clipMs = 0;
    await until(() => statusOf('steered').state === 'Succeeded');
  },
);

test(
  'a killed loop adopts the runs of its objects, also of one that was deleted meanwhile',
  { timeout },
  async () => {
    peers.behaviour.clipMs = 50;
    apply('adopted', spec({ seed: 8 }));
    apply('deleted', spec({ seed: 9 }));
    apply('cancelled', spec({ seed: 10 }));
    const running = (): boolean =>
      ['adopted', 'deleted', 'cancelled'].every((name) => statusOf(name)?.state === 'Running');
    await until(running);
    const ids = Object.fromEntries(
      ['adopted', 'deleted', 'cancelled'].map((name) => [name, String(statusOf(name).runId)]),
    );
    const stateOf = async (name: string): Promise<RunState | undefined> =>
      (await client.getRun({ id: ids[name] ?? '' })).run?.state;
    // Deleted while the loop looks: the run is cancelled, and the object goes at once.
    api.store.remove(objects, 'cancelled');
    while ((await stateOf('cancelled')) !== RunState.CANCELLED)
      await new Promise((resolve) => setTimeout(resolve, 50));

    client.close();
    await loop.kill();
    api.store.remove(objects, 'deleted');
    await startLoop();
    while ((await stateOf('deleted')) !== RunState.CANCELLED)
      await new Promise((resolve) => setTimeout(resolve, 50));
    peers.behaviour.clipMs = 0;
    await until(() => statusOf('adopted').state === 'Succeeded');
    assert.equal(statusOf('adopted').runId, ids['adopted']);
    const { runs } = await client.listRuns({});
    assert.equal(runs.filter(({ spec: made }) => made?.name === 'adopted').length, 1);
  },
);

test(
  'the API server cuts, forgets, conflicts and is away: no run is made twice or lost',
  { timeout },
  async () => {
    const { runs: before } = await client.listRuns({});
    await until(() => api.watches > 0);
    // 410: objects come and go while nobody watches, and the history of it is forgotten.
    api.cutOff('test');
    apply('unseen', spec({ seed: 11 }));
    api.store.compact();
    const { broken } = api;
    await until(() => api.broken > broken);
    api.cutOff();
    await until(() => statusOf('unseen')?.state === 'Succeeded');

    // 409: somebody changes the object between the look and the write, again and again.
    peers.behaviour.clipMs = 20;
    apply('contended', spec({ seed: 12 }));
    let conflicts = 0;
    api.forbid = (verb, at) => {
      if (verb === 'PUT' && at.endsWith('/contended/status') && conflicts < 5) {
        conflicts += 1;
        const standing = api.store.get(objects, 'contended');
        const annotations = { touched: String(conflicts) };
        api.store.replace(objects, { ...standing, metadata: { ...standing.metadata, annotations } }, 'main');
      }
      return false;
    };
    await until(() => conflicts === 5 && eventsOf('contended').includes('Normal RunCreated'));
    api.forbid = undefined;
    assert.equal(api.store.get(objects, 'contended').metadata.annotations?.['touched'], '5');

    // Away while the run goes on and ends; the status catches up.
    await api.goAway();
    peers.behaviour.clipMs = 0;
    const id: string = statusOf('contended').runId;
    while ((await client.getRun({ id })).run?.state !== RunState.SUCCEEDED)
      await new Promise((resolve) => setTimeout(resolve, 50));
    await api.comeBack();
    await until(() => statusOf('contended').state === 'Succeeded');
    assert.equal(eventsOf('contended').filter((event) => event === 'Normal RunCreated').length, 1);
    const { runs } = await client.listRuns({});
    assert.equal(runs.length, before.length + 2);
  },
);

test(
  'a cluster without the definition, and one without the right, end the loop with the fix',
  { timeout },
  async () => {
    client.close();
    await loop.stop();
    const end = async (says: RegExp): Promise<void> => {
      await startLoop();
      await until(() => loop.log().includes('the service cannot go on'));
      assert.match(loop.log(), says);
      client.close();
      assert.equal(await loop.stop(), 1);
    };
    api.forbid = (_verb, at) => at === objectsPath;
    await end(/Kubernetes answers 403.*give the service account that right/);
    api.forbid = undefined;
    const bare = await startKubernetesApi(commonKinds);
    await bare.writeKubeconfig(path.join(folder, 'kubeconfig'));
    await end(/has no FeedbackRun.*apply charts\/plumb\/crds\/feedbackruns\.yaml/);
    await bare.stop();
    await api.writeKubeconfig(path.join(folder, 'kubeconfig'));
    await startLoop();
  },
);
