import { setTimeout as delay } from 'node:timers/promises';
import { Watch } from '@kubernetes/client-node';
import { PlumbError } from '@plumb/kit/errors';
import { logger } from '@plumb/kit/telemetry';
import type { Cluster } from './cluster.ts';
import { fromKubernetes, isGone } from './errors.ts';

/** What every object has, as JSON: times are RFC 3339 texts. */
export interface KubernetesObject {
  readonly apiVersion?: string | undefined;
  readonly kind?: string | undefined;
  readonly metadata?:
    | {
        readonly name?: string | undefined;
        readonly uid?: string | undefined;
        readonly resourceVersion?: string | undefined;
      }
    | undefined;
}

/** A copy of some objects of the cluster that follows them. */
export interface ObservedObjects<T extends KubernetesObject> {
  /** By name; complete once `synchronised` has resolved, and as of the last contact afterwards. */
  readonly objects: ReadonlyMap<string, T>;
  /** Resolves when the first list is there. Rejects when the API server refuses for good (no rights, no such kind). */
  readonly synchronised: Promise<void>;
  /** True while the API server cannot be reached: what `objects` says may be old. */
  readonly stale: boolean;
  /** Resolves at the next change of anything. */
  changed(): Promise<void>;
  stop(): Promise<void>;
}

/** An API server sends a bookmark about once a minute: a connection that is silent for longer is dead. */
const silentMs = 90_000;
/** The server ends a watch after this long, so that new servers get their share. */
const watchSeconds = 300;

/**
 * Lists the objects of a path and watches them from there: with bookmarks, so that a watch that broke goes on where it was;
 * with a new list where the server has forgotten that place (410 Gone); and for as long as it takes while the API server is
 * away.
 *
 * @param options.path of the collection, for example /apis/batch/v1/namespaces/plumb/jobs
 * @param options.firstPauseMs pause before the first new attempt; doubles up to `longestPauseMs`
 */
export function observeObjects<T extends KubernetesObject>(
  cluster: Cluster,
  options: {
    readonly path: string;
    readonly labelSelector?: string;
    /** The collection as JSON. */
    readonly list: (query: { readonly labelSelector?: string }) => Promise<{
      readonly items: readonly T[];
      readonly metadata?: { readonly resourceVersion?: string };
    }>;
    readonly firstPauseMs?: number;
    readonly longestPauseMs?: number;
  },
): ObservedObjects<T> {
  const { path, labelSelector, firstPauseMs = 500, longestPauseMs = 30_000 } = options;
  const log = logger('kubernetes');
  const stop = new AbortController();
  const first = Promise.withResolvers<void>();
  // Somebody who never waits for it shall not be told by a crash.
  first.promise.catch(() => undefined);
  const objects = new Map<string, T>();
  let waiting = Promise.withResolvers<void>();
  let stale = false;
  const wake = (): void => {
    waiting.resolve();
    waiting = Promise.withResolvers<void>();
  };
  const query = labelSelector === undefined ? {} : { labelSelector };

  const list = async (): Promise<string> => {
    const { items, metadata } = await options.list(query);
    objects.clear();
    for (const item of items) objects.set(item.metadata?.name ?? '', item);
    return metadata?.resourceVersion ?? '';
  };

  /** Watches until the connection ends; gives the place to go on from, undefined where a new list is needed. */
  const watch = async (from: string): Promise<string | undefined> => {
    const ended = Promise.withResolvers<unknown>();
    let over = false;
    const watcher = new Watch(cluster.config);
    Object.assign(watcher, { requestTimeoutMs: silentMs });
    let place: string | undefined = from;
    const connection = await watcher.watch(
      path,
      { ...query, resourceVersion: from, allowWatchBookmarks: true, timeoutSeconds: watchSeconds },
      (type: string, object: T & { readonly code?: number }) => {
        if (type === 'ERROR') {
          if (object.code === 410) place = undefined;
          return;
        }
        place = object.metadata?.resourceVersion ?? place;
        if (type === 'BOOKMARK') return;
        const name = object.metadata?.name ?? '';
        if (type === 'DELETED') objects.delete(name);
        else objects.set(name, object);
        wake();
      },
      (error: unknown) => {
        over = true;
        ended.resolve(error);
      },
    );
    // A watch that stands tells every change from its beginning on.
    if (!over && stale) {
      stale = false;
      wake();
    }
    const abort = (): void => {
      connection.abort();
      ended.resolve(undefined);
    };
    stop.signal.addEventListener('abort', abort, { once: true });
    if (stop.signal.aborted) abort();
    const error = await ended.promise;
    stop.signal.removeEventListener('abort', abort);
    if (error !== null && error !== undefined && !isTimeout(error)) {
      if (isGone(error)) return undefined;
      // What was seen before the break stays seen.
      if (place !== from) return place;
      throw error;
    }
    return place;
  };

  const follow = async (): Promise<void> => {
    let place: string | undefined;
    let pauseMs = firstPauseMs;
    while (!stop.signal.aborted) {
      try {
        if (place === undefined) {
          place = await list();
          stale = false;
          first.resolve();
          wake();
        }
        const begun = performance.now();
        place = await watch(place);
        stale = false;
        pauseMs = firstPauseMs;
        // A server that ends every watch at once is not asked in a circle.
        if (performance.now() - begun < firstPauseMs)
          await delay(firstPauseMs, undefined, { signal: stop.signal });
      } catch (thrown) {
        if (stop.signal.aborted) return;
        const error = fromKubernetes(thrown, `observing ${path}`);
        stale = true;
        if (!error.retryable && error.code !== 'CANCELLED' && error.code !== 'UNKNOWN') first.reject(error);
        log.warn({ error, path, pauseMs }, 'the Kubernetes API server is away or refuses; asking again');
        wake();
        await delay(pauseMs * (0.75 + Math.random() / 2), undefined, { signal: stop.signal }).catch(
          () => undefined,
        );
        pauseMs = Math.min(pauseMs * 2, longestPauseMs);
      }
    }
  };
  const following = follow().catch((thrown: unknown) => {
    if (!stop.signal.aborted)
      log.error({ error: PlumbError.from(thrown), path }, 'observing ended by a defect');
  });

  return {
    objects,
    synchronised: first.promise,
    get stale() {
      return stale;
    },
    changed: () => waiting.promise,
    stop: async () => {
      stop.abort();
      first.reject(
        new PlumbError({
          code: 'CANCELLED',
          reason: 'SHUTTING_DOWN',
          message: `observing ${path} was stopped`,
        }),
      );
      wake();
      await following;
    },
  };
}

function isTimeout(error: unknown): boolean {
  return error instanceof Error && error.name === 'TimeoutError';
}
