import { z } from 'zod';
import { readJson } from './state-folder.ts';
import type { StateFolder } from './state-folder.ts';

const processesSchema = z.object({
  pid: z.number(),
  components: z.array(
    z.object({
      name: z.string(),
      state: z.string(),
      pid: z.number().optional(),
      address: z.string(),
      restarts: z.number(),
      /** host:port of its Prometheus endpoint. */
      metrics: z.string().optional(),
      /** host:port of its dashboard. */
      web: z.string().optional(),
    }),
  ),
});

/** A process of a running system, as the one that started it wrote it down. */
export type RunningComponent = z.infer<typeof processesSchema>['components'][number];

/** The processes that a command line runs in the folder; undefined if none does. */
export async function runningComponents(
  folder: StateFolder,
): Promise<readonly RunningComponent[] | undefined> {
  const parsed = processesSchema.safeParse(await readJson(folder.entry('processes.json')));
  return parsed.success && isAlive(parsed.data.pid) ? parsed.data.components : undefined;
}

function isAlive(pid: number): boolean {
  try {
    return process.kill(pid, 0);
  } catch (error) {
    // EPERM: it is there and belongs to somebody else.
    return (error as NodeJS.ErrnoException).code === 'EPERM';
  }
}
