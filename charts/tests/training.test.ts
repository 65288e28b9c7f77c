/** Training pods as the trainer makes them from what the chart gives it: its environment and the pod template. */
import assert from 'node:assert/strict';
import { before, describe, test } from 'node:test';
import { loadConfig } from '@plumb/kit/config';
import { parse } from 'yaml';
import { z } from 'zod';
import { trainerSettings } from '../../services/trainer/config.ts';
import {
  checkNodes,
  fieldsForRuntime,
  kubernetesJob,
  trainJob,
} from '../../services/trainer/domain/cluster/cluster-job.ts';
import { parsePodTemplate } from '../../services/trainer/domain/cluster/pod-template.ts';
import { exampleFile } from '../src/examples.ts';
import { render } from '../src/helm.ts';
import { podOf, restrictedContainer, restrictedPod, restrictedVolumes } from '../src/pods.ts';
import { objectsIn } from '../src/rendered.ts';
import type { Rendered } from '../src/rendered.ts';
import { variablesOf } from '../src/service-settings.ts';
import { unknownFields, validate } from '../src/types-of-objects.ts';

const find = (objects: readonly Rendered[], kind: string, name: string): Rendered =>
  objects.find((object) => object.kind === kind && object.metadata.name === name) ??
  assert.fail(`there is no ${kind} ${name}`);

/** What the trainer knows from its Deployment. */
function trainerConfig(objects: readonly Rendered[], name = 'plumb-trainer') {
  const [container] = podOf(find(objects, 'Deployment', name))?.containers ?? [];
  const env = Object.fromEntries((container?.env ?? []).map(({ name: key, value = '' }) => [key, value]));
  return loadConfig(trainerSettings, env);
}

/** The pod template that the trainer reads, with the checks that it makes at its start. */
function podTemplate(objects: readonly Rendered[], name = 'plumb-training-job') {
  const data = z.record(z.string(), z.string()).parse(find(objects, 'ConfigMap', name)['data']);
  return parsePodTemplate(parse(data['pod-template.yaml'] ?? ''), 'pod-template.yaml');
}

/** What the trainer would make a job of. */
function settingsOf(objects: readonly Rendered[], fullname = 'plumb') {
  const config = trainerConfig(objects, `${fullname}-trainer`);
  const template = podTemplate(objects, `${fullname}-training-job`);
  checkNodes(config.trainingNodes, template);
  return {
    namespace: 'plumb',
    instance: config.trainingInstance,
    template,
    nodes: config.trainingNodes,
    queue: config.trainingQueue,
    workloadPriority: config.trainingPriorityClass,
    backoffLimit: config.trainingBackoffLimit,
    activeDeadlineSeconds: config.trainingActiveDeadlineSeconds,
    ttlSeconds: config.trainingTtlSeconds,
    owner: undefined,
  };
}

const job = { jobId: 'j-1', runId: 'r-1', iteration: 1, carrier: {} };
const objectSchema = z.looseObject({
  apiVersion: z.string(),
  kind: z.string(),
  metadata: z.looseObject({ name: z.string(), labels: z.record(z.string(), z.string()) }),
});

const rendered = async (on: string, set: readonly string[] = []): Promise<Rendered[]> =>
  objectsIn(await render({ values: [exampleFile(on)], set }));

let many: Rendered[];

before(async () => {
  many = await rendered('many-gpu-nodes');
});

