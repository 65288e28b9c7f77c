/** Whether a process gets on with its work, as the system tells it. */

import { readdir, readFile } from 'node:fs/promises';

/** A look at a process. */
export interface Progress {
  /** Processor time of all its threads, in ticks of the system's clock. */
  readonly ticks: number;
  /** A thread runs, waits for a processor, or waits for a disk. */
  readonly busy: boolean;
}

/**
 * Looks at a process: proc(5), /proc/<pid>/task/<thread>/stat.
 *
 * @returns undefined where the system has no /proc, or the process has ended
 */
export async function progressOf(pid: number): Promise<Progress | undefined> {
  try {
    const folder = `/proc/${pid}/task`;
    const threads = await readdir(folder);
    const stats = await Promise.all(threads.map((thread) => readFile(`${folder}/${thread}/stat`, 'utf8')));
    let [ticks, busy] = [0, false];
    for (const stat of stats) {
      // The name before the last bracket may hold anything; state is field 3, user and system time are fields 14 and 15.
      const fields = stat.slice(stat.lastIndexOf(')') + 2).split(' ');
      ticks += Number(fields[11]) + Number(fields[12]);
      busy ||= fields[0] === 'R' || fields[0] === 'D';
    }
    return { ticks, busy };
  } catch {
    // A thread or the process ended meanwhile, which its exit tells, or this is another system.
    return undefined;
  }
}
