import { AppsV1Api, BatchV1Api, CoreV1Api, CustomObjectsApi } from '@plumb/kubernetes/api';
import type { V1Job, V1OwnerReference } from '@plumb/kubernetes/api';
import { fromKubernetes, isNotFound, observeObjects, servedVersion } from '@plumb/kubernetes';
import type { Cluster, ObservedObjects } from '@plumb/kubernetes';
import { failedPrecondition, invalidArgument } from '@plumb/kit/errors';
import { logger } from '@plumb/kit/telemetry';
import { kubernetesJob, trainJob } from '../../domain/cluster/cluster-job.ts';
import type { ClusterJobSettings, JobIdentity } from '../../domain/cluster/cluster-job.ts';
import type { ObservedJob, ObservedPod, ObservedWorkload } from '../../domain/cluster/cluster-status.ts';
import { selectorOf } from '../../domain/cluster/job-name.ts';

/** The objects of the cluster that stand for jobs: Jobs, or TrainJobs. Every failure is a PlumbError. */
export interface ClusterObjects {
  readonly kind: 'Job' | 'TrainJob';
  readonly jobs: ObservedObjects<ObservedJob>;
  readonly pods: ObservedObjects<ObservedPod>;
  /** @throws PlumbError ALREADY_EXISTS */
  create(job: JobIdentity): Promise<ObservedJob>;
  /** Undefined where there is none. */
  read(name: string): Promise<ObservedJob | undefined>;
  /** Deletes that very object and its pods; one that is gone, or another of its name, is left alone. */
  remove(name: string, uid: string): Promise<void>;
  /** Kueue's view of an object; undefined where there is none or it may not be read. */
  workload(uid: string): Promise<ObservedWorkload | undefined>;
  stop(): Promise<void>;
}

/** Versions of Kubeflow Trainer's API that we speak, the best first. */
const kubeflowVersions = ['v1alpha1'] as const;
const kubeflowGroup = 'trainer.kubeflow.org';
const kueueGroup = 'kueue.x-k8s.io';

/** What is told with every create and delete. */
const fieldManager = 'plumb-trainer';

type Observed<T> = {
  readonly items: readonly T[];
  readonly metadata?: { readonly resourceVersion?: string };
};

function podsOf(cluster: Cluster, instance: string): ObservedObjects<ObservedPod> {
  const { namespace } = cluster;
  return observeObjects<ObservedPod>(cluster, {
    path: `/api/v1/namespaces/${namespace}/pods`,
    labelSelector: selectorOf(instance),
    list: async (query) => await cluster.api(CoreV1Api).listNamespacedPod({ namespace, ...query }),
  });
}

/** A batch/v1 Job for each training job. */
export function jobObjects(cluster: Cluster, settings: ClusterJobSettings): ClusterObjects {
  const { namespace } = cluster;
  const api = cluster.api(BatchV1Api);
  const jobs = observeObjects<ObservedJob>(cluster, {
    path: `/apis/batch/v1/namespaces/${namespace}/jobs`,
    labelSelector: selectorOf(settings.instance),
    list: async (query) => await api.listNamespacedJob({ namespace, ...query }),
  });
  const pods = podsOf(cluster, settings.instance);
  return {
    kind: 'Job',
    jobs,
    pods,
    create: (job) =>
      told(`creating the Job of ${job.jobId}`, () =>
        api.createNamespacedJob({
          namespace,
          // Its own fields are typed; those of the pod template are the operator's.
          body: kubernetesJob(settings, job) as V1Job,
          fieldManager,
          fieldValidation: 'Strict',
        }),
      ),
    read: (name) => orUndefined(`reading Job ${name}`, () => api.readNamespacedJob({ name, namespace })),
    remove: (name, uid) =>
      removed(`deleting Job ${name}`, () =>
        api.deleteNamespacedJob({
          name,
          namespace,
          body: { preconditions: { uid }, propagationPolicy: 'Background' },
        }),
      ),
    workload: workloads(cluster, settings.queue),
    stop: async () => {
      await Promise.all([jobs.stop(), pods.stop()]);
    },
  };
}

/**
 * A TrainJob for each training job.
 * @throws PlumbError FAILED_PRECONDITION (CONFIGURATION_INVALID) where the cluster has no Kubeflow Trainer that we know
 */