describe('a Job that the trainer makes', () => {
  let made: Rendered;
  before(() => {
    made = objectSchema.parse(kubernetesJob(settingsOf(many), job));
  });

  test('is one that Kubernetes knows, field by field', { timeout: 120_000 }, async () => {
    await validate(made);
    assert.equal(await unknownFields([made]), '');
  });

  test('runs at the restricted level, without a token, with volumes for every folder', () => {
    const pod = podOf(made) ?? assert.fail();
    restrictedPod.parse(pod.securityContext);
    assert.equal(pod.automountServiceAccountToken, false);
    for (const volume of pod.volumes)
      assert.ok(Object.keys(volume).every((key) => key === 'name' || restrictedVolumes.has(key)));
    for (const container of pod.containers) {
      restrictedContainer.parse(container.securityContext);
      for (const { name } of container.volumeMounts)
        assert.ok(pod.volumes.some((volume) => volume.name === name));
    }
  });

  test('has the GPU; the trainer, which only makes it, has none', () => {
    const limitsOf = (object: Rendered) =>
      z.object({ limits: z.record(z.string(), z.unknown()) }).parse(podOf(object)?.containers[0]?.resources)
        .limits;
    const pod = podOf(made);
    assert.equal(limitsOf(made)['nvidia.com/gpu'], 1);
    assert.equal(pod?.containers[0]?.['image'], 'registry.example/plumb/plumb-trainer:0.1.0-cuda');
    assert.deepEqual(pod?.['nodeSelector'], { 'nvidia.com/gpu.present': 'true' });
    assert.deepEqual(pod?.['tolerations'], [
      { key: 'nvidia.com/gpu', operator: 'Exists', effect: 'NoSchedule' },
    ]);
    const trainer = find(many, 'Deployment', 'plumb-trainer');
    assert.equal(limitsOf(trainer)['nvidia.com/gpu'], undefined);
    const deviceOf = (object: Rendered) =>
      podOf(object)?.containers[0]?.env?.find(({ name }) => name === 'PLUMB_DEVICE')?.value;
    assert.deepEqual([deviceOf(made), deviceOf(trainer)], ['cuda', undefined]);
    assert.equal(podOf(trainer)?.containers[0]?.['image'], 'registry.example/plumb/plumb-trainer:0.1.0');
    assert.equal(podOf(trainer)?.['nodeSelector'], undefined);
  });

  test('waits in the queue that the chart makes, and is owned by the trainer', () => {
    assert.equal(made.metadata.labels?.['kueue.x-k8s.io/queue-name'], 'plumb-training');
    find(many, 'LocalQueue', 'plumb-training');
    const owner = trainerConfig(many).trainingOwner?.replace('Deployment/', '');
    find(many, 'Deployment', owner ?? '');
  });

  test("knows its settings, and they are the trainer program's", () => {
    const [container] = podOf(made)?.containers ?? [];
    const known = variablesOf('trainer');
    for (const { name } of container?.env ?? [])
      if (name.startsWith('PLUMB_')) assert.ok(known.has(name), name);
    const env = Object.fromEntries((container?.env ?? []).map(({ name, value = '' }) => [name, value]));
    const config = loadConfig(trainerSettings, env);
    const trainer = trainerConfig(many);
    for (const key of ['natsUrl', 'natsUser', 'artifacts', 'rewardAddress', 'modelsFolder', 'tlsCa'] as const)
      assert.equal(config[key], trainer[key], key);
  });

  test('is under the network policy of training pods: broker, store, reward, names and traces', () => {
    const policy = find(many, 'NetworkPolicy', 'plumb-training-job');
    const { podSelector, egress } = z
      .object({
        podSelector: z.object({ matchLabels: z.record(z.string(), z.string()) }),
        egress: z.array(z.object({ ports: z.array(z.object({ port: z.number() })) })),
      })
      .parse(policy['spec']);
    const { template } = z
      .object({ template: z.object({ metadata: z.object({ labels: z.record(z.string(), z.string()) }) }) })
      .parse(made['spec']);
    for (const [key, value] of Object.entries(podSelector.matchLabels))
      assert.equal(template.metadata.labels[key], value);
    // DNS, reward, NATS, S3, the collector: and no Kubernetes API, no judge, no ledger.
    assert.deepEqual(
      egress.map(({ ports }) => ports.map(({ port }) => port)),
      [[53, 53], [50051], [4222], [443], [4318]],
    );
  });
});

test("a name of its own moves labels, the trainer's name, the owner and the policies alike", async () => {
  const objects = await rendered('many-gpu-nodes', ['nameOverride="video"', 'fullnameOverride="feedback"']);
  const settings = settingsOf(objects, 'feedback');
  assert.equal(settings.instance, 'feedback');
  const { template } = kubernetesJob(settings, job).spec;
  const { podSelector } = z
    .object({ podSelector: z.object({ matchLabels: z.record(z.string(), z.string()) }) })
    .parse(find(objects, 'NetworkPolicy', 'feedback-training-job')['spec']);
  for (const [key, value] of Object.entries(podSelector.matchLabels))
    assert.equal(template.metadata?.labels?.[key], value);
});

