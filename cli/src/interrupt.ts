/** What a run of a command is told when a person or the system wants it to end. */
export interface Interruption {
  /** Aborts at the first Ctrl-C or SIGTERM. */
  readonly signal: AbortSignal;
  /** Exit code that the signal stands for: 130 for Ctrl-C, 143 for SIGTERM; undefined while there was none. */
  readonly exitCode: number | undefined;
  /** Stops listening. */
  close(): void;
}

const exitCodes = { SIGINT: 130, SIGTERM: 143, SIGHUP: 129 } as const;

/**
 * Listens for Ctrl-C, SIGTERM and a closed terminal. The first asks for an orderly stop by the signal; the second calls
 * `kill` and ends the process at once.
 */
export function listenForInterruption(options: { kill: () => void; notice: () => void }): Interruption {
  const controller = new AbortController();
  let exitCode: number | undefined;
  const names = Object.keys(exitCodes) as (keyof typeof exitCodes)[];
  const onSignal = (name: NodeJS.Signals): void => {
    const code = exitCodes[name as keyof typeof exitCodes];
    if (exitCode !== undefined) {
      options.kill();
      process.exit(code);
    }
    exitCode = code;
    options.notice();
    controller.abort();
  };
  for (const name of names) process.on(name, onSignal);
  return {
    signal: controller.signal,
    get exitCode() {
      return exitCode;
    },
    close() {
      for (const name of names) process.off(name, onSignal);
    },
  };
}
