import { readFile } from 'node:fs/promises';
import { createConfiguration, KubeConfig, ServerConfiguration } from '@kubernetes/client-node';
import type { ApiConstructor, ApiType } from '@kubernetes/client-node';
import { failedPrecondition, invalidArgument, PlumbError } from '@plumb/kit/errors';

export interface ClusterOptions {
  /** Path of a kubeconfig; without it, the pod's own service account. */
  readonly kubeconfig?: string | undefined;
  /** Context of the kubeconfig; its current one unless given. */
  readonly context?: string | undefined;
  /** Namespace of everything; the pod's own, or the context's, unless given. */
  readonly namespace?: string | undefined;
  /** Longest wait for an answer of the API server, in milliseconds; 30,000 by default. Watches have none. */
  readonly deadlineMs?: number;
}

/** A Kubernetes API server, and the namespace that we work in. */
export interface Cluster {
  readonly namespace: string;
  /** For watches; calls go through `api`. */
  readonly config: KubeConfig;
  /** A typed part of the API, with credentials and a deadline for each call. */
  api<T extends ApiType>(type: ApiConstructor<T>): T;
}

const serviceAccountFolder = '/var/run/secrets/kubernetes.io/serviceaccount';

/**
 * Reads how the API server is reached; calls nobody.
 * @throws PlumbError FAILED_PRECONDITION where there is neither a kubeconfig nor a service account; INVALID_ARGUMENT for a
 * kubeconfig that is none, a context that it does not have, and plain http
 */
export async function openCluster(options: ClusterOptions = {}): Promise<Cluster> {
  const config = new KubeConfig();
  const inPod = options.kubeconfig === undefined;
  if (options.kubeconfig === undefined) {
    if (process.env['KUBERNETES_SERVICE_HOST'] === undefined) {
      throw failedPrecondition(
        'this process runs in no pod of Kubernetes; set PLUMB_KUBECONFIG to the path of a kubeconfig',
        { reason: 'CONFIGURATION_INVALID' },
      );
    }
    config.loadFromCluster();
  } else {
    try {
      config.loadFromFile(options.kubeconfig);
    } catch (cause) {
      throw new PlumbError({
        code: 'INVALID_ARGUMENT',
        reason: 'CONFIGURATION_INVALID',
        message: `PLUMB_KUBECONFIG is '${options.kubeconfig}', which cannot be read as a kubeconfig; set it to the path of one`,
        cause,
      });
    }
  }
  if (options.context !== undefined) {
    if (config.getContextObject(options.context) === null) {
      const known = config.getContexts().map(({ name }) => name);
      throw invalidArgument('PLUMB_KUBE_CONTEXT', `is '${options.context}'; use one of ${known.join(', ')}`, {
        reason: 'CONFIGURATION_INVALID',
      });
    }
    config.setCurrentContext(options.context);
  }
  const cluster = config.getCurrentCluster();
  if (cluster === null) {
    throw invalidArgument('PLUMB_KUBECONFIG', 'has no current context; set PLUMB_KUBE_CONTEXT', {
      reason: 'CONFIGURATION_INVALID',
    });
  }
  if (!cluster.server.startsWith('https:')) {
    throw invalidArgument(
      'PLUMB_KUBECONFIG',
      `names ${new URL(cluster.server).origin}, which is not encrypted; use an https:// server`,
      { reason: 'CONFIGURATION_INVALID' },
    );
  }
  const namespace =
    options.namespace ??
    (inPod
      ? (await readFile(`${serviceAccountFolder}/namespace`, 'utf8')).trim()
      : (config.getContextObject(config.getCurrentContext())?.namespace ?? 'default'));
  const deadlineMs = options.deadlineMs ?? 30_000;
  const configuration = createConfiguration({
    baseServer: new ServerConfiguration(cluster.server, {}),
    authMethods: { default: config },
    promiseMiddleware: [
      {
        pre: async (context) => {
          context.setSignal(AbortSignal.timeout(deadlineMs));
          context.setHeaderParam('User-Agent', 'plumb');
          return await Promise.resolve(context);
        },
        post: async (context) => await Promise.resolve(context),
      },
    ],
  });
  return { namespace, config, api: (Type) => new Type(configuration) };
}
