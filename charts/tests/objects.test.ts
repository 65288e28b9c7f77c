import assert from 'node:assert/strict';
import { readFile } from 'node:fs/promises';
import { join } from 'node:path';
import { before, describe, test } from 'node:test';
import { z } from 'zod';
import { exampleFile, examples, variants } from '../src/examples.ts';
import { chartFolder, render } from '../src/helm.ts';
import { podOf, restrictedContainer, restrictedPod, restrictedVolumes } from '../src/pods.ts';
import { objectsIn } from '../src/rendered.ts';
import type { Rendered } from '../src/rendered.ts';
import { serviceNames, variablesOf } from '../src/service-settings.ts';
import { unknownFields, validate } from '../src/types-of-objects.ts';

const renderings = [
  ...examples.map((name) => ({ name, on: name, set: [] as readonly string[] })),
  ...variants,
];
const all = new Map<string, Rendered[]>();

before(async () => {
  for (const { name, on, set } of renderings) {
    const text = await render({ values: [exampleFile(on)], set, upgrade: true });
    all.set(name, objectsIn(text));
  }
});

describe('everything that is rendered', () => {
  test('has the fields of its kind with values that they take', async () => {
    for (const objects of all.values()) for (const object of objects) await validate(object);
  });

  test('has no field that its kind does not have', { timeout: 120_000 }, async () => {
    const distinct = new Map([...all.values()].flat().map((object) => [JSON.stringify(object), object]));
    assert.equal(await unknownFields([...distinct.values()]), '');
  });

  test('has a name of its own, labels, and pods that their selectors find', () => {
    for (const [rendering, objects] of all) {
      const ids = objects.map(({ kind, metadata }) => `${kind} ${metadata.name}`);
      assert.equal(new Set(ids).size, ids.length, rendering);
      for (const { kind, metadata, spec } of objects) {
        assert.equal(metadata.labels?.['app.kubernetes.io/instance'], 'plumb', `${kind} ${metadata.name}`);
        const parsed = z
          .object({
            selector: z.object({ matchLabels: z.record(z.string(), z.string()) }),
            template: z.object({ metadata: z.object({ labels: z.record(z.string(), z.string()) }) }),
          })
          .safeParse(spec);
        if (!parsed.success) continue;
        const { selector, template } = parsed.data;
        for (const [key, value] of Object.entries(selector.matchLabels))
          assert.equal(template.metadata.labels[key], value, metadata.name);
      }
    }
  });

  test('runs at the restricted level, with mounts that have volumes, memory limits and probes', () => {
    for (const [rendering, objects] of all) {
      for (const object of objects) {
        const pod = podOf(object);
        if (pod === undefined) continue;
        const at = `${rendering}: ${object.kind} ${object.metadata.name}`;
        restrictedPod.parse(pod.securityContext);
        for (const field of ['hostNetwork', 'hostPID', 'hostIPC', 'hostUsers'])
          assert.equal(pod[field], undefined, at);
        for (const volume of pod.volumes) {
          const source = Object.keys(volume).find((key) => key !== 'name');
          assert.ok(restrictedVolumes.has(source ?? ''), `${at}: ${source}`);
        }
        for (const container of [...(pod.initContainers ?? []), ...pod.containers]) {
          restrictedContainer.parse(container.securityContext);
          z.looseObject({ limits: z.looseObject({ memory: z.string() }) }).parse(container.resources);
          for (const mount of container.volumeMounts)
            assert.ok(
              pod.volumes.some(({ name }) => name === mount.name),
              `${at}: there is no volume ${mount.name}`,
            );
          // Nothing is written where it would fill a node: every folder that can be written is a volume.
          assert.ok(
            container.volumeMounts.every(({ mountPath }) => mountPath !== '/'),
            at,
          );
        }
        if (object.kind !== 'Deployment') continue;
        assert.ok((pod.terminationGracePeriodSeconds ?? 0) > 20, at);
        assert.ok(
          pod.containers.every(({ readinessProbe, livenessProbe }) => readinessProbe && livenessProbe),
          at,
        );
      }
    }
  });

  test('names secrets and holds none', () => {
    for (const objects of all.values()) {
      assert.deepEqual(
        objects.filter(({ kind }) => kind === 'Secret'),
        [],
      );
      for (const object of objects) {
        for (const { env } of podOf(object)?.containers ?? [])
          for (const { name, value } of env ?? [])
            if (/PASSWORD$|SECRET|TOKEN$|_KEY$/.test(name) && name !== 'PLUMB_TLS_KEY')
              assert.equal(value, undefined, name);
      }
    }
  });

  test('sets only variables that the service knows', () => {
    for (const objects of all.values()) {
      for (const service of serviceNames) {
        const deployment = objects.find(
          ({ kind, metadata }) =>
            kind === 'Deployment' && metadata.labels?.['app.kubernetes.io/component'] === service,
        );
        assert.ok(deployment !== undefined);
        const known = variablesOf(service);
        const [container] = podOf(deployment)?.containers ?? [];
        for (const { name } of container?.env ?? [])
          if (name.startsWith('PLUMB_') && name !== 'PLUMB_REFEREE_URL')
            assert.ok(known.has(name), `${service}: ${name}`);
      }
    }
  });

  test('gives a token of the Kubernetes API to those alone who use it, with rights in the namespace', () => {
    for (const [rendering, objects] of all) {
      const withRights = objects.filter(({ kind }) => kind === 'Role').map(({ metadata }) => metadata.name);
      const withToken = objects
        .filter((object) => podOf(object)?.automountServiceAccountToken === true)
        .map(({ metadata }) => metadata.name);
      assert.deepEqual(withToken.toSorted(), withRights.toSorted(), rendering);
      assert.deepEqual(
        objects.filter(({ kind }) => /^Cluster(Role|RoleBinding)$/.test(kind)),
        [],
      );
      for (const role of objects.filter(({ kind }) => kind === 'Role')) {
        const rules = z
          .array(
            z.object({
              apiGroups: z.array(z.string()),
              resources: z.array(z.string()),
              verbs: z.array(z.string()),
            }),
          )
          .parse(role['rules']);
        for (const { apiGroups, resources, verbs } of rules)
          assert.ok(![...apiGroups, ...resources, ...verbs].includes('*'), role.metadata.name);
      }
    }
  });
});

