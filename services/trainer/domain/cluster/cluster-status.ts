import { failedPrecondition } from '@plumb/kit/errors';
import type { PlumbError } from '@plumb/kit/errors';
import { exitCodes } from '../exit-codes.ts';

/** A condition of any object. */
export interface Condition {
  readonly type: string;
  readonly status: string;
  readonly reason?: string | undefined;
  readonly message?: string | undefined;
}

/** What is read of a batch/v1 Job or a TrainJob. */
export interface ObservedJob {
  readonly metadata?:
    | {
        readonly name?: string | undefined;
        readonly uid?: string | undefined;
        readonly resourceVersion?: string | undefined;
        readonly deletionTimestamp?: Date | string | undefined;
        readonly labels?: Readonly<Record<string, string>> | undefined;
      }
    | undefined;
  readonly spec?: { readonly suspend?: boolean | undefined } | undefined;
  readonly status?: { readonly conditions?: readonly Condition[] | undefined } | undefined;
}

interface Terminated {
  readonly exitCode: number;
  readonly reason?: string | undefined;
  readonly message?: string | undefined;
}

interface ContainerState {
  readonly name: string;
  readonly state?:
    | {
        readonly waiting?:
          { readonly reason?: string | undefined; readonly message?: string | undefined } | undefined;
        readonly running?: object | undefined;
        readonly terminated?: Terminated | undefined;
      }
    | undefined;
}

/** What is read of a pod. */
export interface ObservedPod {
  readonly metadata?:
    | {
        readonly name?: string | undefined;
        readonly resourceVersion?: string | undefined;
        readonly creationTimestamp?: Date | string | undefined;
        readonly deletionTimestamp?: Date | string | undefined;
        readonly labels?: Readonly<Record<string, string>> | undefined;
      }
    | undefined;
  readonly spec?: { readonly nodeName?: string | undefined } | undefined;
  readonly status?:
    | {
        readonly phase?: string | undefined;
        readonly reason?: string | undefined;
        readonly message?: string | undefined;
        readonly conditions?: readonly Condition[] | undefined;
        readonly initContainerStatuses?: readonly ContainerState[] | undefined;
        readonly containerStatuses?: readonly ContainerState[] | undefined;
      }
    | undefined;
}

/** What is read of Kueue's Workload. */
export interface ObservedWorkload {
  readonly status?: { readonly conditions?: readonly Condition[] | undefined } | undefined;
}

export type ClusterPhase =
  | 'pending'
  | 'suspended'
  | 'admitted'
  | 'starting'
  | 'running'
  | 'image-error'
  | 'out-of-memory'
  | 'evicted'
  | 'node-lost'
  | 'preempted'
  | 'restarting'
  | 'deleting'
  | 'complete'
  | 'failed'
  | 'deleted';

export interface ClusterStatus {
  readonly phase: ClusterPhase;
  /** For people: what it waits for, or what went wrong last. */
  readonly message: string;
  /** Why the job will never run again; undefined while it may. */
  readonly error?: PlumbError;
}

/**
 * Where a job of the cluster stands, from the conditions of the job and the states of its pods together: neither alone tells.
 * A job's conditions say nothing about a pod that cannot pull its image; a pod's end says nothing about whether the job tries
 * again.
 *
 * @param job undefined when there is no such object
 * @param options.existed whether it was there before
 * @param options.queue Kueue's queue, if any
 * @param options.workload Kueue's own view of the job, where it can be read
 */
