import assert from 'node:assert/strict';
import { test } from 'node:test';
import type { PlumbError } from '@plumb/kit/errors';
import { PodTemplate as PodTemplateModel } from 'kubernetes-models/v1/PodTemplate';
import { parsePodTemplate, podOf } from './pod-template.ts';

const trainer = { name: 'trainer', image: 'plumb/trainer:1' };
const source = 'PLUMB_TRAINING_POD_TEMPLATE';
const job = {
  labels: { 'plumb.dev/job-id': 'job-1' },
  annotations: {},
  args: ['job-1'],
  env: { PLUMB_TRAINING_BACKEND: 'kubernetes-job' },
};

/** Throws where the API server would refuse the template. */
function validate(template: object): void {
  new PodTemplateModel({ metadata: { name: 'checked' }, template }).validate();
}

const refusals: readonly { readonly name: string; readonly given: unknown; readonly says: RegExp }[] = [
  { name: 'nothing', given: undefined, says: /PLUMB_TRAINING_POD_TEMPLATE/ },
  { name: 'no spec', given: {}, says: /POD_TEMPLATE: spec/ },
  { name: 'no container', given: { spec: { containers: [] } }, says: /spec\.containers/ },
  {
    name: 'no image',
    given: { spec: { containers: [{ name: 'trainer' }] } },
    says: /spec\.containers\[0\]\.image/,
  },
  {
    name: 'a number for the value of a variable',
    given: { spec: { containers: [{ ...trainer, env: [{ name: 'A', value: 1 }] }] } },
    says: /spec\.containers\[0\]\.env\[0\]\.value/,
  },
  {
    name: 'nobody who trains',
    given: { spec: { containers: [{ ...trainer, name: 'main' }] } },
    says: /spec\.containers: none is named trainer; give the one that trains that name/,
  },
  {
    name: 'pods that the kubelet restarts',
    given: { spec: { containers: [trainer], restartPolicy: 'OnFailure' } },
    says: /spec\.restartPolicy: is OnFailure; leave it out/,
  },
];

for (const { name, given, says } of refusals) {
  test(`a template is refused with its field: ${name}`, () => {
    assert.throws(
      () => parsePodTemplate(given, source),
      (error: PlumbError) => {
        assert.equal(error.reason, 'CONFIGURATION_INVALID');
        assert.match(error.message, says);
        return true;
      },
    );
  });
}

test('a bare template becomes a pod at the restricted level that stays for a checkpoint', () => {
  const pod = podOf(parsePodTemplate({ spec: { containers: [trainer] } }, source), job);
  validate(pod);
  assert.equal(pod.spec.restartPolicy, 'Never');
  assert.equal(pod.spec.automountServiceAccountToken, false);
  assert.equal(pod.spec.terminationGracePeriodSeconds, 60);
  assert.deepEqual(pod.spec.securityContext, {
    runAsNonRoot: true,
    seccompProfile: { type: 'RuntimeDefault' },
  });
  assert.deepEqual(pod.spec.containers[0]?.securityContext, {
    allowPrivilegeEscalation: false,
    readOnlyRootFilesystem: true,
    capabilities: { drop: ['ALL'] },
  });
});

test('what the template says is kept, and what the job says goes before it', () => {
  const template = parsePodTemplate(
    {
      metadata: { labels: { team: 'video', 'plumb.dev/job-id': 'nobody' }, annotations: { a: 'b' } },
      spec: {
        terminationGracePeriodSeconds: 300,
        nodeSelector: { gpu: 'h100' },
        securityContext: { runAsUser: 1000 },
        containers: [
          {
            ...trainer,
            args: ['--threads', '4'],
            env: [
              { name: 'PLUMB_TRAINING_BACKEND', value: 'local' },
              { name: 'KEPT', value: 'yes' },
            ],
            resources: { limits: { 'nvidia.com/gpu': 1 } },
            securityContext: { readOnlyRootFilesystem: false },
          },
          { name: 'watcher', image: 'watcher:1', args: ['--all'] },
        ],
      },
    },
    source,
  );
  const pod = podOf(template, job);
  validate(pod);
  assert.deepEqual(pod.metadata?.labels, { team: 'video', 'plumb.dev/job-id': 'job-1' });
  assert.deepEqual(pod.metadata.annotations, { a: 'b' });
  assert.equal(pod.spec.terminationGracePeriodSeconds, 300);
  assert.deepEqual(pod.spec['nodeSelector'], { gpu: 'h100' });
  assert.equal(pod.spec.securityContext?.['runAsUser'], 1000);
  assert.equal(pod.spec.securityContext['runAsNonRoot'], true);
  const [trains, watches] = pod.spec.containers;
  assert.deepEqual(trains?.args, ['--threads', '4', 'job-1']);
  assert.deepEqual(trains.env, [
    { name: 'KEPT', value: 'yes' },
    { name: 'PLUMB_TRAINING_BACKEND', value: 'kubernetes-job' },
  ]);
  assert.equal(trains.securityContext?.['readOnlyRootFilesystem'], false);
  assert.deepEqual(trains.securityContext['capabilities'], { drop: ['ALL'] });
  // Another container is told nothing of the job.
  assert.deepEqual(watches?.args, ['--all']);
  assert.equal(watches.env, undefined);
  // A template makes many pods.
  assert.deepEqual(template.spec.containers[0]?.args, ['--threads', '4']);
});