const policySchema = z.object({
  podSelector: z.object({ matchLabels: z.record(z.string(), z.string()) }),
  ingress: z
    .array(
      z.object({
        ports: z.array(z.object({ port: z.number() })).default([]),
        from: z.array(
          z.looseObject({
            podSelector: z.object({ matchLabels: z.record(z.string(), z.string()) }).optional(),
          }),
        ),
      }),
    )
    .nullish()
    .transform((rules) => rules ?? []),
  egress: z
    .array(
      z.object({
        ports: z.array(z.object({ port: z.number() })).default([]),
        to: z.array(
          z.looseObject({
            podSelector: z.object({ matchLabels: z.record(z.string(), z.string()) }).optional(),
          }),
        ),
      }),
    )
    .nullish()
    .transform((rules) => rules ?? []),
});

/** Between components, as [from, to, port]: what both ends allow. */
function edgesOf(objects: readonly Rendered[]): string[] {
  const component = 'app.kubernetes.io/component';
  const leaving = new Set<string>();
  const entering = new Set<string>();
  for (const { kind, spec } of objects) {
    if (kind !== 'NetworkPolicy') continue;
    const { podSelector, ingress, egress } = policySchema.parse(spec);
    const here = podSelector.matchLabels[component] ?? '*';
    for (const { ports, to } of egress)
      for (const { port } of ports)
        for (const peer of to) {
          const there = peer.podSelector?.matchLabels[component];
          if (there !== undefined) leaving.add(`${here} > ${there} ${port}`);
        }
    for (const { ports, from } of ingress)
      for (const { port } of ports)
        for (const peer of from) {
          const there = peer.podSelector?.matchLabels[component];
          if (there !== undefined) entering.add(`${there} > ${here} ${port}`);
        }
  }
  assert.deepEqual([...leaving].toSorted(), [...entering].toSorted());
  return [...leaving].toSorted();
}

