import { PlumbError } from '@plumb/kit/errors';
import { eventRecorder, fromKubernetes, observeObjects } from '@plumb/kubernetes';
import type { Cluster, KubernetesObject } from '@plumb/kubernetes';
import { CustomObjectsApi } from '@plumb/kubernetes/api';
import { feedbackRunKind } from '../../domain/feedback-run-definition.ts';
import type { FeedbackRunStatus, StatusEvent } from '../../domain/feedback-run-status.ts';

/** A FeedbackRun as the API server has it; what it says is checked by whoever reads it. */
export interface FeedbackRunObject extends KubernetesObject {
  readonly metadata: {
    readonly name: string;
    readonly uid: string;
    readonly resourceVersion: string;
    readonly generation: number;
    readonly deletionTimestamp?: string | undefined;
  };
  readonly spec?: unknown;
  readonly status?: FeedbackRunStatus | undefined;
}

/** The FeedbackRuns of a namespace. */
export interface FeedbackRunObjects {
  readonly namespace: string;
  /** As of the last contact; complete once `synchronised` has resolved. */
  all(): FeedbackRunObject[];
  /** Resolves when all are known. Rejects where the cluster has no such kind, or refuses. */
  readonly synchronised: Promise<void>;
  /** True while the API server cannot be reached. */
  readonly stale: boolean;
  /** Resolves at the next change of anything. */
  changed(): Promise<void>;
  /**
   * Writes the status of an object.
   * @throws PlumbError ABORTED where the object has changed since it was read, NOT_FOUND where it is gone
   */
  writeStatus(object: FeedbackRunObject, status: FeedbackRunStatus): Promise<void>;
  /** Never rejects. */
  record(object: FeedbackRunObject, event: StatusEvent): Promise<void>;
  stop(): Promise<void>;
}

/** @param instance who reports events: the pod's name */
export function feedbackRunObjects(cluster: Cluster, instance: string): FeedbackRunObjects {
  const { namespace } = cluster;
  const { group, version, plural, kind } = feedbackRunKind;
  const where = { group, version, namespace, plural };
  const apiVersion = `${group}/${version}`;
  const api = cluster.api(CustomObjectsApi);
  const recorder = eventRecorder(cluster, 'plumb.dev/loop', instance);
  const observed = observeObjects<FeedbackRunObject>(cluster, {
    path: `/apis/${apiVersion}/namespaces/${namespace}/${plural}`,
    list: async () =>
      (await api.listNamespacedCustomObject(where)) as {
        readonly items: readonly FeedbackRunObject[];
        readonly metadata?: { readonly resourceVersion?: string };
      },
  });
  const synchronised = observed.synchronised.catch((thrown: unknown) => {
    const error = PlumbError.from(thrown);
    if (error.code !== 'NOT_FOUND') throw error;
    throw new PlumbError({
      code: 'FAILED_PRECONDITION',
      reason: 'CONFIGURATION_INVALID',
      message: `this cluster has no ${kind} (${apiVersion}); apply charts/plumb/crds/feedbackruns.yaml, or set PLUMB_FEEDBACK_RUNS to false`,
      cause: error,
    });
  });
  // Somebody who never waits for it shall not be told by a crash.
  synchronised.catch(() => undefined);
  return {
    namespace,
    all: () => [...observed.objects.values()],
    synchronised,
    get stale() {
      return observed.stale;
    },
    changed: () => observed.changed(),
    async writeStatus(object, status) {
      const { name } = object.metadata;
      try {
        await api.replaceNamespacedCustomObjectStatus({
          ...where,
          name,
          body: { ...object, apiVersion, kind, status },
          fieldManager: 'plumb-loop',
        });
      } catch (thrown) {
        throw fromKubernetes(thrown, `writing the status of ${kind} ${name}`);
      }
    },
    async record({ metadata: { name, uid } }, { type, reason, note }) {
      await recorder.record({ apiVersion, kind, name, uid }, type, reason, note);
    },
    stop: () => observed.stop(),
  };
}
