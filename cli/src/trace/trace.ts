import type { SpanRecord } from '@plumb/kit/telemetry';
import { notFound } from '@plumb/kit/errors';
import { existingStateFolder } from '../state/state-folder.ts';
import { criticalSteps, seconds, shortName, stages as stageOrder, summarise } from '@plumb/trace';
import type { Interval, StageTime, TraceSummary } from '@plumb/trace';
import { readSpans, spansOfTraces } from '@plumb/trace/span-files';
import type { ConnectionOptions } from '../commands/connection-options.ts';
import { spansOfLoop } from './spans-of-loop.ts';
import { findSubject } from './subject.ts';
import type { Subject } from './subject.ts';
import { stageTable, waterfall } from './waterfall.ts';

export interface TraceOptions extends ConnectionOptions {
  readonly state: string;
  /** Folder of span files, where it is not the state folder's. */
  readonly spans?: string;
  readonly json?: true;
}

/**
 * Prints a trace, or what a run's traces have in common.
 * @throws PlumbError NOT_FOUND when there are no spans of it
 */
export async function printTrace(id: string | undefined, options: TraceOptions): Promise<void> {
  const width = Math.max(60, Math.min(process.stdout.columns ?? 80, 200));
  const lines = await describe(id, options, width);
  process.stdout.write(`${lines.join('\n')}\n`);
}

async function describe(id: string | undefined, options: TraceOptions, width: number): Promise<string[]> {
  const json = options.json === true;
  const { address } = options;
  if (address !== undefined) {
    const { subject, spans } = await spansOfLoop(id, { ...options, address });
    return describeTraces(subject, spans, () => Promise.resolve([]), width, json);
  }
  const folder = options.spans ?? (await spanFolder(options.state));
  const subject = await findSubject(folder, id);
  if (subject.kind === 'run') return await describeRun(folder, subject, width, json);
  const spans = await spansOfTraces(folder, subject.traceIds);
  return await describeTraces(subject, spans, (own) => linkedLives(folder, own), width, json);
}

async function spanFolder(state: string): Promise<string> {
  const folder = await existingStateFolder(state);
  if (folder === undefined) {
    throw notFound('state folder', state, {
      fix: '`./plumb demo` makes one; name another with --state, or a folder of span files with --spans',
    });
  }
  return folder.entry('spans');
}

/** @param livesOf From the first start to the last end of each trace that some spans link to. */
async function describeTraces(
  subject: Exclude<Subject, { kind: 'run' }>,
  spans: readonly SpanRecord[],
  livesOf: (spans: readonly SpanRecord[]) => Promise<Interval[]>,
  width: number,
  json: boolean,
): Promise<string[]> {
  const lines: string[] = [];
  const objects: unknown[] = [];
  for (const [traceId, own] of Map.groupBy(spans, (span) => span.traceId)) {
    const lives = subject.kind === 'sample' ? [] : await livesOf(own);
    const summary = summarise(own, lives);
    if (json) objects.push(traceObject(subject, traceId, own, summary));
    else lines.push(...(lines.length > 0 ? [''] : []), ...traceText(subject, traceId, own, summary, width));
  }
  return json ? objects.map((object) => JSON.stringify(object)) : lines;
}

function traceText(
  subject: Exclude<Subject, { kind: 'run' }>,
  traceId: string,
  spans: readonly SpanRecord[],
  summary: TraceSummary,
  width: number,
): string[] {
  const services = new Set(spans.map(({ service }) => service));
  const failed = spans.filter(({ status }) => status === 'error');
  const about = [
    'plumb.run.id',
    'plumb.iteration',
    'plumb.prompt.id',
    'plumb.category',
    'plumb.model.version',
  ].flatMap((key) => {
    const value = spans.find(({ attributes }) => attributes[key] !== undefined)?.attributes[key];
    return value === undefined || value === '' ? [] : [`${key.replace('plumb.', '')} ${String(value)}`];
  });
  return [
    `${subject.kind} ${subject.id}`,
    ...wrap(about.join(', '), width),
    `trace ${traceId}: ${spans.length} spans in ${services.size} services, ${seconds(summary.wallMs)}`,
    '',
    ...waterfall(summary, width),
    '',
    `Where the time went (${(summary.accountedShare * 100).toFixed(1)}% of it is accounted for)`,
    ...stageTable(summary.stages, width),
    '',
    'Critical path',
    ...criticalSteps(summary).map(({ step, ms }) => `${seconds(ms).padStart(11)}  ${step}`.slice(0, width)),
    ...failed.flatMap((span) =>
      wrap(
        `failed: ${span.service.replace(/^plumb-/, '')} ${shortName(span)}: ${span.statusMessage ?? ''}`,
        width,
      ),
    ),
    ...(summary.orphans > 0 ? [`${summary.orphans} spans have a parent that was not written`] : []),
  ];
}

