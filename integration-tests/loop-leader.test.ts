import assert from 'node:assert/strict';
import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { after, before, test } from 'node:test';
import { createClient } from '@plumb/kit/rpc';
import type { RpcClient } from '@plumb/kit/rpc';
import { startNatsServer } from '@plumb/kit/testing/nats-server';
import type { TestNatsServer } from '@plumb/kit/testing/nats-server';
import { openFolderStore } from '@plumb/media';
import { LoopService, RunState } from '@plumb/proto/plumb/loop/v1/loop_pb.js';
import type { Run, RunSpec } from '@plumb/proto/plumb/loop/v1/loop_pb.js';
import { postgresMissing, startPostgres } from '../services/loop/testing/postgres-server.ts';
import { startPeers } from '../services/loop/testing/protocol-peers.ts';
import type { ProtocolPeers } from '../services/loop/testing/protocol-peers.ts';
import { modelFixture, specFixture } from '../services/loop/testing/run-spec-fixture.ts';
import { startKubernetesApi } from './support/kubernetes-api/api-server.ts';
import type { KubernetesApi } from './support/kubernetes-api/api-server.ts';
import { startService } from './support/service-process.ts';
import type { ServiceProcess } from './support/service-process.ts';

const timeout = 600_000;
const skip = postgresMissing ?? false;

let folder: string;
let nats: TestNatsServer;
let postgres: Awaited<ReturnType<typeof startPostgres>>;
let peers: ProtocolPeers;
let api: KubernetesApi;
let spec: RunSpec;

/** A loop process in a pod of that name, with a client of its own. */
interface Pod {
  readonly process: ServiceProcess;
  readonly client: RpcClient<typeof LoopService>;
  stop(): Promise<number | null>;
}

const environment = (name: string): Record<string, string> => ({
  PLUMB_NATS_URL: nats.url,
  PLUMB_ARTIFACTS: path.join(folder, 'artifacts'),
  PLUMB_DATABASE_URL: postgres.url,
  PLUMB_TRAINER_ADDRESS: peers.trainerAddress,
  PLUMB_LEADER_ELECTION: 'true',
  PLUMB_POD_NAME: name,
  PLUMB_POD_NAMESPACE: 'plumb',
  PLUMB_KUBECONFIG: path.join(folder, name),
});

async function startPod(name: string): Promise<Pod> {
  await api.writeKubeconfig(path.join(folder, name), name);
  const process = await startService('loop', environment(name));
  const client = createClient(LoopService, process.address, { waitForReady: true });
  return {
    process,
    client,
    stop: async () => {
      client.close();
      return await process.stop();
    },
  };
}

/** Who leads, as the cluster has it; undefined while nobody does. */
function holder(): string | undefined {
  const [lease] = api.store.list('plumb/leases');
  return lease?.['spec'].holderIdentity;
}

/** Waits for a condition that no event announces. */
async function until(holds: () => boolean): Promise<void> {
  while (!holds()) await new Promise((resolve) => setTimeout(resolve, 20));
}

/** Watches a run until something holds. */
async function watched(client: Pod['client'], id: string, holds: (run: Run) => boolean): Promise<Run> {
  for (;;) {
    for await (const { run } of client.watchRun({ id })) if (run !== undefined && holds(run)) return run;
    const { run } = await client.getRun({ id });
    if (run !== undefined && holds(run)) return run;
    assert.equal(run?.state, RunState.RUNNING, run?.error?.message);
  }
}

before(async () => {
  if (skip !== false) return;
  folder = await mkdtemp(path.join(tmpdir(), 'plumb-loop-leader-'));
  nats = await startNatsServer();
  postgres = await startPostgres();
  peers = await startPeers({ natsUrl: nats.url, artifacts: path.join(folder, 'artifacts') });
  api = await startKubernetesApi();
  const store = await openFolderStore(path.join(folder, 'artifacts'));
  // The peers know the base model by a hash that begins with an `a`.
  let weights = '';
  for (let salt = 0; !weights.startsWith('a'); salt += 1) {
    const bytes = Buffer.from(`weights ${salt}`);
    ({ sha256: weights } = await store.put(bytes, { mediaType: 'application/octet-stream' }));
  }
  spec = specFixture({ train: 6, heldout: 6, samplesPerPrompt: 4, base: modelFixture(weights) });
});

