import type { MessageInitShape } from '@bufbuild/protobuf';
import { failedPrecondition, invalidArguments, PlumbError } from '@plumb/kit/errors';
import type { FieldViolation } from '@plumb/kit/errors';
import type {
  OverrideDecisionRequest,
  OverrideDecisionResponseSchema,
} from '@plumb/proto/plumb/loop/v1/loop_pb.js';
import { decisionView } from './adapters/decision-view.ts';
import { findDecision } from './adapters/ledger/iterations.ts';
import { findOverrideByKey, insertOverride, latestOverride } from './adapters/ledger/overrides.ts';
import type { RunRow } from './adapters/ledger/runs.ts';
import { loadIteration } from './adapters/loaded-iteration.ts';
import { modelToText, specFromText } from './adapters/messages.ts';
import type { LoopContext } from './reconciler/context.ts';
import { currentTraceId } from './reconciler/iteration-trace.ts';

/** Longest reason and name, in characters. */
const maxReason = 2_000;
const maxPerson = 200;

/**
 * A person's decision in the place of the gate's: the registry promotes the candidate, or goes back to the model before it,
 * and the run's next iteration starts from there if it has not begun yet.
 *
 * Throws INVALID_ARGUMENT for an empty reason or person, and FAILED_PRECONDITION where the gate has not decided yet.
 */
export async function overrideDecision(
  loop: LoopContext,
  run: RunRow,
  request: OverrideDecisionRequest,
): Promise<MessageInitShape<typeof OverrideDecisionResponseSchema>> {
  const { database, registry } = loop;
  const { promote, reason, person, idempotencyKey } = request;
  const violations: FieldViolation[] = [];
  if (reason.trim() === '' || reason.length > maxReason) {
    violations.push({ field: 'reason', description: `say in 1 to ${maxReason} characters why` });
  }
  if (person.trim() === '' || person.length > maxPerson) {
    violations.push({ field: 'person', description: `say in 1 to ${maxPerson} characters who decides` });
  }
  if (request.iteration < 0)
    violations.push({ field: 'iteration', description: 'use 1 or more, or 0 for the latest' });
  if (violations.length > 0) throw invalidArguments(violations);

  const iteration = request.iteration === 0 ? await latestDecided(loop, run) : request.iteration;
  const key = { runId: run.id, iteration };
  const decision = await findDecision(database, key);
  if (decision?.applied_at === undefined || decision.applied_at === null) {
    throw failedPrecondition(
      `the gate has not decided on iteration ${iteration} of run '${run.id}' yet; there is nothing to override`,
      { reason: 'RUN_CONFLICT' },
    );
  }
  const known = await findOverrideByKey(database, idempotencyKey);
  if (
    known !== undefined &&
    (known.run_id !== run.id || known.iteration !== iteration || known.promoted !== promote)
  ) {
    throw new PlumbError({
      code: 'ALREADY_EXISTS',
      reason: 'IDEMPOTENCY_KEY_REUSED',
      message: `idempotency_key '${idempotencyKey}' was used for another override; use another key`,
    });
  }
  const loaded = await loadIteration(database, run, specFromText(run.spec), iteration);
  const chosen = promote ? loaded.candidate : loaded.model;
  if (chosen === undefined || loaded.candidate === undefined) {
    throw failedPrecondition(`iteration ${iteration} of run '${run.id}' has no candidate`, {
      reason: 'RUN_CONFLICT',
    });
  }
  const why = `${promote ? 'Promoted' : 'Refused'} by ${person} against the gate: ${reason}`;
  // Said again, and perhaps overridden since: nothing is done a second time.
  if (known !== undefined) {
    return {
      decision: decisionView(decision, await latestOverride(database, key)),
      promoted: await registry.get(`${chosen.model}@promoted`),
    };
  }
  // The model before a candidate that the gate refused is promoted already; saying so again does no harm.
  const promoted = await registry.promote(chosen.version, [why]);
  if (!promote) await registry.refuse(loaded.candidate.version, [why]);
  await insertOverride(database, {
    ...key,
    idempotencyKey,
    promoted: promote,
    reason,
    person,
    currentModel: modelToText(promoted),
    traceId: currentTraceId(),
    now: new Date(),
  });
  return { decision: decisionView(decision, await latestOverride(database, key)), promoted };
}

async function latestDecided(loop: LoopContext, run: RunRow): Promise<number> {
  for (let iteration = run.iteration; iteration > 1; iteration -= 1) {
    if ((await findDecision(loop.database, { runId: run.id, iteration })) !== undefined) return iteration;
  }
  return 1;
}
