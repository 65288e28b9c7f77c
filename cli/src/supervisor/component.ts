import { spawn } from 'node:child_process';
import type { ChildProcessByStdio } from 'node:child_process';
import { once } from 'node:events';
import { createInterface } from 'node:readline';
import type { Readable, Writable } from 'node:stream';
import { setTimeout as delay } from 'node:timers/promises';
import { PlumbError } from '@plumb/kit/errors';
import { z } from 'zod';
import type { ComponentLog } from './component-log.ts';
import type { ProcessGuard } from './process-guard.ts';

/** A process that the supervisor keeps running. */
export interface ComponentSpec {
  readonly name: string;
  readonly command: string;
  readonly args: readonly string[];
  /** Environment, over the command line's own. */
  readonly env: Readonly<Record<string, string>>;
  /** Names of the components that must be ready first; stopping goes the other way round. */
  readonly after: readonly string[];
  /**
   * How the process says that it is ready: 'line' is one line of JSON on standard output with `"ready": true`; a
   * function is asked again until it returns true.
   */
  readonly readiness: 'line' | ((signal: AbortSignal) => Promise<boolean>);
  /** Milliseconds from the start of the process until it must be ready. */
  readonly startDeadlineMs: number;
  /** Milliseconds from SIGTERM to SIGKILL. */
  readonly stopDeadlineMs: number;
  /** Turn in which the guard ends it: 0 first. */
  readonly turn: number;
  /** Address for people, shown by `plumb status`. */
  readonly address: string;
}

export type ComponentState = 'waiting' | 'starting' | 'ready' | 'stopping' | 'stopped' | 'failed';

/** When and how often a crashed process is started again. */
export interface RestartPolicy {
  /** Pause before the first restart in milliseconds; doubles with every further one. */
  readonly firstPauseMs: number;
  readonly longestPauseMs: number;
  /** A crash within this time of the start counts as quick. */
  readonly quickCrashMs: number;
  /** So many quick crashes in a row, and the component is given up. */
  readonly quickCrashLimit: number;
}

export const defaultRestartPolicy: RestartPolicy = {
  firstPauseMs: 250,
  longestPauseMs: 10_000,
  quickCrashMs: 20_000,
  quickCrashLimit: 5,
};

export interface ComponentEvents {
  /** Called at every change of state or process id. */
  changed(): void;
  /** One line for people, for example of a restart. */
  notice(line: string): void;
}

/** Key of an error's metadata that holds the last lines of the component's log. */
export const logTailKey = 'log_tail';

/** The exit code by which a process says that its configuration is wrong: starting it again would not help. */
const configurationExitCode = 2;
const probePauseMs = 100;

/** One process with its restarts, from {@link Component.start} to {@link Component.stop}. */
export class Component {
  readonly spec: ComponentSpec;
  readonly #log: ComponentLog;
  readonly #guard: ProcessGuard;
  readonly #events: ComponentEvents;
  readonly #policy: RestartPolicy;
  readonly #ended = new AbortController();
  #child: ChildProcessByStdio<Writable, Readable, Readable> | undefined;
  #state: ComponentState = 'waiting';
  #restarts = 0;
  #metrics: string | undefined;
  #web: string | undefined;
  #running: Promise<void> | undefined;

  constructor(
    spec: ComponentSpec,
    options: { log: ComponentLog; guard: ProcessGuard; events: ComponentEvents; policy?: RestartPolicy },
  ) {
    this.spec = spec;
    this.#log = options.log;
    this.#guard = options.guard;
    this.#events = options.events;
    this.#policy = options.policy ?? defaultRestartPolicy;
  }

  get state(): ComponentState {
    return this.#state;
  }

  /** Process id, while there is a process. */
  get pid(): number | undefined {
    return this.#child?.pid;
  }

  /** host:port of the dashboard that the ready line named. */
  get web(): string | undefined {
    return this.#web;
  }