after(async () => {
  if (skip !== false) return;
  await peers.stop();
  await api.stop();
  await postgres.stop();
  await nats.stop();
  await rm(folder, { recursive: true, force: true });
});

test(
  'one of two loops leads; a standby serves every call; when the leader loses its lease the other goes on',
  { timeout, skip },
  async (t) => {
    let a = await startPod('loop-a');
    t.after(async () => await a.stop());
    await until(() => holder() === 'loop-a');
    const b = await startPod('loop-b');
    t.after(async () => await b.stop());
    await until(() => b.process.log().includes('standing by'));

    // Created, paused and resumed by way of the standby: the leader takes it up from the ledger.
    peers.behaviour.clipMs = 30;
    // Nothing ends before the leader has lost its lease.
    const train = Promise.withResolvers<void>();
    peers.behaviour.trainingHeld = train.promise;
    const { run: created } = await b.client.createRun({ spec, idempotencyKey: 'two loops' });
    const id = created?.id ?? '';
    await watched(b.client, id, ({ counts }) => (counts?.scored ?? 0n) > 3n);
    const { run: paused } = await b.client.pauseRun({ id });
    assert.equal(paused?.state, RunState.PAUSED);
    assert.equal((await a.client.getRun({ id })).run?.state, RunState.PAUSED);
    await b.client.resumeRun({ id });
    await watched(b.client, id, ({ counts }) => (counts?.scored ?? 0n) > 12n);
    assert.equal(holder(), 'loop-a');
    assert.doesNotMatch(b.process.log(), /"message":"leading"/);

    // The API server no longer hears the leader: it stops before the other begins, and ends to be started anew.
    api.cutOff('loop-a');
    await until(() => a.process.log().includes('leadership is lost'));
    assert.notEqual(holder(), 'loop-b');
    assert.equal(await a.stop(), 1);
    assert.equal((await b.client.getRun({ id })).run?.state, RunState.RUNNING);
    train.resolve();
    const run = await watched(b.client, id, ({ state }) => state === RunState.SUCCEEDED);
    assert.equal(holder(), 'loop-b');
    assert.equal(run.counts?.errors, 0n);
    assert.equal(run.counts.scored, run.counts.planned);
    assert.equal(run.training?.step, 3);
    assert.equal([...peers.jobs.keys()].filter((key) => key.startsWith(id)).length, 1);

    // Started anew it stands by, and knows all there is to know.
    api.cutOff();
    a = await startPod('loop-a');
    assert.equal((await a.client.getRun({ id })).run?.state, RunState.SUCCEEDED);
    assert.equal((await a.client.getReport({ runId: id })).report?.iterations.length, 1);

    // A rolling update: the leader lets go, and the standby need not wait.
    assert.equal(await b.stop(), 0);
    await until(() => holder() === 'loop-a' && a.process.log().includes('"message":"leading"'));
    const { run: second } = await a.client.createRun({
      spec: { ...spec, seed: 8n },
      idempotencyKey: 'second',
    });
    await watched(a.client, second?.id ?? '', ({ state }) => state === RunState.SUCCEEDED);
  },
);

test('what an election needs is asked for at the start', { timeout, skip }, async () => {
  await api.writeKubeconfig(path.join(folder, 'loop-c'), 'loop-c');
  const settings = environment('loop-c');
  const ledger = path.join(folder, 'ledger');
  await assert.rejects(
    startService('loop', { ...settings, PLUMB_DATABASE_URL: `pglite:${ledger}` }),
    /PLUMB_DATABASE_URL.*one process alone can open.*PLUMB_LEADER_ELECTION/,
  );
  await assert.rejects(
    startService('loop', { ...settings, PLUMB_POD_NAME: '' }),
    /PLUMB_POD_NAME.*is missing/,
  );
  await assert.rejects(
    startService('loop', { ...settings, PLUMB_KUBECONFIG: path.join(folder, 'none') }),
    /PLUMB_KUBECONFIG is '.*none'/,
  );
  // A right that is missing is known only when it is used; nothing goes on without it.
  api.forbid = (verb, at) => verb === 'GET' && at.includes('/leases/');
  const pod = await startPod('loop-c');
  await until(() => pod.process.log().includes('the service cannot go on'));
  assert.match(pod.process.log(), /taking the lease plumb-loop-.*Kubernetes answers 403/);
  assert.equal(await pod.stop(), 1);
  api.forbid = undefined;
});