export function clusterStatus(
  job: ObservedJob | undefined,
  pods: readonly ObservedPod[],
  options: {
    readonly existed: boolean;
    readonly queue?: string | undefined;
    readonly workload?: ObservedWorkload | undefined;
  },
): ClusterStatus {
  const { queue, workload } = options;
  if (job === undefined) {
    return options.existed
      ? ended('deleted', 'somebody deleted the job in the cluster; resume the run to train again')
      : { phase: 'pending', message: 'the job is being created' };
  }
  const newest = newestFirst(pods);
  const trouble = newest.map(troubleOf).find((found) => found !== undefined);

  const failure = conditionOf(job, 'Failed') ?? conditionOf(job, 'FailureTarget');
  if (failure !== undefined) return ended('failed', failureMessage(failure, trouble));
  if (conditionOf(job, 'Complete') !== undefined || conditionOf(job, 'SuccessCriteriaMet') !== undefined) {
    return { phase: 'complete', message: 'the pods have finished' };
  }
  if (job.metadata?.deletionTimestamp !== undefined) {
    return { phase: 'deleting', message: 'somebody is deleting the job in the cluster' };
  }
  if (job.spec?.suspend === true) return suspended(queue, workload, trouble);

  const alive = newest.find(
    (pod) => !['Succeeded', 'Failed'].includes(pod.status?.phase ?? '') && troubleOf(pod) === undefined,
  );
  if (alive === undefined) {
    if (trouble !== undefined) {
      return {
        phase: trouble.phase,
        message: `${trouble.message}; a new pod goes on from the last checkpoint`,
      };
    }
    if (newest.some((pod) => pod.status?.phase === 'Succeeded')) {
      return { phase: 'running', message: 'the pod has finished; the job is about to' };
    }
    return queue === undefined
      ? { phase: 'pending', message: 'no pod yet' }
      : { phase: 'admitted', message: `admitted from queue ${queue}; no pod yet` };
  }
  return aliveStatus(alive);
}

/** Waiting reasons of a container that no waiting mends, or that only a change of the image or its secrets does. */
const imageReasons: ReadonlySet<string> = new Set([
  'ErrImagePull',
  'ImagePullBackOff',
  'InvalidImageName',
  'ErrImageNeverPull',
  'ImageInspectError',
  'RegistryUnavailable',
  'CreateContainerConfigError',
  'CreateContainerError',
]);

function aliveStatus(pod: ObservedPod): ClusterStatus {
  const name = pod.metadata?.name ?? '';
  const states = [...(pod.status?.initContainerStatuses ?? []), ...(pod.status?.containerStatuses ?? [])];
  for (const { name: container, state } of states) {
    const { reason = '', message = '' } = state?.waiting ?? {};
    if (imageReasons.has(reason)) {
      return {
        phase: 'image-error',
        message: `container ${container} of pod ${name} cannot start: ${reason}${message === '' ? '' : `: ${message}`}; mend the image, its name or its pull secret`,
      };
    }
  }
  if (pod.status?.phase === 'Running') {
    const node = pod.spec?.nodeName;
    return { phase: 'running', message: `pod ${name}${node === undefined ? '' : ` on node ${node}`}` };
  }
  const scheduled = pod.status?.conditions?.find(({ type }) => type === 'PodScheduled');
  if (scheduled?.status === 'False') {
    return {
      phase: 'pending',
      message: `pod ${name} finds no node: ${scheduled.message ?? scheduled.reason ?? 'no reason given'}`,
    };
  }
  const waiting = states.find(({ state }) => state?.waiting !== undefined)?.state?.waiting?.reason;
  return { phase: 'starting', message: `pod ${name} starts${waiting === undefined ? '' : ` (${waiting})`}` };
}

function suspended(
  queue: string | undefined,
  workload: ObservedWorkload | undefined,
  trouble: Trouble | undefined,
): ClusterStatus {
  if (queue === undefined) {
    return {
      phase: 'suspended',
      message: 'somebody suspended the job; set its spec.suspend to false to go on',
    };
  }
  const conditions = workload?.status?.conditions ?? [];
  const evicted = conditions.find(({ type, status }) => type === 'Evicted' && status === 'True');
  if (evicted !== undefined) {
    return {
      phase: evicted.reason === 'Preempted' ? 'preempted' : 'evicted',
      message: `Kueue took its place away (${evicted.reason ?? 'no reason given'}): ${evicted.message ?? ''}; it waits in queue ${queue} and goes on from the last checkpoint`,
    };
  }
  if (trouble !== undefined) {
    return { phase: trouble.phase, message: `${trouble.message}; it waits in queue ${queue} again` };
  }
  const reserved = conditions.find(({ type }) => type === 'QuotaReserved');
  const why = reserved?.status === 'False' ? `: ${reserved.message ?? reserved.reason ?? ''}` : '';
  return { phase: 'suspended', message: `waits in queue ${queue} of Kueue${why}` };
}

