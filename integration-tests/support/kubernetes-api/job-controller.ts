import { spawn } from 'node:child_process';
import type { ChildProcess } from 'node:child_process';
import { once } from 'node:events';
import path from 'node:path';
import type { KubernetesApi } from './api-server.ts';
import type { StoredObject } from './object-store.ts';

const root = path.resolve(import.meta.dirname, '../../..');

/** What a pod's life can do. */
export interface PodInHand {
  readonly name: string;
  /** Aborts when the pod is being deleted. */
  readonly deleted: AbortSignal;
  status(status: unknown): void;
  /** Runs the trainer container's command for real, to its end or until the pod is deleted; gives the exit code. */
  runContainer(): Promise<number>;
}

/** What happens to a pod from its creation on; resolves when the pod has ended, or never will. */
export type PodLife = (pod: PodInHand) => Promise<void>;

const container = (state: unknown) => [{ name: 'trainer', state, restartCount: 0 }];

function terminated(pod: PodInHand, exitCode: number, reason = exitCode === 0 ? 'Completed' : 'Error'): void {
  pod.status({
    phase: exitCode === 0 ? 'Succeeded' : 'Failed',
    containerStatuses: container({ terminated: { exitCode, reason } }),
  });
}

const disruption = (reason: string, message: string) => ({
  type: 'DisruptionTarget',
  status: 'True',
  reason,
  message,
});

/** Scripted lives. */
export const lives = {
  /** The real program, to its end. */
  real: (async (pod) => {
    pod.status({ phase: 'Running', containerStatuses: container({ running: {} }) });
    const exitCode = await pod.runContainer();
    if (!pod.deleted.aborted) terminated(pod, exitCode);
  }) satisfies PodLife,

  exit:
    (code: number): PodLife =>
    async (pod) => {
      terminated(pod, code);
      await Promise.resolve();
    },

  outOfMemory: (async (pod) => {
    terminated(pod, 137, 'OOMKilled');
    await Promise.resolve();
  }) satisfies PodLife,

  /** Never starts. */
  imageError: (async (pod) => {
    pod.status({
      phase: 'Pending',
      containerStatuses: container({
        waiting: { reason: 'ImagePullBackOff', message: 'Back-off pulling image "nowhere/trainer:1"' },
      }),
    });
    await Promise.resolve();
  }) satisfies PodLife,

  /**
   * Runs for real until `when` resolves, and is then taken away with SIGTERM.
   * @param told the pod is gone once it resolves: by then somebody has seen what happened
   */
  evicted:
    (
      when: Promise<unknown>,
      reason = 'EvictionByEvictionAPI',
      message = 'Eviction API: evicting',
      told: Promise<unknown> = Promise.resolve(),
    ): PodLife =>
    async (pod) => {
      pod.status({ phase: 'Running', containerStatuses: container({ running: {} }) });
      const running = pod.runContainer();
      await when;
      pod.status({
        phase: 'Running',
        conditions: [disruption(reason, message)],
        containerStatuses: container({ running: {} }),
      });
      kill(pod, 'SIGTERM');
      const exitCode = await running;
      await told;
      pod.status({
        phase: 'Failed',
        conditions: [disruption(reason, message)],
        containerStatuses: container({ terminated: { exitCode, reason: 'Error' } }),
      });
    },

  /** Runs for real until `when` resolves; then its node runs out of memory, and the kubelet kills it. */
  evictedByKubelet:
    (when: Promise<unknown>, told: Promise<unknown>): PodLife =>
    async (pod) => {
      pod.status({ phase: 'Running', containerStatuses: container({ running: {} }) });
      const running = pod.runContainer();
      await when;
      const message = 'The node was low on resource: memory.';
      const evicted = { reason: 'Evicted', message };
      pod.status({ phase: 'Running', ...evicted, containerStatuses: container({ running: {} }) });
      kill(pod, 'SIGKILL');
      await running;
      await told;
      pod.status({
        phase: 'Failed',
        ...evicted,
        conditions: [disruption('TerminationByKubelet', message)],
        containerStatuses: container({ terminated: { exitCode: 137, reason: 'Error' } }),
      });
    },

  /** Runs for real until its node falls silent: the pod's phase is unknown, until the cluster gives the node up. */
  nodeSilent:
    (when: Promise<unknown>, told: Promise<unknown>): PodLife =>
    async (pod) => {
      pod.status({ phase: 'Running', containerStatuses: container({ running: {} }) });
      const running = pod.runContainer();
      await when;
      kill(pod, 'SIGKILL');
      await running;
      pod.status({ phase: 'Unknown', reason: 'NodeLost', containerStatuses: container({ running: {} }) });
      await told;
      pod.status({
        phase: 'Failed',
        conditions: [disruption('DeletionByTaintManager', 'Taint manager: deleting due to NoExecute taint')],
      });
    },

  /** Its node falls silent at once; later the cluster gives the pod up. */
  nodeLost: (async (pod) => {
    pod.status({
      phase: 'Failed',
      reason: 'NodeLost',
      conditions: [disruption('DeletionByPodGC', 'PodGC: node no longer exists')],
    });
    await Promise.resolve();
  }) satisfies PodLife,
};

