/** Processor time of other processes, as proc(5) tells it. */
import { readFile } from 'node:fs/promises';
import { setTimeout as delay } from 'node:timers/promises';

/** Clock ticks in a second. */
const ticksPerSecond = 100;

/** Fields of /proc/<pid>/stat after the name, which may hold spaces: the first is field 3 of the whole. */
async function statOf(pid: number | 'self'): Promise<readonly string[]> {
  const text = await readFile(`/proc/${pid}/stat`, 'utf8');
  return text.slice(text.lastIndexOf(')') + 2).split(' ');
}

/** Processor time of a process with all its threads so far, in seconds. */
export async function processorSecondsOf(pid: number): Promise<number> {
  const fields = await statOf(pid);
  // utime and stime.
  return (Number(fields[11]) + Number(fields[12])) / ticksPerSecond;
}

/** Processor time of all children of this process that have ended, and of theirs, in seconds. */
export async function processorSecondsOfChildren(): Promise<number> {
  const fields = await statOf('self');
  // cutime and cstime.
  return (Number(fields[13]) + Number(fields[14])) / ticksPerSecond;
}

/** Processor seconds of each component from when it was ready, until something has ended; by name. */
export async function watchProcessorTime(
  processesFile: string,
  ended: Promise<unknown>,
): Promise<ReadonlyMap<string, number>> {
  const seen = new Map<string, { readonly first: number; last: number }>();
  const stop = new AbortController();
  void ended.finally(() => {
    stop.abort();
  });
  while (!stop.signal.aborted) {
    await Promise.race([ended, delay(500)]);
    // Neither the file nor a process need be there at the beginning and at the end.
    const text = await readFile(processesFile, 'utf8').catch(() => '{"components":[]}');
    const { components } = JSON.parse(text) as {
      components: readonly { name: string; state: string; pid?: number }[];
    };
    for (const { name, state, pid } of components) {
      if (state !== 'ready' || pid === undefined) continue;
      const now = await processorSecondsOf(pid).catch(() => undefined);
      if (now === undefined) continue;
      const known = seen.get(name);
      if (known === undefined) seen.set(name, { first: now, last: now });
      else known.last = now;
    }
  }
  return new Map([...seen].map(([name, { first, last }]) => [name, last - first]));
}