export async function trainJobObjects(
  cluster: Cluster,
  settings: ClusterJobSettings & { readonly runtime: string },
): Promise<ClusterObjects> {
  const { namespace } = cluster;
  const { version, served } = await servedVersion(cluster, kubeflowGroup, kubeflowVersions);
  if (version === undefined) {
    throw failedPrecondition(
      served.length === 0
        ? `this cluster has no Kubeflow Trainer (API group ${kubeflowGroup}); install it, or set PLUMB_TRAINING_BACKEND to kubernetes-job`
        : `this cluster serves ${kubeflowGroup}/${served.join(', ')}, of which Plumb knows none (it knows ${kubeflowVersions.join(', ')}); set PLUMB_TRAINING_BACKEND to kubernetes-job`,
      { reason: 'CONFIGURATION_INVALID' },
    );
  }
  const api = cluster.api(CustomObjectsApi);
  const where = { group: kubeflowGroup, version, namespace, plural: 'trainjobs' };
  const jobs = observeObjects<ObservedJob>(cluster, {
    path: `/apis/${kubeflowGroup}/${version}/namespaces/${namespace}/trainjobs`,
    labelSelector: selectorOf(settings.instance),
    list: async (query) =>
      (await api.listNamespacedCustomObject({ ...where, ...query })) as Observed<ObservedJob>,
  });
  const pods = podsOf(cluster, settings.instance);
  return {
    kind: 'TrainJob',
    jobs,
    pods,
    create: (job) =>
      told(
        `creating the TrainJob of ${job.jobId}`,
        async () =>
          (await api.createNamespacedCustomObject({
            ...where,
            body: trainJob({ ...settings, version }, job),
            fieldManager,
            fieldValidation: 'Strict',
          })) as ObservedJob,
      ),
    read: (name) =>
      orUndefined(
        `reading TrainJob ${name}`,
        async () => (await api.getNamespacedCustomObject({ ...where, name })) as ObservedJob,
      ),
    remove: (name, uid) =>
      removed(`deleting TrainJob ${name}`, () =>
        api.deleteNamespacedCustomObject({
          ...where,
          name,
          body: { preconditions: { uid }, propagationPolicy: 'Background' },
        }),
      ),
    workload: workloads(cluster, settings.queue),
    stop: async () => {
      await Promise.all([jobs.stop(), pods.stop()]);
    },
  };
}

/** The owner of the jobs, with its uid. @throws PlumbError NOT_FOUND, PERMISSION_DENIED */
export async function ownerOf(cluster: Cluster, owner: string): Promise<V1OwnerReference> {
  const [kind, name] = owner.split('/');
  if (kind !== 'Deployment' || name === undefined) {
    throw invalidArgument('PLUMB_TRAINING_OWNER', `is '${owner}'; use Deployment/<name>`, {
      reason: 'CONFIGURATION_INVALID',
    });
  }
  const { metadata } = await told(`reading Deployment ${name}`, () =>
    cluster.api(AppsV1Api).readNamespacedDeployment({ name, namespace: cluster.namespace }),
  );
  return { apiVersion: 'apps/v1', kind, name, uid: metadata?.uid ?? '' };
}

function workloads(cluster: Cluster, queue: string | undefined): ClusterObjects['workload'] {
  if (queue === undefined) return async () => await Promise.resolve(undefined);
  const log = logger('kubernetes');
  let version: string | undefined;
  return async (uid) => {
    try {
      version ??= (await servedVersion(cluster, kueueGroup, ['v1beta2', 'v1beta1'])).version;
      if (version === undefined) return undefined;
      const { items } = (await cluster.api(CustomObjectsApi).listNamespacedCustomObject({
        group: kueueGroup,
        version,
        namespace: cluster.namespace,
        plural: 'workloads',
        labelSelector: `${kueueGroup}/job-uid=${uid}`,
      })) as Observed<ObservedWorkload>;
      return items[0];
    } catch (thrown) {
      // It only makes the message better.
      log.debug({ error: fromKubernetes(thrown, 'reading Workloads') }, 'no view of the queue');
      return undefined;
    }
  };
}

async function told<T>(doing: string, call: () => Promise<T>): Promise<T> {
  try {
    return await call();
  } catch (thrown) {
    throw fromKubernetes(thrown, doing);
  }
}

async function orUndefined<T>(doing: string, call: () => Promise<T>): Promise<T | undefined> {
  try {
    return await call();
  } catch (thrown) {
    if (isNotFound(thrown)) return undefined;
    throw fromKubernetes(thrown, doing);
  }
}

async function removed(doing: string, call: () => Promise<unknown>): Promise<void> {
  try {
    await call();
  } catch (thrown) {
    const error = fromKubernetes(thrown, doing);
    // Gone, or another object bears the name: the one that we made is not there.
    if (error.code === 'NOT_FOUND' || error.code === 'ABORTED') return;
    throw error;
  }
}
