import assert from 'node:assert/strict';
import { once } from 'node:events';
import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { after, afterEach, before, test } from 'node:test';
import {
  eventRecorder,
  observeObjects,
  openCluster,
  runForLeadership,
  servedVersion,
} from '@plumb/kubernetes';
import type { Cluster, KubernetesObject, ObservedObjects } from '@plumb/kubernetes';
import { BatchV1Api, CustomObjectsApi } from '@plumb/kubernetes/api';
import { Lease as LeaseModel } from 'kubernetes-models/coordination.k8s.io/v1/Lease';
import { Event as EventModel } from 'kubernetes-models/events.k8s.io/v1/Event';
import { checkedBy, commonKinds, startKubernetesApi } from './support/kubernetes-api/api-server.ts';
import type { KubernetesApi } from './support/kubernetes-api/api-server.ts';
import type { StoredObject } from './support/kubernetes-api/object-store.ts';

const models = { Lease: checkedBy(LeaseModel), Event: checkedBy(EventModel) };
const kinds = commonKinds.map((kind) => {
  const invalid = models[kind.kind as keyof typeof models];
  return invalid === undefined ? kind : { ...kind, invalid };
});
const jobs = 'plumb/jobs';
const jobsPath = '/apis/batch/v1/namespaces/plumb/jobs';

let folder: string;
let api: KubernetesApi;
let cluster: Cluster;
let observed: ObservedObjects<KubernetesObject> | undefined;

/** A cluster as a user of its own sees it. */
async function clusterOf(user: string): Promise<Cluster> {
  const kubeconfig = path.join(folder, user);
  await api.writeKubeconfig(kubeconfig, user);
  return await openCluster({ kubeconfig });
}

before(async () => {
  folder = await mkdtemp(path.join(tmpdir(), 'plumb-kubernetes-'));
  api = await startKubernetesApi(kinds);
  cluster = await clusterOf('test');
});

afterEach(async () => {
  api.cutOff();
  api.forbid = undefined;
  await observed?.stop();
  observed = undefined;
  for (const { metadata } of api.store.list(jobs)) api.store.remove(jobs, metadata.name);
});

after(async () => {
  await api.stop();
  await rm(folder, { recursive: true, force: true });
});

const job = (name: string, labels: Record<string, string> = { of: 'us' }): StoredObject =>
  api.store.create(jobs, { metadata: { name, labels } as unknown as StoredObject['metadata'], spec: {} });

/** Pauses are a hundredth of the default ones, so that a minute of failed attempts passes in 600 ms. */
function observeJobs(): ObservedObjects<KubernetesObject> {
  const { namespace } = cluster;
  observed = observeObjects<KubernetesObject>(cluster, {
    path: jobsPath,
    labelSelector: 'of=us',
    list: async (query) => await cluster.api(BatchV1Api).listNamespacedJob({ namespace, ...query }),
    firstPauseMs: 5,
    longestPauseMs: 300,
  });
  return observed;
}

const names = (): string[] => [...(observed?.objects.keys() ?? [])].toSorted();
const asked = (verb: string): number => api.requests.filter((request) => request.verb === verb).length;

/** Waits until something holds, looking after each change of what is observed. */
async function seen(holds: () => boolean): Promise<void> {
  while (!holds()) await observed?.changed();
}

/** Waits for a condition that no event announces. */
async function until(holds: () => boolean): Promise<void> {
  while (!holds()) await new Promise((resolve) => setTimeout(resolve, 5));
}

test('a watch follows what is added, changed and deleted, of what it selects', async () => {
  job('a');
  job('foreign', { of: 'others' });
  const { synchronised, objects } = observeJobs();
  await synchronised;
  assert.deepEqual(names(), ['a']);
  job('b');
  await seen(() => objects.size === 2);
  const revision = objects.get('a')?.metadata?.resourceVersion;
  api.store.replace(jobs, { ...api.store.get(jobs, 'a'), spec: { suspend: true } }, 'main');
  await seen(() => objects.get('a')?.metadata?.resourceVersion !== revision);
  api.store.remove(jobs, 'b');
  await seen(() => objects.size === 1);
  assert.deepEqual(names(), ['a']);
});

test('a watch that was cut goes on where it was, with no new list', async () => {
  job('a');
  const { synchronised, objects } = observeJobs();
  await synchronised;
  await until(() => api.watches === 1);
  const lists = asked('GET');
  for (const name of ['b', 'c', 'd']) {
    api.disconnect();
    job(name);
    await seen(() => objects.has(name));
  }
  assert.deepEqual(names(), ['a', 'b', 'c', 'd']);
  assert.equal(asked('GET'), lists);
});