  /** host:port of the metrics endpoint that the ready line named. */
  get metrics(): string | undefined {
    return this.#metrics;
  }

  get restarts(): number {
    return this.#restarts;
  }

  /**
   * Starts the process and keeps it running. Resolves when it is ready for the first time; `onFailure` hears if it is
   * given up later.
   * @throws PlumbError PROCESS_FAILED, with the last lines of the log in its metadata, if it is given up before it was ready.
   */
  start(onFailure: (error: PlumbError) => void): Promise<void> {
    const firstReady = Promise.withResolvers<void>();
    const run = async (): Promise<void> => {
      try {
        await this.#keepRunning(firstReady.resolve);
        firstReady.reject(this.#failure('was stopped before it was ready'));
      } catch (error) {
        const failure = PlumbError.from(error);
        this.#setState('failed');
        firstReady.reject(failure);
        onFailure(failure);
      }
    };
    this.#running = run();
    return firstReady.promise;
  }

  /** Asks the process to end, and kills it and its children when the deadline has passed. Idempotent. */
  async stop(): Promise<void> {
    if (this.#running === undefined) {
      this.#setState('stopped');
      return;
    }
    if (this.#state !== 'failed') this.#setState('stopping');
    this.#ended.abort();
    const child = this.#child;
    if (child?.pid !== undefined) {
      const { pid } = child;
      signalGroup(pid, 'SIGTERM');
      const deadline = setTimeout(() => {
        this.#log.note(`did not end within ${this.spec.stopDeadlineMs} ms of SIGTERM; sending SIGKILL`);
        signalGroup(pid, 'SIGKILL');
      }, this.spec.stopDeadlineMs);
      await this.#running;
      clearTimeout(deadline);
    } else {
      await this.#running;
    }
    this.#setState('stopped');
  }

  /** Ends the process at once. */
  kill(): void {
    this.#ended.abort();
    if (this.#child?.pid !== undefined) signalGroup(this.#child.pid, 'SIGKILL');
  }

  async #keepRunning(onReady: () => void): Promise<void> {
    let quickCrashes = 0;
    let pauseMs = this.#policy.firstPauseMs;
    for (;;) {
      const startedAt = performance.now();
      const outcome = await this.#runOnce(onReady);
      if (this.#ended.signal.aborted) return;
      if (outcome.fatal) throw this.#failure(outcome.text);
      const quick = performance.now() - startedAt < this.#policy.quickCrashMs;
      quickCrashes = quick ? quickCrashes + 1 : 0;
      if (!quick) pauseMs = this.#policy.firstPauseMs;
      if (quickCrashes >= this.#policy.quickCrashLimit) {
        throw this.#failure(`${outcome.text}, ${quickCrashes} times in a row shortly after its start`);
      }
      this.#restarts += 1;
      this.#setState('waiting');
      const line = `${this.spec.name} ${outcome.text}; starting it again in ${pauseMs / 1000} s`;
      this.#log.note(line);
      this.#events.notice(line);
      try {
        await delay(pauseMs, undefined, { signal: this.#ended.signal });
      } catch {
        // Only an abort ends the pause early: the component is being stopped.
        return;
      }
      pauseMs = Math.min(pauseMs * 2, this.#policy.longestPauseMs);
    }
  }

  /** Runs the process until it has exited and its pipes are read to the end. */
  async #runOnce(onReady: () => void): Promise<{ text: string; fatal: boolean }> {
    const { spec } = this;
    this.#setState('starting');
    // A session of its own: Ctrl-C in the terminal reaches only the command line, which then stops all in order, and
    // whatever the process forks is ended with it.
    const child = spawn(spec.command, spec.args, {
      env: { ...process.env, ...spec.env },
      stdio: ['pipe', 'pipe', 'pipe'],
      detached: true,
    });
    this.#child = child;
    this.#events.changed();
    child.stdin.on('error', () => {
      // EPIPE at the end of the process; its exit event says so.
    });
    this.#log.follow(child.stderr);
    const ended = new AbortController();
    const closed = Promise.withResolvers<string>();
    let failedToSpawn = false;
    child.once('error', (error: NodeJS.ErrnoException) => {
      failedToSpawn = true;
      closed.resolve(
        `could not be started (${error.code === 'ENOENT' ? `${spec.command} is not there` : error.message})`,
      );
    });
    child.once('exit', (code, signal) => {
      ended.abort();
      if (child.pid !== undefined) {
        signalGroup(child.pid, 'SIGKILL');
        this.#guard.remove(child.pid);
      }
      closed.resolve(signal === null ? `exited with code ${code}` : `was ended by ${signal}`);
    });
    if (child.pid !== undefined) this.#guard.add(child.pid, spec.turn);

    let late = false;
    const deadline = setTimeout(() => {
      late = true;
      if (child.pid !== undefined) signalGroup(child.pid, 'SIGKILL');
    }, spec.startDeadlineMs);
    const stopWaiting = AbortSignal.any([ended.signal, this.#ended.signal]);
    const becomeReady = async (): Promise<void> => {
      if (!(await this.#waitUntilReady(child, stopWaiting)) || late) return;
      clearTimeout(deadline);
      this.#setState('ready');
      onReady();
    };
    const becomesReady = becomeReady();
    const text = await closed.promise;
    ended.abort();
    clearTimeout(deadline);
    await becomesReady;
    this.#child = undefined;
    if (this.#state === 'starting' || this.#state === 'ready') this.#setState('waiting');
    else this.#events.changed();
    return {
      text: late ? `was not ready within ${spec.startDeadlineMs / 1000} s` : text,
      fatal: failedToSpawn || child.exitCode === configurationExitCode,
    };
  }

  async #waitUntilReady(
    child: ChildProcessByStdio<Writable, Readable, Readable>,
    signal: AbortSignal,
  ): Promise<boolean> {
    const { readiness } = this.spec;
    if (readiness === 'line') {
      const lines = createInterface({ input: child.stdout });
      const ready = new Promise<boolean>((resolve) => {
        lines.on('line', (line) => {
          const ready = readReadyLine(line);
          if (ready !== undefined) {
            this.#metrics = ready.metrics;
            this.#web = ready.web;
            resolve(true);
          } else this.#log.note(`standard output: ${line}`);
        });
      });
      return Promise.race([ready, aborted(signal)]);
    }
    this.#log.follow(child.stdout);
    while (!signal.aborted) {
      if (await readiness(signal)) return true;
      await Promise.race([delay(probePauseMs), aborted(signal)]);
    }
    return false;
  }

  #failure(text: string): PlumbError {
    return new PlumbError({
      code: 'UNAVAILABLE',
      reason: 'PROCESS_FAILED',
      message: `${this.spec.name} ${text}; its log is ${this.#log.path}`,
      metadata: { component: this.spec.name, [logTailKey]: this.#log.tail().join('\n') },
    });
  }

  #setState(state: ComponentState): void {
    if (this.#state === state) return;
    this.#state = state;
    this.#events.changed();
  }
}

async function aborted(signal: AbortSignal): Promise<false> {
  if (!signal.aborted) await once(signal, 'abort');
  return false;
}

const readyLineSchema = z.object({
  ready: z.literal(true),
  metrics: z.string().optional(),
  web: z.string().optional(),
});

function readReadyLine(line: string): z.infer<typeof readyLineSchema> | undefined {
  try {
    return readyLineSchema.safeParse(JSON.parse(line)).data;
  } catch {
    // Not JSON, so not the ready line.
    return undefined;
  }
}

function signalGroup(pid: number, signal: NodeJS.Signals): void {
  try {
    process.kill(-pid, signal);
  } catch (error) {
    // The group has ended already.
    if ((error as NodeJS.ErrnoException).code !== 'ESRCH') throw error;
  }
}