test('components reach each other along the arrows of the architecture, and no others', () => {
  const services = ['generator', 'judge', 'loop', 'reward', 'trainer'];
  const grpc = [
    'client > generator 50051',
    'client > judge 50051',
    'client > loop 50051',
    'client > reward 50051',
    'loop > judge 50051',
    'loop > reward 50051',
    'loop > trainer 50051',
    'reward > judge 50051',
    'trainer > reward 50051',
  ];
  const nats = [...services.map((name) => `${name} > nats 4222`), 'nats > nats 6222'];
  const ledger = ['loop > postgresql 5432', 'migrate > postgresql 5432'];
  assert.deepEqual(
    edgesOf(all.get('kind') ?? []),
    [...grpc, ...nats, ...ledger, 'judge > referee 8791'].toSorted(),
  );
  assert.deepEqual(edgesOf(all.get('one-gpu-node') ?? []), [...grpc, ...nats, ...ledger].toSorted());
  const training = ['training-job > nats 4222', 'training-job > reward 50051'];
  assert.deepEqual(edgesOf(all.get('many-gpu-nodes') ?? []), [...grpc, ...nats, ...training].toSorted());
});

test('every pod is under a policy that lets nothing in and nothing out by itself', () => {
  for (const [rendering, objects] of all) {
    const policies = objects.filter(({ kind }) => kind === 'NetworkPolicy');
    if (policies.length === 0) continue;
    const nothing = policies.find(({ metadata }) => metadata.name.endsWith('-nothing-else'));
    assert.deepEqual(
      nothing?.['spec'],
      {
        podSelector: {
          matchLabels: { 'app.kubernetes.io/name': 'plumb', 'app.kubernetes.io/instance': 'plumb' },
        },
        policyTypes: ['Ingress', 'Egress'],
      },
      rendering,
    );
  }
});

test('browsers reach the dashboard through the ingress alone, and its links have a key', () => {
  const objects = all.get('the dashboard behind an ingress') ?? [];
  const named = (kind: string, name: string): Rendered =>
    objects.find((object) => object.kind === kind && object.metadata.name === name) ?? assert.fail(kind);
  const loop = podOf(named('Deployment', 'plumb-loop')) ?? assert.fail();
  const env = new Map(loop.containers[0]?.env?.map(({ name, value }) => [name, value]));
  assert.equal(env.get('PLUMB_WEB_LISTEN'), '0.0.0.0:8080');
  // TLS ends at the ingress, and gRPC keeps its certificate.
  assert.equal(env.get('PLUMB_INSECURE_PLAINTEXT'), 'true');
  assert.equal(env.get('PLUMB_TLS_CERT'), '/etc/plumb/tls/tls.crt');
  const key = env.get('PLUMB_WEB_KEY_FILE') ?? '';
  const mount = loop.containers[0]?.volumeMounts.find(({ mountPath }) => key.startsWith(`${mountPath}/`));
  assert.deepEqual(loop.volumes.find(({ name }) => name === mount?.name)?.['secret'], {
    secretName: 'plumb-web',
    defaultMode: 0o440,
    items: [{ key: 'key', path: 'key' }],
  });
  const service = z
    .object({
      clusterIP: z.never().optional(),
      ports: z.tuple([z.looseObject({ port: z.literal(80), targetPort: z.literal('web') })]),
      selector: z.record(z.string(), z.string()),
    })
    .parse(named('Service', 'plumb-dashboard')['spec']);
  assert.equal(service.selector['app.kubernetes.io/component'], 'loop');
  assert.deepEqual(named('Ingress', 'plumb-dashboard')['spec'], {
    ingressClassName: 'nginx',
    tls: [{ hosts: ['plumb.example'], secretName: 'plumb-dashboard' }],
    rules: [
      {
        host: 'plumb.example',
        http: {
          paths: [
            {
              path: '/',
              pathType: 'Prefix',
              backend: { service: { name: 'plumb-dashboard', port: { name: 'web' } } },
            },
          ],
        },
      },
    ],
  });
  const { ingress } = policySchema.parse(named('NetworkPolicy', 'plumb-loop')['spec']);
  assert.deepEqual(ingress.find(({ ports }) => ports.some(({ port }) => port === 8080))?.from, [
    { namespaceSelector: { matchLabels: { 'kubernetes.io/metadata.name': 'ingress-nginx' } } },
  ]);
});

