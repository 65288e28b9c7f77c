import { readFile, stat } from 'node:fs/promises';
import { uptime } from 'node:os';
import { join } from 'node:path';
import { setTimeout as delay } from 'node:timers/promises';
import { lock } from 'proper-lockfile';
import { z } from 'zod';
import { failedPrecondition } from '@plumb/kit/errors';
import { markerName, readJson, writeWhole } from './state-folder.ts';
import type { StateFolder } from './state-folder.ts';

/** Age in milliseconds from which a lock that nobody renews counts as left behind. */
const staleMs = 6000;
const retryMs = 500;
const processPatienceMs = 20_000;

const ownerSchema = z.object({ pid: z.number().int().positive(), command: z.string() });
const processesSchema = z.object({
  guardPid: z.number().int().positive().optional(),
});

/**
 * Makes this process the only one that uses a state folder, until the function it returns is called. A lock that was
 * left behind by a killed process is taken over once that process and the children it had are gone.
 * @throws PlumbError FAILED_PRECONDITION naming the process that has the folder, and the fix.
 */
export async function takeOwnership(folder: StateFolder, command: string): Promise<() => Promise<void>> {
  const release = await acquire(folder);
  try {
    await childrenGone(folder);
    await writeWhole(folder.entry('owner.json'), `${JSON.stringify({ pid: process.pid, command })}\n`);
  } catch (error) {
    await release();
    throw error;
  }
  return release;
}

async function acquire(folder: StateFolder): Promise<() => Promise<void>> {
  for (let waited = 0; ; waited += retryMs) {
    try {
      return await lock(join(folder.path, markerName), {
        stale: staleMs,
        update: staleMs / 3,
        onCompromised: () => {
          // The machine slept for longer than the lock lives; the owner file still tells whose the folder is.
        },
      });
    } catch (error) {
      if ((error as NodeJS.ErrnoException).code !== 'ELOCKED') throw error;
      const owner = ownerSchema.safeParse(await readJson(folder.entry('owner.json')));
      const alive = owner.success && isAlive(owner.data.pid);
      if (alive || waited > staleMs + 2 * retryMs) {
        const who = owner.success
          ? `process ${owner.data.pid} (plumb ${owner.data.command})`
          : 'another process';
        throw failedPrecondition(
          `${folder.path} is in use by ${who}; stop that one with Ctrl-C, or name another folder with --state`,
          { cause: error },
        );
      }
      await delay(retryMs);
    }
  }
}

/** Waits until the guard of a killed command line has ended all of that one's processes. */
async function childrenGone(folder: StateFolder): Promise<void> {
  const processes = processesSchema.safeParse(await readJson(folder.entry('processes.json')));
  const guardPid = processes.success ? processes.data.guardPid : undefined;
  if (guardPid === undefined || (await olderThanBoot(folder.entry('processes.json')))) return;
  for (let waited = 0; await isGuard(guardPid); waited += retryMs) {
    if (waited > processPatienceMs) {
      throw failedPrecondition(
        `the processes of an earlier start still use ${folder.path} (guard ${guardPid}); end them, or name another folder with --state`,
      );
    }
    await delay(retryMs);
  }
}

/** True if the file is from before the machine was started: its process ids mean nothing any more. */
async function olderThanBoot(path: string): Promise<boolean> {
  return (await stat(path)).mtimeMs < Date.now() - uptime() * 1000;
}

/** True while the process is there and, where the system tells, is a guard and not another that got its number. */
async function isGuard(pid: number): Promise<boolean> {
  if (!isAlive(pid)) return false;
  try {
    return (await readFile(`/proc/${pid}/cmdline`, 'utf8')).includes('guard.ts');
  } catch {
    // No /proc on this system, or the process has just ended; the next look tells.
    return true;
  }
}

function isAlive(pid: number): boolean {
  try {
    return process.kill(pid, 0);
  } catch (error) {
    // EPERM: it is there and belongs to somebody else.
    return (error as NodeJS.ErrnoException).code === 'EPERM';
  }
}
