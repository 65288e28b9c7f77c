import type { SpanRecord } from '@plumb/kit/telemetry';

/** A stretch of a trace's time and the span that held it up; no span where nothing was recorded. */
export interface PathSegment {
  readonly span: SpanRecord | undefined;
  readonly startMs: number;
  readonly endMs: number;
}

/** A span with what it caused; `lastMs` is the end of the last of them, which may come long after its own. */
export interface TraceNode {
  readonly span: SpanRecord;
  readonly children: readonly TraceNode[];
  readonly lastMs: number;
}

/**
 * The spans of a trace as trees, in the order of their starts. A span whose parent is not among them is a root.
 */
export function traceTrees(spans: readonly SpanRecord[]): TraceNode[] {
  const ids = new Set(spans.map(({ spanId }) => spanId));
  const children = Map.groupBy(spans, ({ parentSpanId }) =>
    parentSpanId !== undefined && ids.has(parentSpanId) ? parentSpanId : '',
  );
  const build = (span: SpanRecord): TraceNode => {
    const below = (children.get(span.spanId) ?? []).toSorted(byStart).map(build);
    return { span, children: below, lastMs: Math.max(span.endMs, ...below.map(({ lastMs }) => lastMs)) };
  };
  return (children.get('') ?? []).toSorted(byStart).map(build);
}

/**
 * The critical path: for every moment from the first start to the last end, the innermost span that the end of the trace
 * waited for. Found from the end backwards: what ended last was waited for, and before it began, what ended last before
 * that. The segments follow each other without gaps and overlaps.
 */
export function criticalPath(trees: readonly TraceNode[]): PathSegment[] {
  if (trees.length === 0) return [];
  const segments: PathSegment[] = [];
  const startMs = Math.min(...trees.map(({ span }) => span.startMs));
  const endMs = Math.max(...trees.map(({ lastMs }) => lastMs));
  const add = (span: SpanRecord | undefined, from: number, to: number): void => {
    if (to > from) segments.push({ span, startMs: from, endMs: to });
  };
  /** Own time of a span; what lies behind its end belongs to nobody. */
  const own = (span: SpanRecord | undefined, from: number, to: number): void => {
    if (span === undefined) {
      add(undefined, from, to);
      return;
    }
    add(undefined, Math.max(from, span.endMs), to);
    add(span, from, Math.min(to, span.endMs));
  };
  /** Backwards from `to` to `from`: gives the children their parts, and the rest to the span itself. */
  const walk = (
    span: SpanRecord | undefined,
    below: readonly TraceNode[],
    from: number,
    to: number,
  ): void => {
    let cursor = to;
    while (cursor > from) {
      const at = cursor;
      const next = below
        .filter((node) => node.span.startMs < at && node.lastMs > from)
        .toSorted(
          (a, b) => Math.min(b.lastMs, at) - Math.min(a.lastMs, at) || b.span.startMs - a.span.startMs,
        )[0];
      if (next === undefined) break;
      const nextTo = Math.min(next.lastMs, cursor);
      const nextFrom = Math.max(next.span.startMs, from);
      own(span, nextTo, cursor);
      walk(next.span, next.children, nextFrom, nextTo);
      cursor = nextFrom;
    }
    own(span, from, cursor);
  };
  walk(undefined, trees, startMs, endMs);
  return segments.toReversed();
}

function byStart(a: SpanRecord, b: SpanRecord): number {
  return a.startMs - b.startMs || b.endMs - a.endMs;
}