interface Trouble {
  readonly phase: 'out-of-memory' | 'evicted' | 'node-lost' | 'preempted' | 'restarting';
  readonly message: string;
}

/** Reasons of DisruptionTarget. Source: kubernetes.io/docs/concepts/workloads/pods/disruptions. */
const disruptions: Readonly<Record<string, Trouble['phase']>> = {
  PreemptionByScheduler: 'preempted',
  DeletionByTaintManager: 'node-lost',
  DeletionByPodGC: 'node-lost',
  EvictionByEvictionAPI: 'evicted',
  TerminationByKubelet: 'evicted',
};

/** Why a pod trains no more; undefined when it does, or has done its work. */
function troubleOf(pod: ObservedPod): Trouble | undefined {
  const { status, metadata, spec } = pod;
  const name = metadata?.name ?? '';
  const disruption = status?.conditions?.find((c) => c.type === 'DisruptionTarget' && c.status === 'True');
  if (disruption !== undefined) {
    return {
      phase: disruptions[disruption.reason ?? ''] ?? 'evicted',
      message: `pod ${name} was taken away (${disruption.reason ?? 'no reason given'}): ${disruption.message ?? ''}`,
    };
  }
  if (status?.reason === 'NodeLost' || status?.phase === 'Unknown') {
    return { phase: 'node-lost', message: `node ${spec?.nodeName ?? ''} of pod ${name} does not answer` };
  }
  if (status?.reason === 'Evicted') {
    return { phase: 'evicted', message: `pod ${name} was evicted: ${status.message ?? ''}` };
  }
  if (status?.phase !== 'Failed') return undefined;
  const ends = (status.containerStatuses ?? []).flatMap(({ state }) => state?.terminated ?? []);
  const killed = ends.find(({ reason }) => reason === 'OOMKilled');
  if (killed !== undefined) {
    return {
      phase: 'out-of-memory',
      message: `pod ${name} was killed for memory; raise its memory limit, or set optimisation.rematerialise to blocks`,
    };
  }
  const end = ends.find(({ exitCode }) => exitCode !== 0);
  return {
    phase: 'restarting',
    message:
      end === undefined
        ? `pod ${name} failed: ${status.message ?? status.reason ?? 'no reason given'}`
        : `pod ${name} ended with exit code ${end.exitCode}${meaningOf(end.exitCode)}`,
  };
}

function meaningOf(exitCode: number): string {
  if (exitCode === exitCodes.failed) return ' (it failed for good)';
  if (exitCode === exitCodes.configuration) return ' (its settings are wrong; its log says which)';
  if (exitCode === exitCodes.tryAgain) return ' (something that may pass)';
  return '';
}

function failureMessage({ reason = '', message = '' }: Condition, trouble: Trouble | undefined): string {
  const last = trouble === undefined ? '' : `; ${trouble.message}`;
  if (reason === 'DeadlineExceeded') {
    return `the job was active for longer than its deadline; raise PLUMB_TRAINING_ACTIVE_DEADLINE_SECONDS${last}`;
  }
  if (reason === 'BackoffLimitExceeded') {
    return `the job's pods failed more often than PLUMB_TRAINING_BACKOFF_LIMIT allows${last}`;
  }
  return `the job failed in the cluster (${reason}): ${message}${last}`;
}

function ended(phase: 'failed' | 'deleted', message: string): ClusterStatus {
  return { phase, message, error: failedPrecondition(message, { reason: 'JOB_FAILED' }) };
}

function conditionOf(job: ObservedJob, type: string): Condition | undefined {
  return job.status?.conditions?.find((condition) => condition.type === type && condition.status === 'True');
}

function newestFirst(pods: readonly ObservedPod[]): ObservedPod[] {
  const created = ({ metadata }: ObservedPod): number => new Date(metadata?.creationTimestamp ?? 0).getTime();
  return pods.toSorted((a, b) => created(b) - created(a));
}
