import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { createInterface } from 'node:readline';
import path from 'node:path';

const program = path.resolve(import.meta.dirname, '../../cli/src/main.ts');

/** The command line, running in a process of its own. */
export interface CommandLine {
  readonly pid: number;
  readonly stdout: () => string;
  readonly stderr: () => string;
  /** Resolves at the first line of standard error that matches, also one that has passed. Rejects if it ends before. */
  said(pattern: RegExp): Promise<void>;
  signal(name: NodeJS.Signals): void;
  /** Exit code when it has ended; null if a signal ended it. */
  readonly ended: Promise<number | null>;
}

/**
 * Starts `plumb` with arguments, as a script would: no terminal.
 * @param env over the test's own environment
 */
export function startPlumb(
  args: readonly string[],
  cwd: string,
  env: Readonly<Record<string, string>> = {},
): CommandLine {
  const child = spawn(process.execPath, [program, ...args], {
    cwd,
    env: { ...process.env, ...env },
    stdio: ['ignore', 'pipe', 'pipe'],
  });
  let stdout = '';
  const lines: string[] = [];
  const waiting = new Set<{ pattern: RegExp; resolve: () => void; reject: (error: Error) => void }>();
  child.stdout.setEncoding('utf8').on('data', (text: string) => {
    stdout += text;
  });
  createInterface({ input: child.stderr }).on('line', (line) => {
    lines.push(line);
    if (process.env['PLUMB_TEST_LOGS'] === '1') process.stderr.write(`${line}\n`);
    for (const waiter of waiting) {
      if (!waiter.pattern.test(line)) continue;
      waiting.delete(waiter);
      waiter.resolve();
    }
  });
  const ended = (async () => {
    const [code] = (await once(child, 'close')) as [number | null];
    for (const { pattern, reject } of waiting) {
      reject(new Error(`plumb ended with ${code} before it said ${String(pattern)}:\n${lines.join('\n')}`));
    }
    return code;
  })();
  return {
    pid: child.pid ?? 0,
    stdout: () => stdout,
    stderr: () => lines.join('\n'),
    said: (pattern) =>
      new Promise((resolve, reject) => {
        if (lines.some((line) => pattern.test(line))) resolve();
        else waiting.add({ pattern, resolve, reject });
      }),
    signal: (name) => {
      child.kill(name);
    },
    ended,
  };
}

/** Runs `plumb` to its end. */
export async function plumb(
  args: readonly string[],
  cwd: string,
  env: Readonly<Record<string, string>> = {},
): Promise<{ code: number | null; stdout: string; stderr: string }> {
  const command = startPlumb(args, cwd, env);
  const code = await command.ended;
  return { code, stdout: command.stdout(), stderr: command.stderr() };
}