const children = new WeakMap<PodInHand, ChildProcess>();

function kill(pod: PodInHand, signal: NodeJS.Signals): void {
  children.get(pod)?.kill(signal);
}

interface Rule {
  readonly action: string;
  readonly onExitCodes?: { readonly values: readonly number[] };
  readonly onPodConditions?: readonly { readonly type: string; readonly status: string }[];
}

export interface JobController {
  /** The clock has passed the job's active deadline. */
  exceedDeadline(name: string): void;
  stop(): Promise<void>;
}

/**
 * The Job controller and the kubelet of the tests: makes a pod for each Job that is not suspended, lets it live as the script
 * says, and keeps the Job's status by its backoff limit and pod failure policy.
 */
export function startJobController(
  api: KubernetesApi,
  options: {
    readonly namespace: string;
    /** Whose specs: Jobs, or TrainJobs (whose pods come by way of a JobSet in a real cluster). */
    readonly plural?: 'jobs' | 'trainjobs';
    /** The life of the n-th pod of a job, from 0. */
    readonly lifeOf: (job: StoredObject, attempt: number) => PodLife;
    /** Environment of containers, under that of their spec. */
    readonly env?: Readonly<Record<string, string>>;
  },
): JobController {
  const { namespace, plural = 'jobs' } = options;
  const jobs = `${namespace}/${plural}`;
  const pods = `${namespace}/pods`;
  const working = new Set<Promise<void>>();
  const running = new Map<string, AbortController>();
  const attempts = new Map<string, number>();
  let stopped = false;

  const podsOf = (job: StoredObject): StoredObject[] =>
    api.store
      .list(pods)
      .filter(
        ({ metadata }) => metadata.ownerReferences?.some(({ uid }) => uid === job.metadata.uid) === true,
      );
  const setStatus = (job: StoredObject, status: unknown): void => {
    const standing = api.store.list(jobs).find(({ metadata }) => metadata.uid === job.metadata.uid);
    if (standing !== undefined) api.store.replace(jobs, { ...standing, status }, 'status');
  };
  const condition = (type: string, reason: string, message: string) => ({
    type,
    status: 'True',
    reason,
    message,
  });

  /** Looks at a job and does the next thing. */
  const reconcile = (job: StoredObject): void => {
    if (stopped || job.metadata.deletionTimestamp !== undefined) return;
    const ended = (job['status']?.conditions ?? []).some(({ type }: { type: string }) =>
      ['Complete', 'Failed'].includes(type),
    );
    if (ended) return;
    const own = podsOf(job);
    const active = own.filter(({ status }) => !['Succeeded', 'Failed'].includes(status?.phase));
    if (job['spec'].suspend === true) {
      for (const { metadata } of active) removePod(metadata.name);
      return;
    }
    if (own.some(({ status }) => status?.phase === 'Succeeded')) {
      setStatus(job, { succeeded: 1, conditions: [condition('Complete', 'CompletionsReached', '')] });
      return;
    }
    const rules: readonly Rule[] = job['spec'].podFailurePolicy?.rules ?? [];
    let counted = 0;
    for (const pod of own.filter(({ status }) => status?.phase === 'Failed')) {
      const exitCode = pod['status'].containerStatuses?.[0]?.state?.terminated?.exitCode;
      const rule = rules.find(
        ({ onExitCodes, onPodConditions }) =>
          onExitCodes?.values.includes(exitCode) === true ||
          onPodConditions?.some(({ type }) =>
            (pod['status'].conditions ?? []).some((has: { type: string }) => has.type === type),
          ) === true,
      );
      if (rule?.action === 'FailJob') {
        setStatus(job, {
          failed: 1,
          conditions: [
            condition('Failed', 'PodFailurePolicy', `Container trainer failed with exit code ${exitCode}`),
          ],
        });
        return;
      }
      if (rule?.action !== 'Ignore') counted += 1;
    }
    if (counted > (job['spec'].backoffLimit ?? 6)) {
      setStatus(job, {
        failed: counted,
        conditions: [
          condition('Failed', 'BackoffLimitExceeded', 'Job has reached the specified backoff limit'),
        ],
      });
      return;
    }
    if (active.length === 0) startPod(job);
  };

  const startPod = (job: StoredObject): void => {
    const attempt = attempts.get(job.metadata.uid) ?? 0;
    attempts.set(job.metadata.uid, attempt + 1);
    const template = plural === 'jobs' ? job['spec'].template : templateOf(job);
    const name = `${job.metadata.name}-${attempt}`;
    const gone = new AbortController();
    running.set(name, gone);
    api.store.create(pods, {
      metadata: {
        ...template.metadata,
        name,
        namespace,
        ownerReferences: [{ uid: job.metadata.uid }],
      } as StoredObject['metadata'],
      spec: template.spec,
      status: { phase: 'Pending' },
    });
    const pod: PodInHand = {
      name,
      deleted: gone.signal,
      status: (status) => {
        const standing = api.store.list(pods).find(({ metadata }) => metadata.name === name);
        if (standing !== undefined) api.store.replace(pods, { ...standing, status }, 'status');
      },
      runContainer: async () => {
        const [{ command = [], args = [], env = [] }] = template.spec.containers;
        const [program, ...rest] = [...command, ...args] as string[];
        const child = spawn(program ?? '', rest, {
          cwd: root,
          env: {
            ...process.env,
            ...options.env,
            ...Object.fromEntries(
              env.map(({ name: key, value }: { name: string; value: string }) => [key, value]),
            ),
          },
          stdio: ['ignore', 'ignore', process.env['PLUMB_TEST_LOGS'] === '1' ? 'inherit' : 'ignore'],
        });
        children.set(pod, child);
        gone.signal.addEventListener('abort', () => child.kill('SIGTERM'), { once: true });
        const [code] = (await once(child, 'exit')) as [number | null];
        return code ?? 137;
      },
    };
    const life = options.lifeOf(job, attempt)(pod);
    working.add(life);
    void life.finally(() => working.delete(life));
  };

  const removePod = (name: string): void => {
    running.get(name)?.abort();
    if (api.store.list(pods).some(({ metadata }) => metadata.name === name)) api.store.remove(pods, name);
  };

  const stopListening = api.store.listen((collection, { type, object }) => {
    if (collection === jobs && type !== 'DELETED') {
      setImmediate(() => {
        const standing = api.store.list(jobs).find(({ metadata }) => metadata.uid === object.metadata.uid);
        if (standing !== undefined) reconcile(standing);
      });
    }
    if (collection !== pods) return;
    if (type === 'DELETED') running.get(object.metadata.name)?.abort();
    setImmediate(() => {
      const owner = object.metadata.ownerReferences?.[0]?.uid;
      const job = api.store.list(jobs).find(({ metadata }) => metadata.uid === owner);
      if (job !== undefined) reconcile(job);
    });
  });
  return {
    exceedDeadline: (name) => {
      const job = api.store.get(jobs, name);
      const active = podsOf(job).filter(({ status }) => !['Succeeded', 'Failed'].includes(status?.phase));
      setStatus(job, {
        failed: active.length,
        conditions: [
          condition('Failed', 'DeadlineExceeded', 'Job was active longer than specified deadline'),
        ],
      });
      for (const { metadata } of active) removePod(metadata.name);
    },
    stop: async () => {
      stopped = true;
      stopListening();
      for (const gone of running.values()) gone.abort();
      await Promise.all(working);
    },
  };
}

/** The pod that a TrainJob's runtime would make: the runtime here has one replicated job, `node`, with nothing of its own. */
function templateOf({ spec }: StoredObject) {
  const { image, command, args, env, resourcesPerNode } = spec.trainer;
  const patch =
    spec.runtimePatches[0].trainingRuntimeSpec.template.spec.replicatedJobs[0].template.spec.template;
  return {
    metadata: patch.metadata,
    spec: {
      ...patch.spec,
      containers: [{ ...patch.spec.containers[0], image, command, args, env, resources: resourcesPerNode }],
    },
  };
}
