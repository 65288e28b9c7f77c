import { setTimeout as delay } from 'node:timers/promises';
import { CoordinationV1Api, V1MicroTime } from '@kubernetes/client-node';
import type { V1Lease, V1LeaseSpec } from '@kubernetes/client-node';
import { invalidArgument, unavailable } from '@plumb/kit/errors';
import { logger } from '@plumb/kit/telemetry';
import type { Cluster } from './cluster.ts';
import { fromKubernetes, isConflict, isNotFound } from './errors.ts';

export interface LeadershipOptions {
  /** Name of the Lease. */
  readonly lease: string;
  /** Who we are; unique among those that run, for example the pod's name. */
  readonly identity: string;
  /** Others wait this long after the last renewal that they saw, in milliseconds; 15,000 by default. */
  readonly durationMs?: number;
  /** A leader that could not renew for this long has lost; less than `durationMs`. 10,000 by default. */
  readonly renewDeadlineMs?: number;
  /** Pause between two attempts; 2,000 by default. */
  readonly retryMs?: number;
  /** Gives up when it aborts. */
  readonly signal: AbortSignal;
  /** A clock that only goes forward, in milliseconds; for tests. */
  readonly now?: () => number;
}

export interface Leadership {
  /** Aborts when leadership is lost: what only a leader may do has to stop at once. */
  readonly lost: AbortSignal;
  /** Lets go of the lease, so that another begins at once. Stop the leader's work first. */
  release(): Promise<void>;
}

/**
 * Waits until this process is the leader, by a Lease of coordination.k8s.io/v1. Nobody reads another machine's clock: a
 * lease has run out when it has not changed for its duration on our own clock, and a leader counts itself lost before that
 * by its own. So wrong clocks do no harm; only a clock that runs at another speed would (by half, with the defaults).
 *
 * @throws PlumbError PERMISSION_DENIED; the reason of the signal
 */
export async function runForLeadership(cluster: Cluster, options: LeadershipOptions): Promise<Leadership> {
  const {
    lease,
    identity,
    durationMs = 15_000,
    renewDeadlineMs = 10_000,
    retryMs = 2000,
    signal,
    now = () => performance.now(),
  } = options;
  if (!(retryMs < renewDeadlineMs && renewDeadlineMs < durationMs)) {
    throw invalidArgument(
      'renewDeadlineMs',
      `is ${renewDeadlineMs}; it lies between ${retryMs} and ${durationMs}`,
    );
  }
  const api = cluster.api(CoordinationV1Api);
  const log = logger('leader');
  const { namespace } = cluster;
  /** What we saw of the lease last, and when it was new to us. */
  let seen: { readonly version: string; readonly atMs: number } | undefined;

  /** One attempt to take or renew. True when the lease is ours; the moment given is before the call went out. */
  const attempt = async (holding: boolean): Promise<boolean> => {
    let current: V1Lease;
    try {
      current = await api.readNamespacedLease({ name: lease, namespace });
    } catch (thrown) {
      if (!isNotFound(thrown)) throw thrown;
      await api.createNamespacedLease({
        namespace,
        body: {
          metadata: { name: lease, namespace },
          spec: {
            holderIdentity: identity,
            leaseDurationSeconds: Math.ceil(durationMs / 1000),
            acquireTime: new V1MicroTime(),
            renewTime: new V1MicroTime(),
            leaseTransitions: 0,
          },
        },
      });
      return true;
    }
    const version = current.metadata?.resourceVersion ?? '';
    if (seen?.version !== version) seen = { version, atMs: now() };
    const holder = current.spec?.holderIdentity ?? '';
    if (holder !== '' && holder !== identity) {
      // The holder's own duration counts where it is longer than ours.
      const waitMs = Math.max(durationMs, (current.spec?.leaseDurationSeconds ?? 0) * 1000);
      if (holding || now() - seen.atMs < waitMs) return false;
    }
    const changing = holder !== identity;
    const acquireTime = changing ? new V1MicroTime() : current.spec?.acquireTime;
    // The revision goes along: of two who try, one gets 409.
    const { metadata } = await api.replaceNamespacedLease({
      name: lease,
      namespace,
      body: leaseOf(current, {
        holderIdentity: identity,
        leaseDurationSeconds: Math.ceil(durationMs / 1000),
        renewTime: new V1MicroTime(),
        leaseTransitions: (current.spec?.leaseTransitions ?? 0) + (changing ? 1 : 0),
        ...(acquireTime === undefined ? {} : { acquireTime }),
      }),
    });
    seen = { version: metadata?.resourceVersion ?? '', atMs: now() };
    return true;
  };

  let renewedMs = 0;
  for (;;) {
    signal.throwIfAborted();
    // Before the call: what the server noted can only be later.
    const sentMs = now();
    try {
      if (await attempt(false)) {
        renewedMs = sentMs;
        break;
      }
    } catch (thrown) {
      const error = fromKubernetes(thrown, `taking the lease ${lease}`);
      if (!error.retryable && !isConflict(error)) throw error;
      log.debug({ error, lease }, 'the lease could not be taken; trying again');
    }
    await delay(retryMs * (1 + Math.random() / 5), undefined, { signal }).catch(() => undefined);
  }
  log.info({ lease, identity }, 'leading');

  const lost = new AbortController();
  const ending = new AbortController();
  const renew = async (): Promise<void> => {
    while (!ending.signal.aborted) {
      await delay(retryMs, undefined, { signal: ending.signal }).catch(() => undefined);
      if (ending.signal.aborted) return;
      const sentMs = now();
      let taken = false;
      try {
        taken = await within(attempt(true), renewedMs + renewDeadlineMs - sentMs);
        if (taken) renewedMs = sentMs;
        else break;
      } catch (thrown) {
        const error = fromKubernetes(thrown, `renewing the lease ${lease}`);
        log.warn({ error, lease }, 'the lease could not be renewed; trying again');
      }
      if (!taken && now() - renewedMs >= renewDeadlineMs) break;
    }
    if (ending.signal.aborted) return;
    log.error({ lease, identity }, 'leadership is lost');
    lost.abort(unavailable(`the lease ${lease} is lost to another process`, { reason: 'SHUTTING_DOWN' }));
  };
  const renewing = renew();

  return {
    lost: lost.signal,
    release: async () => {
      ending.abort();
      await renewing;
      if (lost.signal.aborted) return;
      try {
        const current = await api.readNamespacedLease({ name: lease, namespace });
        if (current.spec?.holderIdentity !== identity) return;
        await api.replaceNamespacedLease({
          name: lease,
          namespace,
          body: leaseOf(current, {
            holderIdentity: '',
            leaseDurationSeconds: 1,
            leaseTransitions: current.spec?.leaseTransitions ?? 0,
          }),
        });
      } catch (thrown) {
        // It runs out by itself.
        log.warn(
          { error: fromKubernetes(thrown, `letting go of the lease ${lease}`) },
          'the lease runs out later',
        );
      }
    },
  };
}

/** The lease with another spec, at the revision that was read. */
function leaseOf(current: V1Lease, spec: V1LeaseSpec): V1Lease {
  return { ...(current.metadata === undefined ? {} : { metadata: current.metadata }), spec };
}

/** Gives up on a call that an unreachable server leaves hanging. */
async function within<T>(call: Promise<T>, ms: number): Promise<T> {
  const late = Promise.withResolvers<never>();
  const timer = setTimeout(
    () => {
      late.reject(unavailable('the Kubernetes API server did not answer in time'));
    },
    Math.max(1, ms),
  );
  try {
    return await Promise.race([call, late.promise]);
  } finally {
    clearTimeout(timer);
  }
}
