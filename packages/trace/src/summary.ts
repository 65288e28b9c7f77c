import type { SpanRecord } from '@plumb/kit/telemetry';
import { criticalPath, traceTrees } from './critical-path.ts';
import type { PathSegment, TraceNode } from './critical-path.ts';
import { stageOf, stages } from './stages.ts';
import type { Stage } from './stages.ts';

/** Time of one stage on the critical path. */
export interface StageTime {
  readonly stage: Stage;
  readonly ms: number;
  /** Of the wall time, 0 to 1. */
  readonly share: number;
}

/** What can be said of one trace. */
export interface TraceSummary {
  readonly trees: readonly TraceNode[];
  readonly startMs: number;
  readonly wallMs: number;
  readonly path: readonly PathSegment[];
  /** The stages that took time, in their usual order; they add up to the wall time. */
  readonly stages: readonly StageTime[];
  /** Share of the wall time that recorded spans explain. */
  readonly accountedShare: number;
  /** Spans whose parent was recorded nowhere. */
  readonly orphans: number;
}

/** A stretch of time, in milliseconds since 1970. */
export interface Interval {
  readonly startMs: number;
  readonly endMs: number;
}

/**
 * @param spans The spans of one trace.
 * @param elsewhere Lives of linked traces: what nothing in this trace explains, and one of them does, was spent on samples.
 */
export function summarise(spans: readonly SpanRecord[], elsewhere: readonly Interval[] = []): TraceSummary {
  const trees = traceTrees(spans);
  const path = criticalPath(trees);
  const startMs = path[0]?.startMs ?? 0;
  const wallMs = (path.at(-1)?.endMs ?? 0) - startMs;
  const totals = new Map<Stage, number>();
  const add = (stage: Stage, ms: number): void => void totals.set(stage, (totals.get(stage) ?? 0) + ms);
  for (const { span, startMs: from, endMs: to } of path) {
    if (span === undefined) {
      const explained = overlap({ startMs: from, endMs: to }, elsewhere);
      add('samples', explained);
      add('untraced', to - from - explained);
    } else add(stageOf(span), to - from);
  }
  const untraced = totals.get('untraced') ?? 0;
  return {
    trees,
    startMs,
    wallMs,
    path,
    stages: stages.flatMap((stage) => {
      const ms = totals.get(stage) ?? 0;
      return ms > 0 ? [{ stage, ms, share: wallMs === 0 ? 0 : ms / wallMs }] : [];
    }),
    accountedShare: wallMs === 0 ? 1 : 1 - untraced / wallMs,
    orphans: trees.filter(({ span }) => span.parentSpanId !== undefined).length,
  };
}

/** Milliseconds of a stretch that at least one of the others covers. */
function overlap({ startMs, endMs }: Interval, others: readonly Interval[]): number {
  let covered = 0;
  let until = startMs;
  for (const other of others.toSorted((a, b) => a.startMs - b.startMs)) {
    const from = Math.max(other.startMs, until);
    const to = Math.min(other.endMs, endMs);
    if (to <= from) continue;
    covered += to - from;
    until = to;
  }
  return covered;
}
