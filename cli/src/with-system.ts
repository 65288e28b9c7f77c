import { failedPrecondition, PlumbError } from '@plumb/kit/errors';
import { listenForInterruption } from './interrupt.ts';
import { takeOwnership } from './state/ownership.ts';
import { emptyStateFolder, openStateFolder } from './state/state-folder.ts';
import type { StateFolder } from './state/state-folder.ts';
import { embeddedSystem } from './supervisor/embedded-system.ts';
import type { ComponentName, EmbeddedSystem } from './supervisor/embedded-system.ts';
import type { PortName } from './supervisor/port-names.ts';

/** What commands that run the embedded system share. */
export interface SystemOptions {
  /** Path of the state folder. */
  readonly state: string;
  /** Removes what Plumb made in the state folder before it starts. */
  readonly fresh: boolean;
  readonly ports: Readonly<Partial<Record<PortName, number>>>;
  /** Starts these processes alone; all unless given. */
  readonly only?: readonly ComponentName[];
  /** Name of the command, shown to whoever finds the folder in use. */
  readonly command: string;
  readonly notice: (line: string) => void;
  /** Said at the first Ctrl-C. */
  readonly stopNotice: string;
}

/**
 * Starts the embedded system, does some work with it, and stops it again, whatever happens.
 * @param prepare runs when the folder is ours and before anything is started
 * @returns the exit code: 0, or that of the signal which stopped it
 * @throws what the work throws, or PROCESS_FAILED if a process was given up
 */
export async function withSystem<Prepared>(
  options: SystemOptions,
  prepare: (state: StateFolder) => Promise<Prepared>,
  work: (system: EmbeddedSystem, prepared: Prepared, signal: AbortSignal) => Promise<void>,
): Promise<number> {
  if (options.fresh && process.env['PLUMB_DATABASE_URL'] !== undefined) {
    throw failedPrecondition(
      `plumb ${options.command} starts from nothing, and does not empty the database of PLUMB_DATABASE_URL; unset it, or empty the database and leave --fresh out`,
    );
  }
  const state = await openStateFolder(options.state);
  const release = await takeOwnership(state, options.command);
  try {
    if (options.fresh) await emptyStateFolder(state);
    const prepared = await prepare(state);
    const system = await embeddedSystem({
      state,
      ports: options.ports,
      notice: options.notice,
      ...(options.only === undefined ? {} : { only: options.only }),
    });
    const { supervisor } = system;
    const interruption = listenForInterruption({
      kill: () => {
        supervisor.kill();
      },
      notice: () => {
        options.notice(options.stopNotice);
      },
    });
    const ended = new AbortController();
    try {
      const working = (async () => {
        options.notice(
          `Starting ${options.only?.join(' and ') ?? 'nats-server, the referee and the five services'} ...`,
        );
        await supervisor.start();
        if (!interruption.signal.aborted) {
          await work(system, prepared, AbortSignal.any([interruption.signal, ended.signal]));
        }
      })();
      const interrupted = new Promise<void>((resolve) => {
        interruption.signal.addEventListener('abort', () => {
          resolve();
        });
      });
      // The work may still be on its way to noticing the abort; its end is awaited below.
      const settled = working.catch((error: unknown) => {
        if (interruption.signal.aborted || ended.signal.aborted) return;
        throw error;
      });
      try {
        await Promise.race([settled, supervisor.failed, interrupted]);
      } finally {
        ended.abort();
        await system.stop();
        await settled.catch(() => {
          // The race has already rejected with it.
        });
      }
    } finally {
      interruption.close();
    }
    return interruption.exitCode ?? 0;
  } catch (error) {
    const known = PlumbError.from(error);
    if (known.reason !== 'DISK_FULL') throw known;
    throw failedPrecondition(
      `the disk that holds ${state.path} is full; free some space and start again, or name another folder with --state`,
      { reason: known.reason, cause: error },
    );
  } finally {
    await release();
  }
}
