/**
 * A process of its own that outlives the command line for a moment: when its standard input closes, because the command
 * line has ended in whatever way, it ends every process group that is still listed. Lines on standard input:
 * `+<group> <pid>` adds a process group that ends in turn `<group>` (0 first), `-<pid>` takes it off the list.
 */
import { createInterface } from 'node:readline';
import { setTimeout as delay } from 'node:timers/promises';

/** Time that a process gets between SIGTERM and SIGKILL. */
const patienceMs = 8000;
const pollMs = 50;

const listed = new Map<number, number>();

for await (const line of createInterface({ input: process.stdin })) {
  const added = /^\+(\d+) (\d+)$/.exec(line);
  if (added) listed.set(Number(added[2]), Number(added[1]));
  const removed = /^-(\d+)$/.exec(line);
  if (removed) listed.delete(Number(removed[1]));
}

const turns = [...new Set(listed.values())].toSorted((a, b) => a - b);
for (const turn of turns) {
  const groups = [...listed].filter(([, group]) => group === turn).map(([pid]) => pid);
  for (const pid of groups) signalGroup(pid, 'SIGTERM');
  for (let waited = 0; waited < patienceMs && groups.some((pid) => signalGroup(pid, 0)); waited += pollMs) {
    await delay(pollMs);
  }
  for (const pid of groups) signalGroup(pid, 'SIGKILL');
}

/** True if the process group was there to be signalled. */
function signalGroup(pid: number, signal: NodeJS.Signals | 0): boolean {
  try {
    return process.kill(-pid, signal);
  } catch {
    // ESRCH: the group has ended, which is what is wanted.
    return false;
  }
}
