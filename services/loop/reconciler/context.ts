import type { Bus } from '@plumb/kit/bus';
import { logger, tracer } from '@plumb/kit/telemetry';
import type { Links } from '@plumb/kit/web';
import type { ArtifactStore } from '@plumb/media';
import type { Kysely } from 'kysely';
import type { Tables } from '../adapters/ledger/tables.ts';
import type { ModelRegistry } from '../adapters/model-registry.ts';
import type { HeldOutJudges } from '../adapters/held-out-judges.ts';
import type { JudgeBudgets } from '../adapters/judge-budgets.ts';
import type { JudgeQuestions } from '../adapters/judge-questions.ts';
import type { JudgeSignsOf } from '../adapters/judge-signs.ts';
import type { QueueDepths } from '../adapters/queue-depths.ts';
import type { RewardVersions } from '../adapters/reward-versions.ts';
import type { Trainer } from '../adapters/trainer.ts';
import type { StallBudgets } from '../domain/stall.ts';
import type { Arrivals } from './arrivals.ts';
import type { RunChanges } from './changes.ts';
import type { StallBoard } from './stall-board.ts';

/** What the reconciler works with; made once, in main. */
export interface LoopContext {
  readonly database: Kysely<Tables>;
  readonly bus: Bus;
  readonly artifacts: ArtifactStore;
  readonly registry: ModelRegistry;
  readonly trainer: Trainer;
  readonly rewardVersions: RewardVersions;
  readonly judgeBudgets: JudgeBudgets;
  readonly heldOutJudges: HeldOutJudges;
  readonly queueDepths: QueueDepths;
  readonly changes: RunChanges;
  readonly arrivals: Arrivals;
  readonly stallBudgets: StallBudgets;
  /** Stages that stand still. */
  readonly stalls: StallBoard;
  readonly judgeSigns: JudgeSignsOf;
  readonly maxOutstanding: number;
  readonly republishAfterSeconds: number;
  /** What signs links of the dashboard; undefined where none is served. */
  readonly links: Links | undefined;
  /** The signed path of stored bytes on the dashboard's address; empty where there is none, and for what it does not show. */
  readonly signedUrl: (stored: { readonly sha256: string; readonly mediaType: string }) => string;
  /** Folder of span files; undefined where this service writes none. */
  readonly spanDirectory: string | undefined;
  readonly judgeQuestions: JudgeQuestions;
}

export const loopTracer = tracer('plumb.loop');
export const loopLogger = logger('plumb.loop');
