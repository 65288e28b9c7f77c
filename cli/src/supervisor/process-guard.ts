import { spawn } from 'node:child_process';
import type { ChildProcessByStdio } from 'node:child_process';
import type { Writable } from 'node:stream';
import { fileURLToPath } from 'node:url';

const guardProgram = fileURLToPath(new URL('guard.ts', import.meta.url));

/** Sees to it that no child process outlives the command line, also when the command line is killed by SIGKILL. */
export interface ProcessGuard {
  /** Process id of the guard. */
  readonly pid: number | undefined;
  /** Lists a process group; groups of turn 0 are ended before those of turn 1. */
  add(pid: number, turn: number): void;
  remove(pid: number): void;
  /** Lets the guard go; it ends what is still listed. */
  close(): void;
}

/** Starts the guard process; it is started again if it ends early. */
export function startProcessGuard(): ProcessGuard {
  const listed = new Map<number, number>();
  let closed = false;
  let child = start();

  function start(): ChildProcessByStdio<Writable, null, null> {
    // Its own session, so that Ctrl-C in the terminal does not reach it.
    const guard = spawn(process.execPath, [guardProgram], {
      stdio: ['pipe', 'ignore', 'ignore'],
      detached: true,
    });
    guard.stdin.on('error', () => {
      // EPIPE: the guard has ended; its exit event starts another.
    });
    guard.on('exit', () => {
      if (!closed) child = start();
    });
    for (const [pid, turn] of listed) guard.stdin.write(`+${turn} ${pid}\n`);
    guard.unref();
    return guard;
  }

  return {
    get pid() {
      return child.pid;
    },
    add(pid, turn) {
      listed.set(pid, turn);
      child.stdin.write(`+${turn} ${pid}\n`);
    },
    remove(pid) {
      listed.delete(pid);
      child.stdin.write(`-${pid}\n`);
    },
    close() {
      closed = true;
      child.stdin.end();
    },
  };
}
