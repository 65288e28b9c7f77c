import { z } from 'zod';
import { accessSettings } from './access-settings.ts';

/** host:port; port 0 takes a free one. */
export const listenAddress = z.string().regex(/^(\[[0-9a-fA-F:]+\]|[^:\s]+):\d{1,5}$/, 'must be host:port');

/**
 * Settings that every service has. Spread into a service's own schema:
 * `z.object({ ...serviceSettings, batchSize: z.coerce.number()... })`.
 */
export const serviceSettings = {
  ...accessSettings,
  /** gRPC address. Anything but loopback needs TLS and control of access, or the settings that call themselves insecure. */
  listen: listenAddress
    .default('127.0.0.1:0')
    .describe('host:port, for example 127.0.0.1:50051 (port 0: a free one)'),
  /** Prometheus metrics address. */
  metricsListen: listenAddress
    .default('127.0.0.1:0')
    .describe('host:port, for example 127.0.0.1:9464 (port 0: a free one)'),
  natsUrl: z
    .string()
    .regex(/^(nats|tls):\/\/[^\s]+$/, 'must be a nats:// or tls:// URL')
    .default('nats://127.0.0.1:4222')
    .describe('the broker, for example nats://127.0.0.1:4222'),
  /** Copies of streams and buckets; the same for all services. */
  natsReplicas: z.coerce
    .number()
    .int()
    .min(1)
    .max(5)
    .default(1)
    .describe('1 on a single broker, 3 or 5 on a cluster of so many'),
  /** Folder of the local span files; unset writes none. */
  spanDirectory: z.string().optional().describe('a folder that can be written to'),
  /** False writes no spans at all; trace ids still go through messages, calls and log lines. */
  traces: z.stringbool().default(true).describe('true or false'),
  /** Traces that went wrong or were slow are written whatever the share. */
  traceRatio: z.coerce
    .number()
    .min(0)
    .max(1)
    .default(1)
    .describe('the share of traces whose spans are written, 0 to 1'),
  traceSlowSeconds: z.coerce
    .number()
    .positive()
    .default(60)
    .describe('seconds from which a span counts as slow and is written, whatever the share'),
  logLevel: z
    .enum(['trace', 'debug', 'info', 'warn', 'error', 'fatal'])
    .default('info')
    .describe('trace, debug, info, warn, error or fatal'),
} as const satisfies z.ZodRawShape;

/** A host:port setting in its parts. Brackets of an IPv6 address are removed. */
export function splitAddress(address: string): { host: string; port: number } {
  const colon = address.lastIndexOf(':');
  return {
    host: address.slice(0, colon).replace(/^\[(.*)\]$/, '$1'),
    port: Number(address.slice(colon + 1)),
  };
}
