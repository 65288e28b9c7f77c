import type { SpanRecord } from '@plumb/kit/telemetry';
import { seconds, shortName } from '@plumb/trace';
import type { StageTime, TraceNode, TraceSummary } from '@plumb/trace';

const serviceWidth = 9;
const durationWidth = 9;
const leastBarWidth = 15;
/** More equal spans under one parent than this become one line. */
const mostAlike = 4;

/** A trace as text: a line for each span, with its place in time; `#` is on the critical path, `-` is not. */
export function waterfall(summary: TraceSummary, width: number): string[] {
  const nameWidth = Math.max(24, Math.floor((width - serviceWidth - durationWidth - 3) * 0.48));
  const barWidth = Math.max(leastBarWidth, width - serviceWidth - nameWidth - durationWidth - 3);
  const critical = new Set(summary.path.map(({ span }) => span?.spanId));
  const lines: string[] = [];
  const line = (service: string, name: string, bar: string, duration: string): void => {
    lines.push(
      `${fit(service, serviceWidth)} ${fit(name, nameWidth)} ${bar} ${duration.padStart(durationWidth)}`.trimEnd(),
    );
  };
  line('', '', `0${seconds(summary.wallMs).padStart(barWidth - 1)}`, '');
  const place = (ms: number): number =>
    summary.wallMs === 0 ? 0 : ((ms - summary.startMs) / summary.wallMs) * barWidth;
  const bar = (spans: readonly SpanRecord[]): string => {
    const cells = Array.from({ length: barWidth }, () => ' ');
    for (const span of spans) {
      const from = Math.min(Math.floor(place(span.startMs)), barWidth - 1);
      const to = Math.max(from + 1, Math.min(barWidth, Math.ceil(place(span.endMs))));
      cells.fill(critical.has(span.spanId) ? '#' : '-', from, to);
    }
    return cells.join('');
  };
  const show = (nodes: readonly TraceNode[], depth: number): void => {
    for (const alike of groups(nodes)) {
      const [first] = alike;
      if (first === undefined) continue;
      const name = `${' '.repeat(depth)}${shortName(first.span)}`;
      const service = first.span.service.replace(/^plumb-/, '');
      if (alike.length > mostAlike) {
        const total = alike.reduce((sum, { span }) => sum + span.endMs - span.startMs, 0);
        line(service, `${name} x${alike.length}`, bar(alike.map(({ span }) => span)), seconds(total));
        continue;
      }
      for (const { span, children } of alike) {
        const failed = span.status === 'error' ? '!' : '';
        line(service, `${name}${failed}`, bar([span]), seconds(span.endMs - span.startMs));
        show(children, depth + 1);
      }
    }
  };
  show(summary.trees, 0);
  return lines;
}

/** Time by stage, as a table. */
export function stageTable(stages: readonly StageTime[], width: number): string[] {
  const barWidth = Math.max(leastBarWidth, width - 36);
  return stages.map(({ stage, ms, share }) =>
    `${stage.padEnd(10)} ${seconds(ms).padStart(9)} ${`${(share * 100).toFixed(1)}%`.padStart(7)}  ${'#'.repeat(Math.round(share * barWidth))}`.trimEnd(),
  );
}

function groups(nodes: readonly TraceNode[]): TraceNode[][] {
  const alike = Map.groupBy(nodes, ({ span }) => `${span.service} ${span.name}`);
  const shown = new Set<string>();
  return nodes.flatMap((node) => {
    const key = `${node.span.service} ${node.span.name}`;
    const all = alike.get(key) ?? [];
    if (all.length <= mostAlike) return [[node]];
    if (shown.has(key)) return [];
    shown.add(key);
    return [all];
  });
}

function fit(text: string, width: number): string {
  return text.length <= width ? text.padEnd(width) : `${text.slice(0, width - 1)}~`;
}
