import { describeError } from '@plumb/kit/errors';
import type { RpcClient } from '@plumb/kit/rpc';
import { logger } from '@plumb/kit/telemetry';
import { EndpointState } from '@plumb/proto/plumb/judge/v1/judge_pb.js';
import type { JudgeService } from '@plumb/proto/plumb/judge/v1/judge_pb.js';
import type { JudgeSigns } from '../domain/stall.ts';

const log = logger('plumb.loop.judge');

/** Asks the judge service how it stands; undefined where there is none. */
export type JudgeSignsOf = (runId: string) => Promise<JudgeSigns | undefined>;

export const noJudgeSigns: JudgeSignsOf = () => Promise.resolve(undefined);

const states = {
  [EndpointState.UNSPECIFIED]: 'serving',
  [EndpointState.SERVING]: 'serving',
  [EndpointState.RECOVERING]: 'recovering',
  [EndpointState.DOWN]: 'down',
} as const;

/** The answer takes no longer, in milliseconds: one that does not come is a sign of its own. */
const deadlineMs = 2000;

/** The judge service behind a client. */
export function judgeSignsOf(
  client: Pick<RpcClient<typeof JudgeService>, 'listEndpoints' | 'getSpend'>,
): JudgeSignsOf {
  return async (runId) => {
    try {
      const [{ endpoints }, { spend }] = await Promise.all([
        client.listEndpoints({}, { deadlineMs }),
        client.getSpend({ runId }, { deadlineMs }),
      ]);
      return {
        answers: true,
        endpoints: endpoints.map(({ name, state, callsInFlight }) => ({
          name,
          state: states[state],
          callsInFlight,
        })),
        exhausted: spend?.exhausted ?? false,
      };
    } catch (thrown) {
      log.info({ runId, error: describeError(thrown) }, 'the judge service does not say how it stands');
      return { answers: false, endpoints: [], exhausted: false };
    }
  };
}