test('the settings of values reach the Job', async () => {
  const objects = await rendered('many-gpu-nodes', [
    'kueue.createQueues=false',
    'training.queueName="team"',
    'training.priorityClass="urgent"',
    'training.job.activeDeadlineSeconds=3600',
    'training.job.backoffLimit=1',
    'training.job.ttlSecondsAfterFinished=60',
    'training.job.priorityClassName="batch"',
    'training.job.models={"existingClaim":"models","preload":[{"sha256":"3ba07d3f4eea4a09e8c6bb1b64fd2f70f9d1bd1e6aec5b3a5bd4ab37c7e0b9ac"}]}',
    'components.trainer.settings={"intraOpThreads":4}',
  ]);
  const made = kubernetesJob(settingsOf(objects), job);
  assert.equal(made.metadata.labels['kueue.x-k8s.io/queue-name'], 'team');
  assert.equal(made.metadata.labels['kueue.x-k8s.io/priority-class'], 'urgent');
  assert.equal(made.spec.activeDeadlineSeconds, 3600);
  assert.equal(made.spec.backoffLimit, 1);
  assert.equal(made.spec.ttlSecondsAfterFinished, 60);
  const { spec } = made.spec.template;
  assert.equal(spec['priorityClassName'], 'batch');
  assert.match(JSON.stringify(spec['initContainers']), /preload\.ts/);
  assert.ok(
    spec.containers[0]?.env?.some(({ name, value }) => name === 'PLUMB_INTRA_OP_THREADS' && value === '4'),
  );
});

describe('a TrainJob that the trainer makes', () => {
  test('has the GPU, the labels and the level of a Job, and nothing that it cannot carry', async () => {
    const objects = await rendered('many-gpu-nodes', ['training.backend="kubeflow"']);
    const settings = settingsOf(objects);
    assert.deepEqual(fieldsForRuntime(settings.template), []);
    const { trainingRuntime } = trainerConfig(objects);
    const { spec } = trainJob({ ...settings, runtime: trainingRuntime, version: 'v1alpha1' }, job);
    assert.equal(spec.runtimeRef.name, 'torch-distributed');
    assert.equal(spec.suspend, true);
    assert.deepEqual(spec.trainer.command, ['node', 'services/trainer/job.ts']);
    assert.equal(spec.trainer.resourcesPerNode?.limits?.['nvidia.com/gpu'], 1);
    const pod =
      spec.runtimePatches[0]?.trainingRuntimeSpec.template.spec.replicatedJobs[0]?.template.spec.template;
    assert.equal(pod?.metadata.labels?.['app.kubernetes.io/component'], 'training-job');
    restrictedContainer.parse(pod?.spec.containers[0]?.securityContext);
    restrictedPod.parse(z.looseObject({ securityContext: z.unknown() }).parse(pod?.spec).securityContext);
  });
});

describe('the rights of the trainer', () => {
  const verbsOf = (objects: readonly Rendered[]): string[] =>
    z
      .array(
        z.object({
          apiGroups: z.array(z.string()),
          resources: z.array(z.string()),
          resourceNames: z.array(z.string()).optional(),
          verbs: z.array(z.string()),
        }),
      )
      .parse(find(objects, 'Role', 'plumb-trainer')['rules'])
      .map(({ apiGroups, resources, resourceNames = [], verbs }) =>
        [...apiGroups, ...resources, ...resourceNames, ...verbs].join(' '),
      );

  test('are what the backend calls', async () => {
    const common = [
      'apps deployments plumb-trainer get',
      ' pods list watch',
      'kueue.x-k8s.io workloads list',
    ];
    assert.deepEqual(
      verbsOf(many).toSorted(),
      [...common, 'batch jobs get list watch create delete'].toSorted(),
    );
    assert.deepEqual(
      verbsOf(await rendered('many-gpu-nodes', ['training.backend="kubeflow"'])).toSorted(),
      [...common, 'trainer.kubeflow.org trainjobs get list watch create delete'].toSorted(),
    );
    assert.deepEqual(
      verbsOf(
        await rendered('many-gpu-nodes', ['kueue.createQueues=false', 'training.queueName=""']),
      ).toSorted(),
      [
        'apps deployments plumb-trainer get',
        ' pods list watch',
        'batch jobs get list watch create delete',
      ].toSorted(),
    );
  });
});
