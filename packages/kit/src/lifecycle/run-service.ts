import type { Environment } from '../config/load-config.ts';
import { describeError, PlumbError } from '../errors/plumb-error.ts';
import type { ErrorReason } from '../errors/reasons.ts';
import { logger } from '../telemetry/logger.ts';
import type { Logger } from '../telemetry/logger.ts';
import { StopSequence } from './stop-sequence.ts';

/** What `start` gets. */
export interface ServiceContext {
  readonly env: Environment;
  /** Aborts when stopping begins, before anything is stopped. */
  readonly signal: AbortSignal;
  readonly logger: Logger;
  /**
   * Registers what undoes something that was started. On the way down they run in reverse order, each with its deadline
   * (5 s by default), also when a later part of `start` fails.
   */
  onStop(name: string, stop: () => Promise<void> | void, options?: { readonly deadlineMs?: number }): void;
  /** Something in the background is broken for good: logs it, stops the service, exit code 1. */
  fail(error: unknown): void;
}

/** Where a running service is found; printed as the ready line. `host:port` each. */
export interface ServiceAddresses {
  readonly address: string;
  readonly metrics?: string;
  /** The dashboard. */
  readonly web?: string;
}

export interface ServiceDefinition {
  /** Short name, for logs and error lines. */
  readonly name: string;
  /** Starts everything. It should give up when `ctx.signal` aborts. */
  start(ctx: ServiceContext): Promise<ServiceAddresses>;
  /** From the first signal to the end of the process, at most; 20 s by default. */
  readonly stopDeadlineMs?: number;
}

/** 0 stopped as asked, 1 crashed or could not stop in time, 2 cannot run as it is configured. */
export type ExitCode = 0 | 1 | 2;

// What the operator has to change before a new start can succeed.
const configurationReasons: ReadonlySet<ErrorReason> = new Set<ErrorReason>([
  'CONFIGURATION_INVALID',
  'PORT_IN_USE',
  'ADDRESS_NOT_AVAILABLE',
  'ADDRESS_NOT_LOOPBACK',
]);

/**
 * Runs a service until it is told to stop, and ends the process. When it is ready it prints one line of JSON on standard
 * output: `{"ready":true,"address":"host:port","metrics":"host:port"}`.
 *
 * It stops on SIGTERM and SIGINT (a second one exits at once), when its IPC channel closes, and, with
 * PLUMB_PARENT_PIPE=1 in the environment, when its standard input closes: a parent that was killed leaves no orphans.
 */
export async function runService(definition: ServiceDefinition): Promise<never> {
  const { name, stopDeadlineMs = 20_000 } = definition;
  const log = logger(name);
  const sequence = new StopSequence();
  const stopping = new AbortController();
  const asked = Promise.withResolvers<undefined>();
  let exitCode: ExitCode = 0;

  const crash = (error: unknown, origin: string): void => {
    log.fatal({ error, origin }, 'nobody caught this error; the process ends');
    process.exit(1);
  };
  process.on('uncaughtException', crash);
  process.on('unhandledRejection', (error) => {
    crash(error, 'unhandledRejection');
  });

  const stop = (why: string): void => {
    if (stopping.signal.aborted) return;
    log.info({ why }, 'stopping');
    // Stopping has its own end, whatever hangs.
    setTimeout(() => {
      log.error({ stopDeadlineMs }, 'stopping took too long; the process ends');
      process.exit(1);
    }, stopDeadlineMs).unref();
    stopping.abort(
      new PlumbError({ code: 'CANCELLED', reason: 'SHUTTING_DOWN', message: `${name} is stopping: ${why}` }),
    );
    asked.resolve(undefined);
  };
  const onSignal = (signal: NodeJS.Signals): void => {
    if (stopping.signal.aborted) {
      log.warn({ signal }, 'told twice; the process ends at once');
      process.exit(1);
    }
    stop(signal);
  };
  process.on('SIGTERM', onSignal);
  process.on('SIGINT', onSignal);
  watchParent(stop);

  const fail = (error: unknown): void => {
    if (!stopping.signal.aborted) {
      log.error({ error }, 'the service cannot go on');
      exitCode = 1;
    }
    stop('a part of it failed');
  };

  try {
    const addresses = await definition.start({
      env: process.env,
      signal: stopping.signal,
      logger: log,
      onStop: (step, undo, { deadlineMs = 5000 } = {}) => {
        sequence.add(step, undo, deadlineMs);
      },
      fail,
    });
    if (!stopping.signal.aborted) {
      process.stdout.write(`${JSON.stringify({ ready: true, ...addresses })}\n`);
      log.info({ ...addresses }, 'ready');
    }
    await asked.promise;
  } catch (thrown) {
    const error = PlumbError.from(thrown);
    // A start that was interrupted by the stop is no failure.
    if (!stopping.signal.aborted) {
      exitCode = configurationReasons.has(error.reason) ? 2 : 1;
      if (exitCode === 1) log.fatal({ error: thrown }, 'the service cannot start');
      process.stderr.write(`${name}: ${exitCode === 2 ? error.message : describeError(error)}\n`);
      stop('it could not start');
    }
  }

  const allWell = await sequence.run(({ name: step, ms, error }) => {
    if (error === undefined) log.debug({ step, ms }, 'stopped');
    else log.error({ step, ms, error }, 'a part did not stop well');
  });
  if (!allWell && exitCode === 0) exitCode = 1;
  log.info({ exitCode }, 'stopped');
  process.exit(exitCode);
}

/** Stops when the process that started us is gone. */
function watchParent(stop: (why: string) => void): void {
  if (process.connected) {
    process.on('disconnect', () => {
      stop('the parent closed the channel');
    });
  }
  if (process.env['PLUMB_PARENT_PIPE'] !== '1') return;
  const gone = (): void => {
    stop('the parent is gone');
  };
  process.stdin.on('end', gone);
  process.stdin.on('close', gone);
  process.stdin.on('error', gone);
  // Nothing is expected to come; reading is what notices the end.
  process.stdin.resume();
}