test('a bookmark moves the place that a cut watch goes on from', async () => {
  const { synchronised } = observeJobs();
  await synchronised;
  await until(() => api.watches === 1);
  // Revisions go by that are none of this watch's business.
  job('foreign', { of: 'others' });
  api.bookmark();
  const place = String(api.store.version);
  const watches = asked('WATCH');
  // The bookmark is on its way before the connection is closed.
  job('a');
  await seen(() => names().includes('a'));
  api.disconnect();
  await until(() => asked('WATCH') > watches);
  const from = api.requests.findLast(({ verb }) => verb === 'WATCH')?.resourceVersion;
  assert.ok(Number(from) >= Number(place), `${from} is before ${place}`);
});

test('a place that the server has forgotten (410) is made good by a new list', async () => {
  job('gone');
  job('stays');
  const { synchronised, objects } = observeJobs();
  await synchronised;
  await until(() => api.watches === 1);
  const lists = asked('GET');
  api.cutOff('test');
  api.store.remove(jobs, 'gone');
  job('new');
  api.store.compact();
  api.cutOff();
  await seen(() => objects.has('new'));
  assert.deepEqual(names(), ['new', 'stays']);
  assert.equal(asked('GET'), lists + 1);
});

test('an API server that is away for a minute: what was seen stays, marked as old, and what was missed comes', async () => {
  job('a');
  const { synchronised, objects } = observeJobs();
  await synchronised;
  await until(() => api.watches === 1);
  const broken = api.broken;
  api.cutOff('test');
  job('b');
  // 0.5 + 1 + 2 + 4 + 8 + 16 + 30 s of pauses at the default.
  await until(() => api.broken >= broken + 7);
  assert.deepEqual(names(), ['a']);
  assert.equal(observed?.stale, true);
  api.cutOff();
  await seen(() => objects.has('b') && observed?.stale === false);
});

test('no right, and no such kind: the first wait says so', async () => {
  api.forbid = (_verb, at) => at === jobsPath;
  await assert.rejects(observeJobs().synchronised, { code: 'PERMISSION_DENIED', message: /cannot GET/ });
  await observed?.stop();
  const { namespace } = cluster;
  const where = { group: 'none.dev', version: 'v1', namespace, plural: 'nothings' };
  observed = observeObjects(cluster, {
    path: '/apis/none.dev/v1/namespaces/plumb/nothings',
    list: async () =>
      (await cluster.api(CustomObjectsApi).listNamespacedCustomObject(where)) as { items: [] },
  });
  await assert.rejects(observed.synchronised, { code: 'NOT_FOUND' });
});

test('what is stopped before it was complete says so to whoever waits', async () => {
  api.cutOff('test');
  const stopped = observeJobs();
  await stopped.stop();
  await assert.rejects(stopped.synchronised, { code: 'CANCELLED' });
});

test('the served version is the best of ours; of another group there is none', async () => {
  assert.equal((await servedVersion(cluster, 'kueue.x-k8s.io', ['v1beta3', 'v1beta2'])).version, 'v1beta2');
  assert.deepEqual(await servedVersion(cluster, 'batch', ['v2']), { version: undefined, served: ['v1'] });
  assert.deepEqual(await servedVersion(cluster, 'none.dev', ['v1']), { version: undefined, served: [] });
});

test('an event is about its object, fits the API, and is lost without harm', async () => {
  const about = { apiVersion: 'batch/v1', kind: 'Job', name: 'a', uid: 'u-1' };
  const recorder = eventRecorder(cluster, 'plumb.dev/loop', 'loop-0');
  await recorder.record(about, 'Warning', 'SpecRefused', 'ü'.repeat(2000));
  const [event] = api.store.list('plumb/events');
  assert.equal(event?.['regarding'].uid, 'u-1');
  assert.equal(event['reason'], 'SpecRefused');
  assert.equal(event['reportingController'], 'plumb.dev/loop');
  // At most 1,024 bytes, and no half of a character.
  assert.equal(event['note'], 'ü'.repeat(512));
  api.forbid = (verb) => verb === 'POST';
  await recorder.record(about, 'Normal', 'Started', 'nobody hears it');
  assert.equal(api.store.list('plumb/events').length, 1);
});

const leases = 'plumb/leases';
/** How long a candidate waits after the last renewal that it saw, and how long a leader may fail to renew. */
const durationMs = 15_000;
const renewDeadlineMs = 10_000;

/** Who runs for a lease: on the one clock of the test, looking every 5 ms of real time. */
async function candidate(lease: string, identity: string, clock: () => number, signal: AbortSignal) {
  return await runForLeadership(await clusterOf(identity), {
    lease,
    identity,
    durationMs,
    renewDeadlineMs,
    retryMs: 5,
    now: clock,
    signal,
  });
}