test('loops that stand for election and reconcile FeedbackRuns know their pod and have the rights', () => {
  const named = (objects: readonly Rendered[], kind: string): Rendered | undefined =>
    objects.find((object) => object.kind === kind && object.metadata.name === 'plumb-loop');
  const envOf = (objects: readonly Rendered[]) =>
    podOf(named(objects, 'Deployment') ?? assert.fail())?.containers[0]?.env ?? [];
  const objects = all.get('many-gpu-nodes') ?? [];
  const env = envOf(objects).filter(({ name }) => /ELECTION|FEEDBACK_RUNS|POD_/.test(name));
  assert.deepEqual(env, [
    { name: 'PLUMB_LEADER_ELECTION', value: 'true' },
    { name: 'PLUMB_FEEDBACK_RUNS', value: 'true' },
    { name: 'PLUMB_POD_NAME', valueFrom: { fieldRef: { fieldPath: 'metadata.name' } } },
    { name: 'PLUMB_POD_NAMESPACE', valueFrom: { fieldRef: { fieldPath: 'metadata.namespace' } } },
  ]);
  assert.deepEqual(named(objects, 'Role')?.['rules'], [
    { apiGroups: ['coordination.k8s.io'], resources: ['leases'], verbs: ['get', 'create', 'update'] },
    { apiGroups: ['plumb.dev'], resources: ['feedbackruns'], verbs: ['get', 'list', 'watch'] },
    { apiGroups: ['plumb.dev'], resources: ['feedbackruns/status'], verbs: ['update'] },
    { apiGroups: ['events.k8s.io'], resources: ['events'], verbs: ['create'] },
  ]);
  // A new pod waits for the lease beside the old one; without an election there are never two.
  const strategyOf = (some: readonly Rendered[]): unknown =>
    z.object({ strategy: z.object({ type: z.string() }) }).parse(named(some, 'Deployment')?.['spec']).strategy
      .type;
  assert.equal(strategyOf(objects), 'RollingUpdate');
  const alone = all.get('kind') ?? [];
  assert.equal(strategyOf(alone), 'Recreate');
  assert.equal(named(alone, 'Role'), undefined);
  assert.ok(!envOf(alone).some(({ name }) => /ELECTION|FEEDBACK_RUNS|POD_/.test(name)));
});

test('the definition of FeedbackRuns is one that Kubernetes takes', async () => {
  const text = await readFile(join(chartFolder, 'crds/feedbackruns.yaml'), 'utf8');
  for (const object of objectsIn(text)) await validate(object);
});

test('pods with GPUs ask for them, go where they are, and run the image with CUDA', () => {
  const objects = all.get('many-gpu-nodes') ?? [];
  for (const name of ['generator', 'reward']) {
    const pod = podOf(
      objects.find(({ kind, metadata }) => kind === 'Deployment' && metadata.name === `plumb-${name}`) ??
        assert.fail(name),
    );
    const [container] = pod?.containers ?? [];
    assert.equal(
      z.object({ limits: z.record(z.string(), z.unknown()) }).parse(container?.resources).limits[
        'nvidia.com/gpu'
      ],
      1,
    );
    assert.match(String(container?.['image']), /-cuda$/);
    assert.equal(
      z.record(z.string(), z.string()).parse(pod?.['nodeSelector'])['nvidia.com/gpu.present'],
      'true',
    );
    assert.match(JSON.stringify(pod?.['tolerations']), /nvidia\.com\/gpu/);
    // Where a service has a setting for it, its models run on the GPU unless the values say otherwise.
    const devices = container?.env?.filter(({ name: variable }) => variable.endsWith('_DEVICE')) ?? [];
    assert.ok(devices.every(({ value }) => value === 'cuda'));
    assert.equal(devices.length, name === 'generator' ? 3 : 0);
  }
});
