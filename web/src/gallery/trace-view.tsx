import { seconds, shortName, stageOf, summarise } from '@plumb/trace';
import type { TraceNode } from '@plumb/trace';
import type { TraceSpan } from '@plumb/proto/plumb/loop/v1/loop_pb.js';
import { useEffect, useState } from 'preact/hooks';
import { errorText, loop } from '../api.ts';

/** More spans than this are cut off: the command line shows the rest. */
const mostSpans = 80;

/** The life of a sample, span by span. */
export function TraceView({ traceId }: { readonly traceId: string }) {
  const [spans, setSpans] = useState<readonly TraceSpan[] | undefined>(undefined);
  const [problem, setProblem] = useState('');
  useEffect(() => {
    const abort = new AbortController();
    loop.getTrace({ traceId }, { signal: abort.signal }).then(
      (answer) => setSpans(answer.spans),
      (thrown: unknown) => {
        if (!abort.signal.aborted) setProblem(errorText(thrown));
      },
    );
    return () => abort.abort();
  }, [traceId]);
  return (
    <>
      <h3>Trace</h3>
      {problem !== '' && <p class="soft">{problem}</p>}
      {spans !== undefined && <Waterfall spans={spans} />}
      <p class="mono soft">{traceId}</p>
    </>
  );
}

function Waterfall({ spans }: { readonly spans: readonly TraceSpan[] }) {
  const summary = summarise(
    spans.map(({ parentSpanId, failed, kind, ...span }) => ({
      ...span,
      ...(parentSpanId === '' ? {} : { parentSpanId }),
      traceId: '',
      kind: kind as 'internal',
      status: failed ? ('error' as const) : ('ok' as const),
      events: [],
      links: [],
    })),
  );
  const critical = new Set(summary.path.map(({ span }) => span?.spanId));
  const rows = flat(summary.trees, 0).slice(0, mostSpans);
  const place = (ms: number): number => (summary.wallMs === 0 ? 0 : (ms / summary.wallMs) * 100);
  if (rows.length === 0) return <p class="soft">No spans of this trace are kept any more.</p>;
  return (
    <>
      <p class="soft">
        {seconds(summary.wallMs)}:{' '}
        {summary.stages
          .toSorted((a, b) => b.ms - a.ms)
          .slice(0, 4)
          .map(({ stage, share }) => `${stage} ${Math.round(share * 100)}%`)
          .join(', ')}
      </p>
      <ol class="waterfall">
        {rows.map(({ node: { span }, depth }) => (
          <li
            key={span.spanId}
            class={critical.has(span.spanId) ? 'critical' : ''}
            title={span.statusMessage ?? ''}
          >
            <span class="name" style={{ paddingInlineStart: `${Math.min(depth, 8) * 8}px` }}>
              {shortName(span)}
              {span.status === 'error' && <i class="bad"> failed</i>}
            </span>
            <span class="lane">
              <span
                class={`stage-${stageOf(span)}`}
                style={{
                  left: `${place(span.startMs - summary.startMs)}%`,
                  width: `max(2px, ${place(span.endMs - span.startMs)}%)`,
                }}
              />
            </span>
            <small class="number">{seconds(span.endMs - span.startMs)}</small>
          </li>
        ))}
      </ol>
      {spans.length > rows.length && (
        <p class="soft">{spans.length - rows.length} more: `plumb trace` shows all.</p>
      )}
    </>
  );
}

function flat(nodes: readonly TraceNode[], depth: number): { node: TraceNode; depth: number }[] {
  return nodes.flatMap((node) => [{ node, depth }, ...flat(node.children, depth + 1)]);
}
