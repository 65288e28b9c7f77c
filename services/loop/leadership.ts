import { createHash } from 'node:crypto';
import { describeError, invalidArgument, PlumbError } from '@plumb/kit/errors';
import type { ServiceContext } from '@plumb/kit/lifecycle';
import { openCluster, runForLeadership } from '@plumb/kubernetes';
import type { Cluster, Leadership } from '@plumb/kubernetes';
import type { z } from 'zod';
import type { loopSettings } from './config.ts';
import { loopLogger } from './reconciler/context.ts';

/** What only one process may do for a ledger. */
export interface LeaderWork {
  /** Starts it; when the signal aborts it begins nothing more. */
  start(signal: AbortSignal): Promise<void>;
  /** What a process does that waits to become the leader, until the signal aborts. Never rejects. */
  standBy(signal: AbortSignal): Promise<void>;
  /** Waits until everything of it has been put down. */
  stop(): Promise<void>;
}

/** How processes that share a ledger choose who does the work. */
interface Election {
  readonly cluster: Cluster;
  /** Name of the Lease. */
  readonly lease: string;
  /** The pod's name: unique among those that run. */
  readonly identity: string;
}

/** The work is put down and the lease let go within this long, in milliseconds. */
const stopDeadlineMs = 15_000;

/**
 * The election that the settings ask for; undefined where one process does the work.
 * @throws PlumbError CONFIGURATION_INVALID
 */
export async function electionOf(config: z.output<typeof loopSettings>): Promise<Election | undefined> {
  if (!config.leaderElection) return undefined;
  const { podName, podNamespace, kubeconfig, kubeContext, databaseUrl } = config;
  if (podName === undefined) {
    throw invalidArgument(
      'PLUMB_POD_NAME',
      "is missing, and PLUMB_LEADER_ELECTION is true; set it to the pod's name",
      { reason: 'CONFIGURATION_INVALID' },
    );
  }
  const lease = leaseName(databaseUrl);
  const cluster = await openCluster({ kubeconfig, context: kubeContext, namespace: podNamespace });
  return { cluster, lease, identity: podName };
}

/**
 * Does the leader's work: at once where there is one process, else while this process holds the Lease.
 *
 * A process that has lost the lease begins nothing more, and then ends with exit code 1 to be started anew as a standby. What
 * it had in hand may still finish, and is harmless: every write of a run is idempotent. But only the end of the process
 * proves that nothing is left in hand, so it does not stand for the next election itself.
 *
 * @returns what begins it; resolves when the work goes on here, or when this process stands by
 */
export function leader(
  ctx: ServiceContext,
  election: Election | undefined,
  work: LeaderWork,
): () => Promise<void> {
  let term: Promise<Leadership | undefined> = Promise.resolve(undefined);
  ctx.onStop(
    'the work of the leader',
    async () => {
      // Why it failed has been told.
      const leadership = await term.catch(() => undefined);
      await work.stop();
      // Last: the next leader begins at once.
      await leadership?.release();
    },
    { deadlineMs: stopDeadlineMs },
  );

  const serve = async ({ cluster, lease, identity }: Election): Promise<Leadership> => {
    const elected = new AbortController();
    const standingBy = work.standBy(AbortSignal.any([ctx.signal, elected.signal]));
    let leadership: Leadership;
    try {
      leadership = await runForLeadership(cluster, { lease, identity, signal: ctx.signal });
    } finally {
      elected.abort();
      await standingBy;
    }
    const { lost } = leadership;
    const end = (): void => {
      ctx.fail(lost.reason);
    };
    lost.addEventListener('abort', end, { once: true });
    if (lost.aborted) end();
    try {
      await work.start(AbortSignal.any([ctx.signal, lost]));
    } catch (thrown) {
      ctx.fail(thrown);
    }
    return leadership;
  };

  return async () => {
    if (election === undefined) {
      await work.start(ctx.signal);
      return;
    }
    loopLogger.info({ lease: election.lease, identity: election.identity }, 'standing by for the lease');
    term = serve(election);
    term.catch((thrown: unknown) => {
      if (!ctx.signal.aborted) ctx.fail(thrown);
    });
  };
}

/**
 * Name of the Lease of a ledger: processes that share the ledger share it, whatever else they are told, and those of another
 * ledger in the same namespace do not.
 * @throws PlumbError CONFIGURATION_INVALID for a ledger that one process alone can open
 */
export function leaseName(databaseUrl: string): string {
  if (!/^postgres(ql)?:\/\//.test(databaseUrl)) {
    throw invalidArgument(
      'PLUMB_DATABASE_URL',
      'is a folder, which one process alone can open, and PLUMB_LEADER_ELECTION is true; use postgres://user@host/database, or set PLUMB_LEADER_ELECTION to false',
      { reason: 'CONFIGURATION_INVALID' },
    );
  }
  let url: URL;
  try {
    url = new URL(databaseUrl);
  } catch (cause) {
    throw new PlumbError({
      code: 'INVALID_ARGUMENT',
      reason: 'CONFIGURATION_INVALID',
      message: `PLUMB_DATABASE_URL cannot be read: ${describeError(cause)}; use postgres://user@host/database`,
      cause,
    });
  }
  const { hostname, port, pathname } = url;
  const ledger = `${hostname.toLowerCase()}:${port === '' ? '5432' : port}${pathname}`;
  return `plumb-loop-${createHash('sha256').update(ledger).digest('hex').slice(0, 12)}`;
}
