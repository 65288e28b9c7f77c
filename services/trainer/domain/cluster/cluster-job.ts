import { invalidArgument } from '@plumb/kit/errors';
import { exitCodes } from '../exit-codes.ts';
import { labels, manager, objectName, trainerContainer } from './job-name.ts';
import { podOf } from './pod-template.ts';
import type { PodTemplate } from './pod-template.ts';

/** What all jobs of a trainer have in common. */
export interface ClusterJobSettings {
  readonly namespace: string;
  /** Name of the trainer among those of the namespace. */
  readonly instance: string;
  readonly template: PodTemplate;
  /** Pods that train one job together; `checkNodes` says when more than one can. */
  readonly nodes: number;
  /** Kueue's LocalQueue; undefined is no Kueue. */
  readonly queue: string | undefined;
  /** Kueue's WorkloadPriorityClass. */
  readonly workloadPriority: string | undefined;
  /** Failures of pods, evictions and lost nodes not counted, before the job has failed. */
  readonly backoffLimit: number;
  /** Longest time that the job may be active, in seconds; time in the queue does not count. */
  readonly activeDeadlineSeconds: number | undefined;
  /** The cluster removes a finished job, with its pods and their logs, after this long. */
  readonly ttlSeconds: number;
  /** What takes the jobs along when it is deleted: the trainer's Deployment. Not its pod, which comes and goes. */
  readonly owner:
    | { readonly apiVersion: string; readonly kind: string; readonly name: string; readonly uid: string }
    | undefined;
}

/** What differs from job to job. */
export interface JobIdentity {
  readonly jobId: string;
  /** Empty outside of a run. */
  readonly runId: string;
  readonly iteration: number;
  /** Trace in which the job was created. */
  readonly carrier: Readonly<Record<string, string>>;
}

const hasKeys = (value: object): boolean => Object.keys(value).length > 0;

/** The program of our own image, which trains a job in one pod. */
const oneNodeProgram = /(^|\/)services\/trainer\/job\.ts$/;

/**
 * Refuses several pods for a job where they would run our own program: all but the first would end at once.
 * @throws PlumbError INVALID_ARGUMENT (CONFIGURATION_INVALID)
 */
export function checkNodes(nodes: number, template: PodTemplate): void {
  if (nodes === 1) return;
  const container = template.spec.containers.find(({ name }) => name === trainerContainer);
  const program = [...(container?.command ?? []), ...(container?.args ?? [])];
  // With a command that trains, it starts that in every pod.
  if (container?.env?.some(({ name, value }) => name === 'PLUMB_TRAINING_COMMAND' && value !== '')) return;
  // Without a command it is the image's own, and that of our image is this program as well.
  if (program.length > 0 && !program.some((word) => oneNodeProgram.test(word))) return;
  throw invalidArgument(
    'PLUMB_TRAINING_NODES',
    `is ${nodes}, and services/trainer/job.ts trains a job in one pod; set it to 1, set PLUMB_TRAINING_COMMAND in the pod template (docs/distributed-training.md), or let the pod template's container ${trainerContainer} run a program that trains across pods`,
    { reason: 'CONFIGURATION_INVALID' },
  );
}

/** The metadata of a job's object, and what its pods are told. */
function partsOf(settings: ClusterJobSettings, job: JobIdentity, backend: string) {
  const name = objectName(settings.instance, job.jobId);
  // The template's own go before: network policies select pods by them.
  const named = {
    'app.kubernetes.io/name': 'plumb',
    'app.kubernetes.io/component': 'training-job',
    ...settings.template.metadata?.labels,
  };
  const own: Record<string, string> = {
    ...named,
    [labels.managedBy]: manager,
    [labels.trainer]: settings.instance,
    [labels.jobId]: job.jobId,
  };
  const annotations: Record<string, string> =
    job.runId === '' ? {} : { 'plumb.dev/run-id': job.runId, 'plumb.dev/iteration': String(job.iteration) };
  const queueLabels: Record<string, string> = {
    ...(settings.queue === undefined ? {} : { [labels.queue]: settings.queue }),
    ...(settings.workloadPriority === undefined
      ? {}
      : { [labels.workloadPriority]: settings.workloadPriority }),
  };
  const metadata = {
    name,
    namespace: settings.namespace,
    labels: { ...own, ...queueLabels },
    ...(hasKeys(annotations) ? { annotations } : {}),
    ...(settings.owner === undefined
      ? {}
      : // No block: an uninstall does not wait for the jobs.
        { ownerReferences: [{ ...settings.owner, controller: false, blockOwnerDeletion: false }] }),
  };
  const { traceparent } = job.carrier;
  const pod = podOf(settings.template, {
    labels: own,
    annotations,
    args: [job.jobId],
    env: {
      PLUMB_TRAINING_BACKEND: backend,
      ...(traceparent === undefined ? {} : { TRACEPARENT: traceparent }),
    },
  });
  return { metadata, pod };
}

