import { SpanKind, trace } from '@opentelemetry/api';
import { durationBuckets, histogram, recordError, startSpan, tracer } from '@plumb/kit/telemetry';
import type { LogEvent } from 'kysely';

const spans = tracer('plumb.ledger');
const durations = histogram('plumb.ledger', 'db.client.operation.duration', {
  description: 'Duration of the statements of the ledger',
  unit: 's',
  advice: { explicitBucketBoundaries: durationBuckets },
});

/**
 * Makes a span and a measurement of every statement, by the database semantic conventions. The text has placeholders and
 * no values. Statements outside of any span, such as a look at the ledger in which nothing is due, are measured alone: a
 * trace of one statement tells nobody anything.
 */
export function recordQuery(event: LogEvent): void {
  const { sql } = event.query;
  const operation = /^\s*(\w+)/.exec(sql)?.[1]?.toUpperCase() ?? 'UNKNOWN';
  const table = /\b(?:from|into|update)\s+"?(\w+)"?/i.exec(sql)?.[1];
  const attributes = {
    'db.system.name': 'postgresql',
    'db.operation.name': operation,
    ...(table === undefined ? {} : { 'db.collection.name': table }),
  };
  const failed = event.level === 'error' ? { 'error.type': errorType(event.error) } : {};
  durations.record(event.queryDurationMillis / 1000, { ...attributes, ...failed });
  if (trace.getActiveSpan() === undefined) return;
  const { span } = startSpan(spans, table === undefined ? operation : `${operation} ${table}`, {
    kind: SpanKind.CLIENT,
    startTime: new Date(Date.now() - event.queryDurationMillis),
    attributes: { ...attributes, 'db.query.text': sql.slice(0, 2000) },
  });
  if (event.level === 'error') recordError(span, event.error);
  span.end();
}

/** SQLSTATE where the database gave one. */
function errorType(error: unknown): string {
  const code: unknown =
    typeof error === 'object' && error !== null && 'code' in error ? error.code : undefined;
  return typeof code === 'string' ? code : 'error';
}
