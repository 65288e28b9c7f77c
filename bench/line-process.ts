import { spawn, type ChildProcess } from 'node:child_process';
import { once } from 'node:events';
import { createInterface } from 'node:readline';

/** A process that answers every line it is sent with one line of JSON. */
export interface LineProcess<Reply> {
  /** Sends a line and waits for the answer. */
  ask(line: string): Promise<Reply>;
  /** Ends the process by closing its input, and waits for it. */
  close(): Promise<void>;
}

/**
 * Starts a process that says one line of JSON when it is ready; what it writes to standard error is kept for errors.
 * @param label what the process is called in errors
 * @throws Error with the end of what it wrote to standard error, when it ends before it is asked to
 */
export async function openLineProcess<Reply>(
  label: string,
  command: string,
  args: readonly string[],
): Promise<LineProcess<Reply>> {
  const child: ChildProcess = spawn(command, args, { stdio: ['pipe', 'pipe', 'pipe'] });
  const { stdin, stdout, stderr } = child;
  if (stdin === null || stdout === null || stderr === null) throw new Error(`${label} has no pipes`);
  let complaint = '';
  stderr.on('data', (chunk: Buffer) => {
    complaint = (complaint + chunk.toString()).slice(-4000);
  });
  // A write to a process that has ended fails; the missing answer says so better.
  stdin.on('error', () => undefined);
  const failed = new Promise<never>((_, reject) => {
    child.once('error', (cause) => {
      reject(new Error(`${label} does not start: ${cause.message}`, { cause }));
    });
    child.once('close', (code, signal) => {
      reject(new Error(`${label} ended with ${signal ?? `code ${code}`}: ${complaint.trim()}`));
    });
  });
  failed.catch(() => undefined);
  const lines = createInterface({ input: stdout })[Symbol.asyncIterator]();
  const answer = async (): Promise<Reply> => {
    const { done, value } = await Promise.race([lines.next(), failed]);
    return done === true ? failed : (JSON.parse(value) as Reply);
  };
  await answer();
  return {
    ask(line) {
      stdin.write(`${line}\n`);
      return answer();
    },
    async close() {
      if (child.exitCode !== null || child.signalCode !== null) return;
      const closed = once(child, 'close');
      stdin.end();
      await closed;
    },
  };
}
