/** Labels of everything that a trainer makes in a cluster. */
export const labels = {
  managedBy: 'app.kubernetes.io/managed-by',
  jobId: 'plumb.dev/job-id',
  trainer: 'plumb.dev/trainer',
  queue: 'kueue.x-k8s.io/queue-name',
  workloadPriority: 'kueue.x-k8s.io/priority-class',
} as const;

/** Value of the managed-by label. */
export const manager = 'plumb-trainer';

/** The container that trains, in the pod template and in every pod. */
export const trainerContainer = 'trainer';

/**
 * Name of a job's object.
 * @param instance name of the trainer, which keeps apart those that share a namespace; at most 40 characters
 */
export function objectName(instance: string, jobId: string): string {
  return `${instance}-${jobId}`;
}

/** Selects what a trainer has made, and the pods of it. */
export function selectorOf(instance: string): string {
  return `${labels.managedBy}=${manager},${labels.trainer}=${instance}`;
}
