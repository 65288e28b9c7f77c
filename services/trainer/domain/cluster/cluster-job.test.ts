import assert from 'node:assert/strict';
import { test } from 'node:test';
import { Job as JobModel } from 'kubernetes-models/batch/v1/Job';
import { z } from 'zod';
import { checkNodes, fieldsForRuntime, kubernetesJob, trainJob } from './cluster-job.ts';
import type { ClusterJobSettings, JobIdentity } from './cluster-job.ts';
import { parsePodTemplate } from './pod-template.ts';

const template = parsePodTemplate(
  {
    spec: {
      serviceAccountName: 'training',
      nodeSelector: { gpu: 'h100' },
      tolerations: [{ key: 'nvidia.com/gpu', operator: 'Exists', effect: 'NoSchedule' }],
      volumes: [{ name: 'models', persistentVolumeClaim: { claimName: 'models' } }],
      containers: [
        {
          name: 'trainer',
          image: 'plumb/trainer:1',
          command: ['node', 'services/trainer/job.ts'],
          env: [{ name: 'PLUMB_NATS_URL', value: 'nats://nats:4222' }],
          resources: { limits: { 'nvidia.com/gpu': 1 } },
          volumeMounts: [{ name: 'models', mountPath: '/models' }],
        },
      ],
    },
  },
  'template',
);

const settings: ClusterJobSettings = {
  namespace: 'plumb',
  instance: 'plumb',
  template,
  nodes: 1,
  queue: undefined,
  workloadPriority: undefined,
  backoffLimit: 3,
  activeDeadlineSeconds: undefined,
  ttlSeconds: 86_400,
  owner: undefined,
};
const job: JobIdentity = { jobId: 'job-0123456789abcdef', runId: 'run-1', iteration: 2, carrier: {} };

const variants: readonly { readonly name: string; readonly change: Partial<ClusterJobSettings> }[] = [
  { name: 'plain', change: {} },
  { name: 'in a queue of Kueue', change: { queue: 'training', workloadPriority: 'low' } },
  { name: 'with a deadline', change: { activeDeadlineSeconds: 3600 } },
  { name: 'in several pods', change: { nodes: 4 } },
  {
    name: 'owned',
    change: { owner: { apiVersion: 'apps/v1', kind: 'Deployment', name: 'trainer', uid: 'u-1' } },
  },
];

/**
 * The fields of trainer.kubeflow.org/v1alpha1 that are used, and no others.
 * Source: kubeflow/trainer, pkg/apis/trainer/v1alpha1/trainjob_types.go (TrainJobSpec, RuntimePatch, PodSpecPatch).
 */
const environment = z.array(z.strictObject({ name: z.string(), value: z.string() })).max(128);
const metadataPatch = z.strictObject({
  labels: z.record(z.string(), z.string()).optional(),
  annotations: z.record(z.string(), z.string()).optional(),
});
const trainJobSchema = z.strictObject({
  apiVersion: z.literal('trainer.kubeflow.org/v1alpha1'),
  kind: z.literal('TrainJob'),
  metadata: z.looseObject({
    // The controller's own check: names of TrainJobs become labels and names of Services.
    name: z.string().regex(/^[a-z]([-a-z0-9]*[a-z0-9])?$/),
    namespace: z.string(),
  }),
  spec: z.strictObject({
    runtimeRef: z.strictObject({ name: z.string().min(1).max(253), apiGroup: z.string(), kind: z.string() }),
    trainer: z.strictObject({
      image: z.string().max(500),
      command: z.array(z.string()).max(128).optional(),
      args: z.array(z.string()).max(128).optional(),
      env: environment.optional(),
      numNodes: z.int32(),
      resourcesPerNode: z.looseObject({}).optional(),
    }),
    runtimePatches: z
      .array(
        z.strictObject({
          manager: z.string().min(1).max(253),
          trainingRuntimeSpec: z.strictObject({
            template: z.strictObject({
              spec: z.strictObject({
                replicatedJobs: z.array(
                  z.strictObject({
                    name: z.string().regex(/^[a-z0-9]([-a-z0-9]*[a-z0-9])?$/),
                    template: z.strictObject({
                      spec: z.strictObject({
                        template: z.strictObject({
                          metadata: metadataPatch,
                          spec: z.strictObject({
                            serviceAccountName: z.string().optional(),
                            volumes: z.array(z.looseObject({})).max(128).optional(),
                            imagePullSecrets: z.array(z.strictObject({ name: z.string() })).optional(),
                            securityContext: z.looseObject({}).optional(),
                            nodeSelector: z.record(z.string(), z.string()).optional(),
                            affinity: z.looseObject({}).optional(),
                            tolerations: z.array(z.looseObject({})).max(128).optional(),
                            containers: z.array(
                              z.strictObject({
                                name: z.string(),
                                volumeMounts: z.array(z.looseObject({})).optional(),
                                securityContext: z.looseObject({}).optional(),
                              }),
                            ),
                          }),
                        }),
                      }),
                    }),
                  }),
                ),
              }),
            }),
          }),
        }),
      )
      .max(16),
    suspend: z.boolean(),
    activeDeadlineSeconds: z.int().min(1).optional(),
  }),
});