function traceObject(
  subject: Subject,
  traceId: string,
  spans: readonly SpanRecord[],
  summary: TraceSummary,
): unknown {
  return {
    kind: subject.kind,
    id: subject.id,
    traceId,
    wallMs: round(summary.wallMs),
    accountedShare: summary.accountedShare,
    orphans: summary.orphans,
    stages: summary.stages.map(stageObject),
    criticalPath: criticalSteps(summary).map(({ step, ms }) => ({ step, ms: round(ms) })),
    spans,
  };
}

/** A run: its iterations, and its samples' time by stage. */
async function describeRun(
  folder: string,
  run: Extract<Subject, { kind: 'run' }>,
  width: number,
  json: boolean,
): Promise<string[]> {
  const wanted = new Set([...run.samples, ...run.iterations].map(({ traceId }) => traceId));
  const byTrace = Map.groupBy(await spansOfTraces(folder, wanted), ({ traceId }) => traceId);
  const samples = run.samples.flatMap(({ traceId }) => {
    const spans = byTrace.get(traceId);
    return spans === undefined ? [] : [summarise(spans)];
  });
  const total = samples.reduce((sum, { wallMs }) => sum + wallMs, 0);
  const stages: StageTime[] = stageOrder.flatMap((stage) => {
    const ms = samples
      .flatMap((summary) => summary.stages)
      .reduce((sum, time) => sum + (time.stage === stage ? time.ms : 0), 0);
    return ms > 0 ? [{ stage, ms, share: ms / total }] : [];
  });
  const walls = samples.map(({ wallMs }) => wallMs).toSorted((a, b) => a - b);
  const iterations = await Promise.all(
    run.iterations.map(async (root) => {
      const spans = byTrace.get(root.traceId) ?? [root];
      return { root, summary: summarise(spans, await linkedLives(folder, spans)) };
    }),
  );
  if (json) {
    return [
      JSON.stringify({
        kind: 'run',
        id: run.id,
        samples: samples.length,
        sampleWallMs: { median: round(quantile(walls, 0.5)), p95: round(quantile(walls, 0.95)) },
        sampleStages: stages.map(stageObject),
        iterations: iterations.map(({ root, summary }) => ({
          iteration: root.attributes['plumb.iteration'],
          traceId: root.traceId,
          wallMs: round(summary.wallMs),
          accountedShare: summary.accountedShare,
          stages: summary.stages.map(stageObject),
        })),
      }),
    ];
  }
  const lines = [`run ${run.id}`];
  for (const { root, summary } of iterations) {
    lines.push(
      '',
      `Iteration ${String(root.attributes['plumb.iteration'])}: ${seconds(summary.wallMs)}, trace ${root.traceId}`,
      ...waterfall(summary, width),
      '',
      ...stageTable(summary.stages, width),
    );
  }
  lines.push(
    '',
    `${samples.length} samples: half within ${seconds(quantile(walls, 0.5))}, 95% within ${seconds(quantile(walls, 0.95))}. Their time by stage:`,
    ...stageTable(stages, width),
    '',
    'One of them: plumb trace <sample id>. The slowest:',
    ...run.samples
      .map((root) => ({ root, wallMs: summarise(byTrace.get(root.traceId) ?? [root]).wallMs }))
      .toSorted((a, b) => b.wallMs - a.wallMs)
      .slice(0, 3)
      .map(({ root, wallMs }) => `  ${String(root.attributes['plumb.sample.id'])}  ${seconds(wallMs)}`),
  );
  return lines;
}

/** From the first start to the last end of each trace that the spans link to. */
async function linkedLives(folder: string, spans: readonly SpanRecord[]): Promise<Interval[]> {
  const linked = new Set(spans.flatMap(({ links }) => links.map(({ traceId }) => traceId)));
  const lives = new Map<string, { startMs: number; endMs: number }>();
  if (linked.size === 0) return [];
  for await (const span of readSpans(folder)) {
    if (!linked.has(span.traceId)) continue;
    const life = lives.get(span.traceId) ?? { startMs: span.startMs, endMs: span.endMs };
    life.startMs = Math.min(life.startMs, span.startMs);
    life.endMs = Math.max(life.endMs, span.endMs);
    lives.set(span.traceId, life);
  }
  return [...lives.values()];
}

function stageObject({ stage, ms, share }: StageTime): unknown {
  return { stage, ms: round(ms), share };
}

function quantile(sorted: readonly number[], q: number): number {
  return sorted[Math.min(sorted.length - 1, Math.floor(q * sorted.length))] ?? 0;
}

function round(ms: number): number {
  return Math.round(ms * 1000) / 1000;
}

function wrap(text: string, width: number): string[] {
  const lines: string[] = [];
  for (const word of text.split(' ')) {
    const last = lines.at(-1);
    if (last !== undefined && last.length + word.length < width) lines[lines.length - 1] = `${last} ${word}`;
    else lines.push(word);
  }
  return text === '' ? [] : lines;
}
