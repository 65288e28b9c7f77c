/** gRPC health of each judge, under plumb.judge.v1.JudgeService/<name>, and what is wrong with it. */

import type { PlumbError } from '@plumb/kit/errors';
import type { RpcServer } from '@plumb/kit/rpc';
import { logger } from '@plumb/kit/telemetry';
import { JudgeService } from '@plumb/proto/plumb/judge/v1/judge_pb.js';

/** Which judges cannot be asked. */
export interface JudgeHealth {
  /** Why every call of a judge fails until somebody changes the configuration; undefined while it answers. */
  problemOf(judge: string): string | undefined;
  /** A call failed for a reason that is in the configuration: the judge is NOT_SERVING. Calls go on, as the fix may be elsewhere. */
  misconfigured(judge: string, error: PlumbError): void;
  /** The judge was answered: it is SERVING. */
  answered(judge: string): void;
}

/** Health of these judges, all of which are serving until told otherwise. */
export function judgeHealth(server: Pick<RpcServer, 'setHealth'>, judges: readonly string[]): JudgeHealth {
  const log = logger('judging');
  const problems = new Map<string, string>();
  const nameOf = (judge: string): string => `${JudgeService.typeName}/${judge}`;
  for (const judge of judges) server.setHealth(nameOf(judge), 'SERVING');
  return {
    problemOf: (judge) => problems.get(judge),
    misconfigured(judge, { message }) {
      const told = problems.get(judge) === message;
      problems.set(judge, message);
      server.setHealth(nameOf(judge), 'NOT_SERVING');
      if (!told) log.error({ judge, problem: message }, 'a judge cannot be asked; its samples wait');
    },
    answered(judge) {
      if (!problems.delete(judge)) return;
      server.setHealth(nameOf(judge), 'SERVING');
      log.info({ judge }, 'a judge answers again');
    },
  };
}
