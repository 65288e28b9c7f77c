import type { SpanRecord } from '@plumb/kit/telemetry';
import { stageOf } from './stages.ts';
import type { TraceSummary } from './summary.ts';

/** What the end of the trace waited for, in order; neighbours of one span are one step. */
export function criticalSteps(summary: TraceSummary): { readonly step: string; readonly ms: number }[] {
  const steps: { step: string; ms: number }[] = [];
  for (const { span, startMs, endMs } of summary.path) {
    const step =
      span === undefined
        ? 'nothing recorded'
        : `${span.service.replace(/^plumb-/, '')} ${shortName(span)} (${stageOf(span)})`;
    const last = steps.at(-1);
    if (last?.step === step) last.ms += endMs - startMs;
    else steps.push({ step, ms: endMs - startMs });
  }
  return steps;
}

/** Milliseconds for people: 0.2 ms, 43 ms, 6.30 s, 12 min 3 s. */
export function seconds(ms: number): string {
  if (ms < 10) return `${ms.toFixed(1)} ms`;
  if (ms < 1000) return `${Math.round(ms)} ms`;
  if (ms < 100_000) return `${(ms / 1000).toFixed(2)} s`;
  const whole = Math.round(ms / 1000);
  return `${Math.floor(whole / 60)} min ${whole % 60} s`;
}

/** Names without what all of them share: `process generate`, `JudgeService/Judge`. */
export function shortName({ name, kind }: SpanRecord): string {
  const short = name
    .replace('plumb.tasks.', '')
    .replace('plumb.events.sample.', '')
    .replace(/^plumb\.[a-z]+\.v\d+\./, '');
  return name.includes('/') && kind === 'client' ? `${short} call` : short;
}