/** A batch/v1 Job that runs a training job; Indexed where several pods train it. */
export function kubernetesJob(settings: ClusterJobSettings, job: JobIdentity) {
  const { metadata, pod } = partsOf(settings, job, 'kubernetes-job');
  return {
    apiVersion: 'batch/v1' as const,
    kind: 'Job' as const,
    metadata,
    spec: {
      // Kueue takes it out of suspension when there is room.
      suspend: settings.queue !== undefined,
      backoffLimit: settings.backoffLimit,
      completions: settings.nodes,
      parallelism: settings.nodes,
      ...(settings.nodes > 1 ? { completionMode: 'Indexed' as const } : {}),
      ttlSecondsAfterFinished: settings.ttlSeconds,
      ...(settings.activeDeadlineSeconds === undefined
        ? {}
        : { activeDeadlineSeconds: settings.activeDeadlineSeconds }),
      // A pod that is going away may still write: the next one waits until it is gone.
      podReplacementPolicy: 'Failed' as const,
      podFailurePolicy: {
        // The first rule that fits decides; failures that none fits count towards backoffLimit.
        rules: [
          {
            action: 'FailJob' as const,
            onExitCodes: {
              containerName: trainerContainer,
              operator: 'In' as const,
              values: [exitCodes.failed, exitCodes.configuration],
            },
          },
          // Eviction, preemption, a lost node: no fault of the job's.
          { action: 'Ignore' as const, onPodConditions: [{ type: 'DisruptionTarget', status: 'True' }] },
        ],
      },
      template: pod,
    },
  };
}

/** Fields of a pod that a TrainJob cannot carry: they belong into the training runtime. */
const runtimeOnly = [
  'initContainers',
  'priorityClassName',
  'runtimeClassName',
  'topologySpreadConstraints',
  'hostNetwork',
  'dnsPolicy',
  'schedulerName',
] as const;

/** Fields of a template that a TrainJob leaves out, for a warning at the start. */
export function fieldsForRuntime(template: PodTemplate): string[] {
  const found: string[] = runtimeOnly.filter((field) => template.spec[field] !== undefined).map(String);
  if (template.spec.containers.length > 1) found.push('containers other than trainer');
  return found;
}

/**
 * A TrainJob of Kubeflow Trainer that runs a training job on a runtime of the cluster. The container's image, command,
 * environment and resources go into `trainer`, the pod's own fields into a patch of the runtime. Its retries, deadlines and
 * pod failure policy are the runtime's.
 */
export function trainJob(
  settings: ClusterJobSettings & { readonly runtime: string; readonly version: string },
  job: JobIdentity,
) {
  const { metadata, pod } = partsOf(settings, job, 'kubeflow');
  const container = pod.spec.containers.find(({ name }) => name === trainerContainer);
  if (container === undefined) throw new TypeError('a checked template has a trainer container');
  const podFields = [
    'serviceAccountName',
    'volumes',
    'imagePullSecrets',
    'securityContext',
    'nodeSelector',
    'affinity',
    'tolerations',
  ] as const;
  const carried = Object.fromEntries(
    podFields.filter((field) => pod.spec[field] !== undefined).map((field) => [field, pod.spec[field]]),
  );
  return {
    apiVersion: `trainer.kubeflow.org/${settings.version}`,
    kind: 'TrainJob' as const,
    metadata,
    spec: {
      runtimeRef: {
        apiGroup: 'trainer.kubeflow.org',
        kind: 'ClusterTrainingRuntime',
        name: settings.runtime,
      },
      suspend: settings.queue !== undefined,
      ...(settings.activeDeadlineSeconds === undefined
        ? {}
        : { activeDeadlineSeconds: settings.activeDeadlineSeconds }),
      trainer: {
        image: container.image,
        ...(container.command === undefined ? {} : { command: container.command }),
        args: container.args,
        env: container.env,
        numNodes: settings.nodes,
        ...(container.resources === undefined ? {} : { resourcesPerNode: container.resources }),
      },
      runtimePatches: [
        {
          manager: 'plumb.dev/trainer',
          trainingRuntimeSpec: {
            template: {
              spec: {
                replicatedJobs: [
                  {
                    name: 'node',
                    template: {
                      spec: {
                        template: {
                          metadata: {
                            labels: pod.metadata?.labels,
                            ...(hasKeys(pod.metadata?.annotations ?? {})
                              ? { annotations: pod.metadata?.annotations }
                              : {}),
                          },
                          spec: {
                            ...carried,
                            containers: [
                              {
                                name: 'node',
                                securityContext: container.securityContext,
                                ...(container['volumeMounts'] === undefined
                                  ? {}
                                  : { volumeMounts: container['volumeMounts'] }),
                              },
                            ],
                          },
                        },
                      },
                    },
                  },
                ],
              },
            },
          },
        },
      ],
    },
  };
}
