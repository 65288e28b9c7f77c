import type { RpcClient } from '@plumb/kit/rpc';
import { JudgeService } from '@plumb/proto/plumb/judge/v1/judge_pb.js';
import type { ConnectionOptions } from '../commands/connection-options.ts';
import { withService } from '../with-service.ts';

/** Where the judge service is. */
export type JudgeOptions = ConnectionOptions & { readonly state: string };

/**
 * Does some work with a judge service: the one at an address, that of the system which runs in the state folder, or one
 * that is started with the toybox's referee for the work alone (with the judges of PLUMB_JUDGES_FILE, if that is set).
 * @returns the exit code
 */
export async function withJudge(
  options: JudgeOptions,
  work: (judge: RpcClient<typeof JudgeService>, signal: AbortSignal | undefined) => Promise<void>,
): Promise<number> {
  return await withService(
    {
      service: JudgeService,
      name: 'judge',
      only: ['nats-server', 'referee', 'judge'],
      command: 'judge',
      // Explanations hold the pictures that are sent.
      maxReceiveBytes: 64 * 2 ** 20,
    },
    options,
    work,
  );
}
