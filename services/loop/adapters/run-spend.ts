import { sql } from 'kysely';
import type { Budgets, RunSpec } from '@plumb/proto/plumb/loop/v1/loop_pb.js';
import type { SpendSoFar } from '../domain/budget.ts';
import type { RunRow } from './ledger/runs.ts';
import type { GroupProgress } from './ledger/samples.ts';
import type { Ledger } from './ledger/tables.ts';
import { budgetsFromText } from './messages.ts';

/** The budgets that hold: those of the spec, or what a resumption has put in their place. */
export function budgetsOf(row: Pick<RunRow, 'budgets'>, spec: RunSpec): Budgets | undefined {
  return row.budgets === null ? spec.budgets : budgetsFromText(row.budgets);
}

/** What a run has used of its budgets, besides what its judges have. */
export async function spendSoFar(
  ledger: Ledger,
  row: RunRow,
  counts: readonly GroupProgress[],
): Promise<SpendSoFar> {
  const steps = await sql<{ steps: string | number | null }>`
    select sum((select step from training_progress where job_id = jobs.id order by step desc limit 1)) as steps
    from jobs where run_id = ${row.id}`.execute(ledger);
  return {
    samples: counts.reduce((sum, { clips, reused, generating }) => sum + clips - reused + generating, 0),
    trainingSteps: Number(steps.rows[0]?.steps ?? 0),
    seconds: row.active_seconds,
  };
}
