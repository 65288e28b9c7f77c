import { readFile } from 'node:fs/promises';
import type { Bus } from '@plumb/kit/bus';
import { describeError, invalidArgument, PlumbError } from '@plumb/kit/errors';
import type { ServiceContext } from '@plumb/kit/lifecycle';
import { openCluster } from '@plumb/kubernetes';
import { parse } from 'yaml';
import type { TrainerConfig } from '../../config.ts';
import { checkNodes, fieldsForRuntime } from '../../domain/cluster/cluster-job.ts';
import { parsePodTemplate } from '../../domain/cluster/pod-template.ts';
import type { PodTemplate } from '../../domain/cluster/pod-template.ts';
import type { RunnerOptions } from '../../domain/job-runner.ts';
import type { BackendName, TrainingBackend } from '../../domain/training-backend.ts';
import { clusterBackend } from './cluster-backend.ts';
import { jobObjects, ownerOf, trainJobObjects } from './cluster-objects.ts';
import { openJobRecords } from './job-records.ts';

/**
 * Opens training in a cluster. Without an API server at the moment it waits for one; without rights, without Kubeflow or with a
 * bad template it ends the service.
 * @throws PlumbError CONFIGURATION_INVALID, PERMISSION_DENIED, NOT_FOUND (the owner)
 */
export async function openClusterBackend(
  ctx: ServiceContext,
  bus: Bus,
  config: TrainerConfig,
  name: Exclude<BackendName, 'local'>,
  runner: RunnerOptions,
): Promise<TrainingBackend> {
  const template = await readTemplate(config.trainingPodTemplate);
  checkNodes(config.trainingNodes, template);
  const cluster = await openCluster({
    kubeconfig: config.kubeconfig,
    context: config.kubeContext,
    namespace: config.kubeNamespace,
  });
  const settings = {
    namespace: cluster.namespace,
    instance: config.trainingInstance,
    template,
    nodes: config.trainingNodes,
    queue: config.trainingQueue,
    workloadPriority: config.trainingPriorityClass,
    backoffLimit: config.trainingBackoffLimit,
    activeDeadlineSeconds: config.trainingActiveDeadlineSeconds,
    ttlSeconds: config.trainingTtlSeconds,
    owner: config.trainingOwner === undefined ? undefined : await ownerOf(cluster, config.trainingOwner),
  };
  if (name === 'kubeflow') {
    const fields = fieldsForRuntime(template);
    if (fields.length > 0) {
      ctx.logger.warn(
        { fields, runtime: config.trainingRuntime },
        'a TrainJob cannot carry these fields of the pod template; set them in the training runtime',
      );
    }
  }
  const objects =
    name === 'kubeflow'
      ? await trainJobObjects(cluster, { ...settings, runtime: config.trainingRuntime })
      : jobObjects(cluster, settings);
  ctx.onStop('objects of the cluster', () => objects.stop());
  for (const observed of [objects.jobs, objects.pods]) {
    observed.synchronised.catch((error: unknown) => {
      if (!ctx.signal.aborted) ctx.fail(error);
    });
  }
  return clusterBackend({
    ...runner,
    name,
    namespace: cluster.namespace,
    instance: settings.instance,
    queue: settings.queue,
    objects,
    records: await openJobRecords(bus),
    imageDeadlineMs: config.trainingImageDeadlineSeconds * 1000,
  });
}

async function readTemplate(path: string | undefined): Promise<PodTemplate> {
  const variable = 'PLUMB_TRAINING_POD_TEMPLATE';
  if (path === undefined) {
    throw new PlumbError({
      code: 'INVALID_ARGUMENT',
      reason: 'CONFIGURATION_INVALID',
      message: `${variable} is missing; set it to the path of a YAML file with the pod template of training pods`,
    });
  }
  try {
    return parsePodTemplate(parse(await readFile(path, 'utf8')), variable);
  } catch (thrown) {
    if (thrown instanceof PlumbError) throw thrown;
    throw invalidArgument(variable, `is '${path}', which cannot be read as YAML: ${describeError(thrown)}`, {
      reason: 'CONFIGURATION_INVALID',
      cause: thrown,
    });
  }
}
