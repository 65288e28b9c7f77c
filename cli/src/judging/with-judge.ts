import { createClient } from '@plumb/kit/rpc';
import type { RpcClient } from '@plumb/kit/rpc';
import { JudgeService } from '@plumb/proto/plumb/judge/v1/judge_pb.js';
import { runningComponents } from '../state/running-system.ts';
import { existingStateFolder } from '../state/state-folder.ts';
import { withSystem } from '../with-system.ts';

/** Where the judge service is. */
export interface JudgeOptions {
  readonly state: string;
  /** host:port of one that runs already. */
  readonly address?: string;
}

/**
 * Does some work with a judge service: the one at an address, that of the system which runs in the state folder, or one
 * that is started with the toybox's referee for the work alone (with the judges of PLUMB_JUDGES_FILE, if that is set).
 * @returns the exit code
 */
export async function withJudge(
  { state, address }: JudgeOptions,
  work: (judge: RpcClient<typeof JudgeService>, signal: AbortSignal | undefined) => Promise<void>,
): Promise<number> {
  const use = async (at: string, signal?: AbortSignal): Promise<void> => {
    const judge = createClient(JudgeService, at, {
      waitForReady: true,
      defaultDeadlineMs: 300_000,
      // Explanations hold the pictures that are sent.
      maxReceiveBytes: 64 * 2 ** 20,
    });
    try {
      await work(judge, signal);
    } finally {
      judge.close();
    }
  };
  const folder = await existingStateFolder(state);
  const running = folder === undefined ? undefined : await runningComponents(folder);
  const known = address ?? running?.find(({ name }) => name === 'judge')?.address;
  if (known !== undefined) {
    await use(known);
    return 0;
  }
  return withSystem(
    {
      state,
      fresh: false,
      ports: {},
      only: ['nats-server', 'referee', 'judge'],
      command: 'judge',
      notice: (line) => {
        process.stderr.write(`${line}\n`);
      },
      stopNotice: 'Stopping.',
    },
    async () => {},
    ({ addresses }, _, signal) => use(addresses.judge, signal),
  );
}