/** Waits until a user has called twice more: it has seen how things stand. */
async function looked(user: string): Promise<void> {
  const calls = (): number => api.requests.filter((request) => request.user === user).length;
  const before = calls();
  await until(() => calls() >= before + 4);
}

test('of two who run at once one leads; when it lets go, the other does at once', async (t) => {
  const stop = new AbortController();
  t.after(() => {
    stop.abort();
  });
  const running = ['one', 'two'].map(
    async (name) => await candidate('shared', name, () => 0, stop.signal).then((lead) => ({ name, lead })),
  );
  const first = await Promise.race(running);
  const second = running[first.name === 'one' ? 1 : 0];
  assert.ok(second !== undefined);
  await looked(first.name === 'one' ? 'two' : 'one');
  assert.equal(api.store.get(leases, 'shared')['spec'].holderIdentity, first.name);
  // The clock stands still: only the release makes room.
  await first.lead.release();
  const { name, lead } = await second;
  const { spec } = api.store.get(leases, 'shared');
  assert.equal(spec.holderIdentity, name);
  assert.equal(spec.leaseTransitions, 1);
  await lead.release();
});

test('a leader that cannot renew counts itself lost before another may lead', async (t) => {
  const stop = new AbortController();
  t.after(() => {
    stop.abort();
  });
  let clock = 0;
  const now = (): number => clock;
  const old = await candidate('cut', 'old', now, stop.signal);
  let led = false;
  const waiting = candidate('cut', 'new', now, stop.signal).then((lead) => {
    led = true;
    return lead;
  });
  await looked('new');
  const { broken } = api;
  api.cutOff('old');
  await until(() => api.broken > broken);
  await looked('new');
  clock += renewDeadlineMs - 1;
  await looked('new');
  assert.equal(old.lost.aborted, false);
  assert.equal(led, false);
  clock += 1;
  if (!old.lost.aborted) await once(old.lost, 'abort');
  await looked('new');
  assert.equal(led, false);
  clock += durationMs - renewDeadlineMs;
  const next = await waiting;
  assert.equal(api.store.get(leases, 'cut')['spec'].holderIdentity, 'new');
  // The old one comes back: it has lost for good, and leaves the lease alone.
  api.cutOff();
  await old.release();
  assert.equal(api.store.get(leases, 'cut')['spec'].holderIdentity, 'new');
  await next.release();
});

test('an API server that is away for a minute: the leader is lost, nobody leads, and afterwards somebody does', async (t) => {
  const stop = new AbortController();
  t.after(() => {
    stop.abort();
  });
  let clock = 0;
  const now = (): number => clock;
  const old = await candidate('minute', 'old', now, stop.signal);
  let led = false;
  const waiting = candidate('minute', 'new', now, stop.signal).then((lead) => {
    led = true;
    return lead;
  });
  await looked('new');
  api.cutOff('old', 'new');
  const { broken } = api;
  clock += 60_000;
  if (!old.lost.aborted) await once(old.lost, 'abort');
  await until(() => api.broken >= broken + 4);
  assert.equal(led, false);
  api.cutOff();
  // What it sees of the lease may be new to it: it waits for the duration from now on.
  await looked('new');
  clock += durationMs;
  const next = await waiting;
  await next.release();
});

test('a lease that somebody takes away by hand ends the leader', async (t) => {
  const stop = new AbortController();
  t.after(() => {
    stop.abort();
  });
  const lead = await candidate('stolen', 'old', () => 0, stop.signal);
  const lease = api.store.get(leases, 'stolen');
  api.store.replace(leases, { ...lease, spec: { ...lease['spec'], holderIdentity: 'thief' } }, 'all');
  if (!lead.lost.aborted) await once(lead.lost, 'abort');
  await lead.release();
  assert.equal(api.store.get(leases, 'stolen')['spec'].holderIdentity, 'thief');
});

test('without the right to leases there is no waiting; neither after the candidate gives up', async () => {
  api.forbid = (_verb, at) => at.includes('/leases');
  await assert.rejects(
    candidate('denied', 'old', () => 0, new AbortController().signal),
    {
      code: 'PERMISSION_DENIED',
      message: /taking the lease denied/,
    },
  );
  await assert.rejects(
    candidate('denied', 'old', () => 0, AbortSignal.abort(new Error('stopping'))),
    /stopping/,
  );
  await assert.rejects(
    runForLeadership(cluster, {
      lease: 'never',
      identity: 'me',
      durationMs: 5,
      renewDeadlineMs: 10,
      signal: new AbortController().signal,
    }),
    /renewDeadlineMs/,
  );
});
