import { setTimeout as delay } from 'node:timers/promises';
import { failedPrecondition } from '@plumb/kit/errors';
import { runningComponents } from '../state/running-system.ts';
import { existingStateFolder } from '../state/state-folder.ts';
import { takeSnapshot, viewOf } from './snapshot.ts';
import type { Snapshot, Source } from './snapshot.ts';
import { topLines } from './top-lines.ts';

export interface TopOptions {
  readonly state: string;
  /** Metrics endpoints as host:port, instead of the embedded system's. */
  readonly address: readonly string[];
  readonly once?: true;
  readonly json?: true;
  readonly interval: number;
}

// Long enough for a rate to mean something where only one look is wanted.
const onceSeconds = 1;

/**
 * Shows the system until Ctrl-C, or once.
 * @throws PlumbError FAILED_PRECONDITION when nothing runs in the state folder
 */
export async function showTop(options: TopOptions): Promise<void> {
  let before: Snapshot | undefined = await takeSnapshot(await sourcesOf(options));
  const single = options.once === true || !process.stdout.isTTY;
  if (single) {
    await delay(onceSeconds * 1000);
    print(await takeSnapshot(await sourcesOf(options)), before, options);
    return;
  }
  const stop = new AbortController();
  process.once('SIGINT', () => {
    stop.abort();
  });
  let drawn = 0;
  while (!stop.signal.aborted) {
    // An aborted pause rejects; the condition sees the abort.
    await delay(options.interval * 1000, undefined, { signal: stop.signal }).catch(() => undefined);
    if (stop.signal.aborted) break;
    const now: Snapshot = await takeSnapshot(await sourcesOf(options));
    // Back to the first line of the picture, and everything below is drawn anew.
    if (drawn > 0 && options.json !== true) process.stdout.write(`\u001B[${drawn}A\u001B[J`);
    drawn = print(now, before, options);
    before = now;
  }
}

function print(now: Snapshot, before: Snapshot | undefined, { json }: TopOptions): number {
  const view = viewOf(now, before);
  const lines = json === true ? [JSON.stringify(view)] : topLines(view);
  process.stdout.write(`${lines.join('\n')}\n`);
  return lines.length;
}

async function sourcesOf({ address, state }: TopOptions): Promise<Source[]> {
  if (address.length > 0) return address.map((metrics) => ({ name: metrics, metrics }));
  const folder = await existingStateFolder(state);
  const running = folder === undefined ? undefined : await runningComponents(folder);
  if (running === undefined) {
    throw failedPrecondition(
      `nothing runs in ${state}; start it with \`plumb up\` or \`plumb demo\`, name its folder with --state, or metrics endpoints with --address`,
    );
  }
  return running.map(({ name, state: now, restarts, metrics }) => ({ name, state: now, restarts, metrics }));
}
