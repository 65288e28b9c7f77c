import { trace } from '@opentelemetry/api';
import { pino, stdTimeFunctions } from 'pino';
import type { DestinationStream, Level, Logger } from 'pino';
import pretty from 'pino-pretty';
import { currentWork } from './work-ids.ts';

export type { Logger } from 'pino';

/** Keys whose values never reach a log line, at the top of the logged object and one level down. */
const secretKeys = [
  'apiKey',
  'api_key',
  'authorization',
  'Authorization',
  'password',
  'secret',
  'token',
  'credentials',
  'databaseUrl',
];

/** Builds the root logger; `destination` is stderr outside of tests. */
export function createLogger(destination: DestinationStream, level: Level = 'info'): Logger {
  return pino(
    {
      level,
      base: { pid: process.pid },
      timestamp: stdTimeFunctions.isoTime,
      messageKey: 'message',
      errorKey: 'error',
      formatters: { level: (label) => ({ level: label }) },
      redact: { paths: secretKeys.flatMap((key) => [key, `*.${key}`]), censor: '[redacted]' },
      // One place adds the ids of the work and of the trace, so that a line, its sample and its span find each other.
      mixin: () => {
        const span = trace.getActiveSpan()?.spanContext();
        return {
          ...currentWork(),
          ...(span === undefined ? {} : { traceId: span.traceId, spanId: span.spanId }),
        };
      },
    },
    destination,
  );
}

let root: Logger | undefined;
let level: Level = 'info';
const byName = new Map<string, Logger>();

/**
 * The logger of a part of a service: JSON lines on standard error, one event a line, with trace ids; readable text when
 * standard error is a terminal. Lines go out at once, so that a crash loses none.
 */
export function logger(name: string): Logger {
  let found = byName.get(name);
  if (found === undefined) {
    root ??= createLogger(
      process.stderr.isTTY
        ? pretty({ destination: 2, sync: true, messageKey: 'message', errorLikeObjectKeys: ['error'] })
        : pino.destination({ dest: 2, sync: true }),
      level,
    );
    found = root.child({ name });
    byName.set(name, found);
  }
  return found;
}

/** Sets the level of all loggers, those made already too, and of the ones to come. */
export function setLogLevel(to: Level): void {
  level = to;
  if (root !== undefined) root.level = to;
  for (const made of byName.values()) made.level = to;
}
