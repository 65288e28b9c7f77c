import assert from 'node:assert/strict';
import { test } from 'node:test';
import { clusterStatus } from './cluster-status.ts';
import type { ClusterPhase, Condition, ObservedJob, ObservedPod } from './cluster-status.ts';

type PodStatus = NonNullable<ObservedPod['status']>;
type State = NonNullable<NonNullable<PodStatus['containerStatuses']>[number]['state']>;

const condition = (type: string, reason = '', message = ''): Condition => ({
  type,
  status: 'True',
  reason,
  message,
});
const jobWith = (...conditions: Condition[]): ObservedJob => ({ status: { conditions } });
const container = (state: State): PodStatus => ({ containerStatuses: [{ name: 'trainer', state }] });
const pod = (status: PodStatus, name = 'p-0', minute = 0): ObservedPod => ({
  metadata: { name, creationTimestamp: new Date(Date.UTC(2026, 0, 1, 0, minute)) },
  spec: { nodeName: 'node-7' },
  status,
});
const ended = (exitCode: number, reason = 'Error'): PodStatus => ({
  phase: 'Failed',
  ...container({ terminated: { exitCode, reason } }),
});
const disrupted = (reason: string): PodStatus => ({
  ...ended(143),
  conditions: [condition('DisruptionTarget', reason, 'it had to go')],
});

interface Case {
  readonly name: string;
  readonly job: ObservedJob | undefined;
  readonly pods?: readonly ObservedPod[];
  readonly existed?: boolean;
  readonly queue?: string;
  readonly workload?: readonly Condition[];
  readonly phase: ClusterPhase;
  readonly says?: RegExp;
  /** The job will never run again. */
  readonly final?: boolean;
}

