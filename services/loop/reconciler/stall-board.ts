import type { StallCause, WatchedStage } from '../domain/stall.ts';

/** A stage that stands still now. */
export interface StageStall {
  readonly stage: WatchedStage;
  readonly cause: StallCause;
  /** Time of the last progress. */
  readonly since: Date;
  /** Items or steps that are still to be done. */
  readonly left: number;
}

/** The stages that stand still, of all runs that this process drives: what views and metrics show. */
export class StallBoard {
  readonly #runs = new Map<string, Map<WatchedStage, StageStall>>();

  set(runId: string, stall: StageStall): void {
    const stalls = this.#runs.get(runId) ?? new Map<WatchedStage, StageStall>();
    this.#runs.set(runId, stalls.set(stall.stage, stall));
  }

  clear(runId: string, stage: WatchedStage): void {
    this.#runs.get(runId)?.delete(stage);
  }

  /** The run is no longer driven here. */
  forget(runId: string): void {
    this.#runs.delete(runId);
  }

  of(runId: string): readonly StageStall[] {
    return [...(this.#runs.get(runId)?.values() ?? [])];
  }

  all(): readonly StageStall[] {
    return [...this.#runs.keys()].flatMap((runId) => this.of(runId));
  }
}
