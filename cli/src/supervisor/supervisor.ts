import { mkdir } from 'node:fs/promises';
import { PlumbError } from '@plumb/kit/errors';
import { Component } from './component.ts';
import type { ComponentSpec, ComponentState, RestartPolicy } from './component.ts';
import { openComponentLog } from './component-log.ts';
import { startProcessGuard } from './process-guard.ts';

/** What `plumb status` shows of one process. */
export interface ComponentStatus {
  readonly name: string;
  readonly state: ComponentState;
  readonly pid: number | undefined;
  readonly address: string;
  readonly restarts: number;
  /** host:port of its Prometheus endpoint, once it is ready. */
  readonly metrics: string | undefined;
  readonly web: string | undefined;
}

export interface SupervisorOptions {
  readonly components: readonly ComponentSpec[];
  /** Folder of the log files. */
  readonly logFolder: string;
  /** One line for people: a restart, a log that cannot be written. */
  readonly notice: (line: string) => void;
  /** Called with the whole picture whenever something changed. */
  readonly changed?: (components: readonly ComponentStatus[], guardPid: number | undefined) => void;
  readonly policy?: RestartPolicy;
}

/** Keeps a set of processes running, from start to stop. */
export interface Supervisor {
  /** Rejects when a component was given up; never resolves before the supervisor is stopped. */
  readonly failed: Promise<never>;
  /** Starts all components in the order of their `after`. Rejects with the first that cannot be started. */
  start(): Promise<void>;
  status(): readonly ComponentStatus[];
  /** Stops all, in the opposite order, each with its deadline. Idempotent. */
  stop(): Promise<void>;
  /** Ends all at once. */
  kill(): void;
}

/** Makes a supervisor; nothing is started before {@link Supervisor.start}. */
export async function createSupervisor(options: SupervisorOptions): Promise<Supervisor> {
  await mkdir(options.logFolder, { recursive: true });
  const guard = startProcessGuard();
  const failure = Promise.withResolvers<never>();
  // Whoever waits for it hears of it; without a listener it must not end the process as an unhandled rejection.
  failure.promise.catch(() => {});
  let stopping: Promise<void> | undefined;
  let unwritableLog = false;

  const reportChange = (): void => {
    options.changed?.(status(), guard.pid);
  };
  const logs = options.components.map((spec) =>
    openComponentLog(options.logFolder, spec.name, (error) => {
      if (unwritableLog) return;
      unwritableLog = true;
      failure.reject(PlumbError.from(error));
    }),
  );
  const components = options.components.map(
    (spec, index) =>
      new Component(spec, {
        log: logs[index]!,
        guard,
        events: { changed: reportChange, notice: options.notice },
        ...(options.policy === undefined ? {} : { policy: options.policy }),
      }),
  );
  const levels = startOrder(options.components).map((names) =>
    components.filter(({ spec }) => names.includes(spec.name)),
  );

  function status(): readonly ComponentStatus[] {
    return components.map(({ spec, state, pid, restarts, metrics, web }) => ({
      name: spec.name,
      state,
      pid,
      address: spec.address,
      restarts,
      metrics,
      web,
    }));
  }

  async function stopAll(): Promise<void> {
    for (const level of levels.toReversed()) await Promise.all(level.map((component) => component.stop()));
    await Promise.all(logs.map((log) => log.close()));
    guard.close();
  }

  return {
    failed: failure.promise,
    async start() {
      for (const level of levels) {
        if (stopping !== undefined) return;
        await Promise.all(level.map((component) => component.start(failure.reject)));
      }
    },
    status,
    stop() {
      stopping ??= stopAll();
      return stopping;
    },
    kill() {
      for (const component of components) component.kill();
    },
  };
}

/**
 * The order of starting: each level needs only components of earlier levels.
 * @throws Error if a component waits for one that is not there, or two wait for each other.
 */
export function startOrder(
  components: readonly Pick<ComponentSpec, 'name' | 'after'>[],
): readonly (readonly string[])[] {
  const levels: string[][] = [];
  const placed = new Set<string>();
  while (placed.size < components.length) {
    const level = components
      .filter(({ name, after }) => !placed.has(name) && after.every((needed) => placed.has(needed)))
      .map(({ name }) => name);
    if (level.length === 0) {
      const rest = components.filter(({ name }) => !placed.has(name)).map(({ name }) => name);
      throw new Error(`components wait for each other or for one that is not there: ${rest.join(', ')}`);
    }
    for (const name of level) placed.add(name);
    levels.push(level);
  }
  return levels;
}