for (const { name, change } of variants) {
  test(`${name}: a Job that the API server takes`, () => {
    const object = kubernetesJob({ ...settings, ...change }, job);
    new JobModel(object as never).validate();
    assert.equal(object.metadata.name, 'plumb-job-0123456789abcdef');
    assert.equal(object.spec.suspend, change.queue !== undefined);
    assert.equal(object.spec.activeDeadlineSeconds, change.activeDeadlineSeconds);
    assert.equal(object.spec.completionMode, change.nodes === undefined ? undefined : 'Indexed');
    assert.equal(object.spec.completions, change.nodes ?? 1);
    assert.equal(object.metadata.labels['kueue.x-k8s.io/queue-name'], change.queue);
    assert.equal(object.metadata.ownerReferences?.[0]?.uid, change.owner?.uid);
    // The pods are found by the same labels, but bear none that would put them into the queue once more.
    assert.equal(object.spec.template.metadata?.labels?.['plumb.dev/job-id'], job.jobId);
    assert.equal(object.spec.template.metadata.labels['kueue.x-k8s.io/queue-name'], undefined);
  });

  test(`${name}: a TrainJob with fields of v1alpha1 alone`, () => {
    const object = trainJob(
      { ...settings, ...change, runtime: 'torch-distributed', version: 'v1alpha1' },
      job,
    );
    // What goes over the wire: undefined fields are not there.
    const sent = trainJobSchema.parse(JSON.parse(JSON.stringify(object)));
    assert.equal(sent.spec.suspend, change.queue !== undefined);
    assert.equal(sent.spec.trainer.numNodes, change.nodes ?? 1);
    assert.equal(sent.spec.activeDeadlineSeconds, change.activeDeadlineSeconds);
    assert.deepEqual(sent.spec.trainer.args, [job.jobId]);
    const pod = sent.spec.runtimePatches[0]?.trainingRuntimeSpec.template.spec.replicatedJobs[0];
    const { metadata, spec } = pod?.template.spec.template ?? {};
    assert.equal(metadata?.labels?.['plumb.dev/job-id'], job.jobId);
    assert.deepEqual(spec?.nodeSelector, { gpu: 'h100' });
    // The container `node` takes its environment from spec.trainer alone; the webhook refuses it here.
    assert.deepEqual(Object.keys(spec.containers[0] ?? {}).toSorted(), [
      'name',
      'securityContext',
      'volumeMounts',
    ]);
  });
}

test('exit codes of bad input and bad settings end the job; disruptions do not count', () => {
  const { rules } = kubernetesJob(settings, job).spec.podFailurePolicy;
  assert.deepEqual(
    rules.map(({ action }) => action),
    ['FailJob', 'Ignore'],
  );
  assert.deepEqual(rules[0]?.onExitCodes?.values, [65, 78]);
  assert.deepEqual(rules[1]?.onPodConditions, [{ type: 'DisruptionTarget', status: 'True' }]);
});

test('the run is an annotation, the trace a variable; a job outside of a run has neither', () => {
  const traceparent = '00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01';
  const traced = kubernetesJob(settings, { ...job, carrier: { traceparent } });
  assert.deepEqual(traced.metadata.annotations, { 'plumb.dev/run-id': 'run-1', 'plumb.dev/iteration': '2' });
  const variablesOf = ({ spec }: typeof traced) => spec.template.spec.containers[0]?.env ?? [];
  assert.ok(variablesOf(traced).some(({ name, value }) => name === 'TRACEPARENT' && value === traceparent));
  const alone = kubernetesJob(settings, { ...job, runId: '' });
  assert.equal(alone.metadata.annotations, undefined);
  assert.ok(!variablesOf(alone).some(({ name }) => name === 'TRACEPARENT'));
});

test('what a TrainJob cannot carry is named', () => {
  assert.deepEqual(fieldsForRuntime(template), []);
  const more = parsePodTemplate(
    {
      spec: {
        priorityClassName: 'high',
        initContainers: [],
        containers: [...template.spec.containers, { name: 'watcher', image: 'watcher:1' }],
      },
    },
    'template',
  );
  assert.deepEqual(fieldsForRuntime(more), [
    'initContainers',
    'priorityClassName',
    'containers other than trainer',
  ]);
});

test('several pods train a job where the template says by which command', () => {
  assert.throws(() => {
    checkNodes(2, template);
  }, /PLUMB_TRAINING_NODES: is 2, and services\/trainer\/job\.ts trains a job in one pod/);
  const torch = parsePodTemplate(
    {
      spec: {
        containers: [
          {
            name: 'trainer',
            image: 'plumb/trainer-torch:1',
            command: ['node', 'services/trainer/job.ts'],
            env: [{ name: 'PLUMB_TRAINING_COMMAND', value: 'torchrun -m plumb_torch' }],
          },
        ],
      },
    },
    'template',
  );
  checkNodes(2, torch);
  const object = trainJob(
    { ...settings, template: torch, nodes: 2, runtime: 'torch-distributed', version: 'v1alpha1' },
    job,
  );
  assert.equal(object.spec.trainer.numNodes, 2);
  assert.deepEqual(object.spec.trainer.args, [job.jobId]);
  assert.ok(object.spec.trainer.env?.some(({ name }) => name === 'PLUMB_TRAINING_COMMAND'));
});