const cases: readonly Case[] = [
  { name: 'not made yet', job: undefined, phase: 'pending' },
  { name: 'deleted by somebody', job: undefined, existed: true, phase: 'deleted', final: true },
  { name: 'no pod yet', job: {}, phase: 'pending', says: /no pod yet/ },
  { name: 'admitted, no pod yet', job: {}, queue: 'q', phase: 'admitted', says: /admitted from queue q/ },
  {
    name: 'a pod without a node',
    job: {},
    pods: [
      pod({
        phase: 'Pending',
        conditions: [{ type: 'PodScheduled', status: 'False', message: '0/3 nodes: Insufficient gpu' }],
      }),
    ],
    phase: 'pending',
    says: /finds no node: 0\/3 nodes: Insufficient gpu/,
  },
  {
    name: 'a pod that starts',
    job: {},
    pods: [pod({ phase: 'Pending', ...container({ waiting: { reason: 'ContainerCreating' } }) })],
    phase: 'starting',
    says: /ContainerCreating/,
  },
  {
    name: 'an image that cannot be had',
    job: {},
    pods: [
      pod({ phase: 'Pending', ...container({ waiting: { reason: 'ErrImagePull', message: 'denied' } }) }),
    ],
    phase: 'image-error',
    says: /container trainer of pod p-0 cannot start: ErrImagePull: denied; mend/,
  },
  {
    name: 'an init container whose image cannot be had',
    job: {},
    pods: [
      pod({
        phase: 'Pending',
        initContainerStatuses: [{ name: 'models', state: { waiting: { reason: 'InvalidImageName' } } }],
      }),
    ],
    phase: 'image-error',
    says: /container models/,
  },
  {
    name: 'running',
    job: {},
    pods: [pod({ phase: 'Running', ...container({ running: {} }) })],
    phase: 'running',
    says: /p-0 on node node-7/,
  },
  {
    name: 'a new pod after a lost one: the new one counts',
    job: {},
    pods: [
      pod({ phase: 'Running', ...container({ running: {} }) }, 'p-1', 1),
      pod(disrupted('DeletionByPodGC'), 'p-0', 0),
    ],
    phase: 'running',
    says: /p-1/,
  },
  {
    name: 'finished, the Job does not know yet',
    job: {},
    pods: [pod({ phase: 'Succeeded', ...container({ terminated: { exitCode: 0 } }) })],
    phase: 'running',
  },
  { name: 'complete', job: jobWith(condition('Complete')), phase: 'complete' },
  { name: 'success criteria met', job: jobWith(condition('SuccessCriteriaMet')), phase: 'complete' },
  {
    name: 'a condition that is not true says nothing',
    job: { status: { conditions: [{ type: 'Failed', status: 'False' }] } },
    phase: 'pending',
  },
  { name: 'killed for memory', job: {}, pods: [pod(ended(137, 'OOMKilled'))], phase: 'out-of-memory' },
  {
    name: 'something that may pass',
    job: {},
    pods: [pod(ended(75))],
    phase: 'restarting',
    says: /exit code 75 \(something that may pass\); a new pod goes on/,
  },
  {
    name: 'bad settings',
    job: {},
    pods: [pod(ended(78))],
    phase: 'restarting',
    says: /its settings are wrong/,
  },
  ...(
    [
      ['PreemptionByScheduler', 'preempted'],
      ['EvictionByEvictionAPI', 'evicted'],
      ['TerminationByKubelet', 'evicted'],
      ['DeletionByTaintManager', 'node-lost'],
      ['DeletionByPodGC', 'node-lost'],
      ['SomethingNew', 'evicted'],
    ] as const
  ).map(([reason, phase]): Case => ({
    name: `disrupted: ${reason}`,
    job: {},
    pods: [pod(disrupted(reason))],
    phase,
    says: new RegExp(`taken away \\(${reason}\\): it had to go`),
  })),
  {
    name: 'a pod that is about to be preempted trains no more',
    job: {},
    pods: [
      pod({
        phase: 'Running',
        ...container({ running: {} }),
        conditions: [condition('DisruptionTarget', 'PreemptionByScheduler')],
      }),
    ],
    phase: 'preempted',
  },
  {
    name: 'evicted by a kubelet that sets no condition',
    job: {},
    pods: [pod({ phase: 'Failed', reason: 'Evicted', message: 'The node was low on resource: memory.' })],
    phase: 'evicted',
    says: /low on resource: memory/,
  },
  {
    name: 'a node that does not answer',
    job: {},
    pods: [pod({ phase: 'Unknown', ...container({ running: {} }) })],
    phase: 'node-lost',
    says: /node node-7 of pod p-0 does not answer/,
  },
  {
    name: 'a lost node by the reason of the pod',
    job: {},
    pods: [pod({ phase: 'Running', reason: 'NodeLost' })],
    phase: 'node-lost',
  },
  {
    name: 'past its deadline',
    job: jobWith(condition('Failed', 'DeadlineExceeded')),
    phase: 'failed',
    says: /raise PLUMB_TRAINING_ACTIVE_DEADLINE_SECONDS/,
    final: true,
  },
  {
    name: 'failed too often, with what happened last',
    job: jobWith(condition('Failed', 'BackoffLimitExceeded')),
    pods: [pod(ended(137, 'OOMKilled'))],
    phase: 'failed',
    says: /PLUMB_TRAINING_BACKOFF_LIMIT allows; pod p-0 was killed for memory/,
    final: true,
  },
  {
    name: 'failed by its pod failure policy, which is about to be a condition',
    job: jobWith(condition('FailureTarget', 'PodFailurePolicy', 'exit code 65')),
    phase: 'failed',
    says: /\(PodFailurePolicy\): exit code 65/,
    final: true,
  },
  {
    name: 'being deleted',
    job: { metadata: { deletionTimestamp: '2026-01-01T00:00:00Z' } },
    phase: 'deleting',
  },
  {
    name: 'suspended by somebody',
    job: { spec: { suspend: true } },
    phase: 'suspended',
    says: /set its spec\.suspend to false/,
  },
  {
    name: 'waits in the queue, nothing known',
    job: { spec: { suspend: true } },
    queue: 'q',
    phase: 'suspended',
    says: /^waits in queue q of Kueue$/,
  },
  {
    name: 'waits in the queue for room',
    job: { spec: { suspend: true } },
    queue: 'q',
    workload: [{ type: 'QuotaReserved', status: 'False', message: 'insufficient quota for nvidia.com/gpu' }],
    phase: 'suspended',
    says: /insufficient quota/,
  },
  {
    name: 'preempted by Kueue',
    job: { spec: { suspend: true } },
    queue: 'q',
    workload: [condition('Evicted', 'Preempted', 'for another')],
    phase: 'preempted',
    says: /Kueue took its place away \(Preempted\): for another; it waits in queue q/,
  },
  {
    name: 'evicted by Kueue for another reason',
    job: { spec: { suspend: true } },
    queue: 'q',
    workload: [condition('Evicted', 'PodsReadyTimeout')],
    phase: 'evicted',
  },
  {
    name: 'back in the queue after a pod was lost',
    job: { spec: { suspend: true } },
    queue: 'q',
    pods: [pod(disrupted('DeletionByPodGC'))],
    phase: 'node-lost',
    says: /it waits in queue q again/,
  },
];

for (const given of cases) {
  test(given.name, () => {
    const { job, pods = [], existed = job !== undefined, queue, workload } = given;
    const status = clusterStatus(job, pods, {
      existed,
      queue,
      ...(workload === undefined ? {} : { workload: { status: { conditions: workload } } }),
    });
    assert.equal(status.phase, given.phase, status.message);
    if (given.says !== undefined) assert.match(status.message, given.says);
    assert.equal(status.error?.reason, given.final === true ? 'JOB_FAILED' : undefined);
  });
}
