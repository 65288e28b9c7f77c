import type { Bus } from '@plumb/kit/bus';
import { logger, tracer } from '@plumb/kit/telemetry';
import type { ArtifactStore } from '@plumb/media';
import type { Kysely } from 'kysely';
import type { Tables } from '../adapters/ledger/tables.ts';
import type { ModelRegistry } from '../adapters/model-registry.ts';
import type { JudgeBudgets } from '../adapters/judge-budgets.ts';
import type { QueueDepths } from '../adapters/queue-depths.ts';
import type { RewardVersions } from '../adapters/reward-versions.ts';
import type { Trainer } from '../adapters/trainer.ts';
import type { StallBudgets } from '../domain/stall.ts';
import type { Arrivals } from './arrivals.ts';
import type { RunChanges } from './changes.ts';

/** What the reconciler works with; made once, in main. */
export interface LoopContext {
  readonly database: Kysely<Tables>;
  readonly bus: Bus;
  readonly artifacts: ArtifactStore;
  readonly registry: ModelRegistry;
  readonly trainer: Trainer;
  readonly rewardVersions: RewardVersions;
  readonly judgeBudgets: JudgeBudgets;
  readonly queueDepths: QueueDepths;
  readonly changes: RunChanges;
  readonly arrivals: Arrivals;
  readonly stallBudgets: StallBudgets;
  readonly maxOutstanding: number;
  readonly republishAfterSeconds: number;
}

export const loopTracer = tracer('plumb.loop');
export const loopLogger = logger('plumb.loop');
