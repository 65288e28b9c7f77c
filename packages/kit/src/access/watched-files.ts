import { readFile } from 'node:fs/promises';
import { describeError, PlumbError } from '../errors/plumb-error.ts';
import { logger } from '../telemetry/logger.ts';

/** A value that is made of files and made anew when one of them changes. */
export interface Watched<Value> {
  /** The newest that could be made. */
  readonly current: Value;
  /** Called with each new value. */
  onChange(listener: (value: Value) => void): void;
  /** Looks at the files now, and not only at the next turn. */
  refresh(): Promise<void>;
  close(): void;
}

export interface WatchOptions<Value> {
  /** What the files are, for errors and the log, for example 'the server certificate'. */
  readonly what: string;
  /** The files; with the setting that names each, for the error. */
  readonly files: readonly { readonly path: string; readonly variable: string }[];
  /** Makes the value of the files' bytes, in their order. What it throws refuses the value; it must not quote secrets. */
  readonly parse: (contents: readonly Buffer[]) => Value;
  /** Time between two looks, 2 s by default. */
  readonly everyMs?: number;
}

/**
 * Reads files at once and again whenever their bytes change. It compares bytes rather than waiting for events of the file
 * system, which do not come for mounted secrets, whose folder is swapped as a whole. When new bytes are unusable, for
 * example a certificate whose key has not been replaced yet, the last good value stays and the log says so.
 *
 * @throws PlumbError CONFIGURATION_INVALID when the first reading fails
 */
export async function watchFiles<Value>(options: WatchOptions<Value>): Promise<Watched<Value>> {
  const { what, files, parse, everyMs = 2000 } = options;
  const log = logger('access');
  const listeners: ((value: Value) => void)[] = [];
  let contents: Buffer[];
  let current: Value;
  try {
    contents = await readAll(files);
    current = parse(contents);
  } catch (error) {
    throw new PlumbError({
      code: 'INVALID_ARGUMENT',
      reason: 'CONFIGURATION_INVALID',
      message: `${what} cannot be used (${describeError(error)}); check ${files.map(({ path, variable }) => `${variable}=${path}`).join(' and ')}`,
      cause: error,
    });
  }
  let lastProblem = '';
  const look = async (): Promise<void> => {
    try {
      const read = await readAll(files);
      if (read.every((bytes, index) => contents[index]?.equals(bytes) === true)) {
        lastProblem = '';
        return;
      }
      current = parse(read);
      contents = read;
      lastProblem = '';
      log.info({ files: files.map(({ path }) => path) }, `${what} changed and is in use`);
      for (const listener of listeners) listener(current);
    } catch (error) {
      // Once for each problem, not at every look.
      const problem = describeError(error);
      if (problem !== lastProblem) {
        log.error(
          { files: files.map(({ path }) => path), problem },
          `${what} changed and cannot be used; the last one stays`,
        );
      }
      lastProblem = problem;
    }
  };
  let looking: Promise<void> | undefined;
  const refresh = async (): Promise<void> => {
    looking ??= look().finally(() => {
      looking = undefined;
    });
    await looking;
  };
  const timer = setInterval(() => void refresh(), everyMs).unref();
  return {
    get current() {
      return current;
    },
    onChange: (listener) => {
      listeners.push(listener);
    },
    refresh,
    close: () => {
      clearInterval(timer);
      listeners.length = 0;
    },
  };
}

async function readAll(files: WatchOptions<unknown>['files']): Promise<Buffer[]> {
  return await Promise.all(files.map(async ({ path }) => await readFile(path)));
}
