import type { MessageInitShape } from '@bufbuild/protobuf';
import { timestampFromDate } from '@bufbuild/protobuf/wkt';
import type { GateDecisionSchema } from '@plumb/proto/plumb/loop/v1/loop_pb.js';
import { parseRules } from '../domain/gate.ts';
import type { DecisionRow } from './ledger/iterations.ts';
import type { OverrideRow } from './ledger/overrides.ts';

/** What the gate decided, and what a person decided since. */
export function decisionView(
  decision: DecisionRow,
  override: OverrideRow | undefined,
): MessageInitShape<typeof GateDecisionSchema> {
  return {
    promoted: decision.promoted,
    rules: parseRules(decision.rules),
    ...(override === undefined
      ? {}
      : {
          override: {
            promoted: override.promoted,
            reason: override.reason,
            person: override.person,
            createTime: timestampFromDate(override.created_at),
          },
        }),
  };
}
