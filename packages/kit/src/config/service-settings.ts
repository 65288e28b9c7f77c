import { z } from 'zod';

/** host:port; port 0 takes a free one. */
const listenAddress = z.string().regex(/^(\[[0-9a-fA-F:]+\]|[^:\s]+):\d{1,5}$/, 'must be host:port');

/**
 * Settings that every service has. Spread into a service's own schema:
 * `z.object({ ...serviceSettings, batchSize: z.coerce.number()... })`.
 */
export const serviceSettings = {
  /** gRPC address. Anything but loopback needs TLS or PLUMB_INSECURE=true. */
  listen: listenAddress
    .default('127.0.0.1:0')
    .describe('host:port, for example 127.0.0.1:50051 (port 0: a free one)'),
  /** Prometheus metrics address. */
  metricsListen: listenAddress
    .default('127.0.0.1:0')
    .describe('host:port, for example 127.0.0.1:9464 (port 0: a free one)'),
  /** True allows plain text on an address that is not loopback (inside a mesh that encrypts by itself). */
  insecure: z.stringbool().default(false).describe('true or false'),
  natsUrl: z
    .string()
    .regex(/^(nats|tls):\/\/[^\s]+$/, 'must be a nats:// or tls:// URL')
    .default('nats://127.0.0.1:4222')
    .describe('the broker, for example nats://127.0.0.1:4222'),
  /** Folder of the local span files; unset writes none. */
  spanDirectory: z.string().optional().describe('a folder that can be written to'),
  logLevel: z
    .enum(['trace', 'debug', 'info', 'warn', 'error', 'fatal'])
    .default('info')
    .describe('trace, debug, info, warn, error or fatal'),
  /** PEM files. With a certificate the server speaks TLS only. */
  tlsCertificate: z.string().optional().describe('the path of a PEM file'),
  tlsKey: z.string().optional().describe('the path of a PEM file'),
  /** PEM file of the authority that signed the certificates of clients (mutual TLS) and of servers we call. */
  tlsAuthority: z.string().optional().describe('the path of a PEM file'),
} as const satisfies z.ZodRawShape;

/** A host:port setting in its parts. Brackets of an IPv6 address are removed. */
export function splitAddress(address: string): { host: string; port: number } {
  const colon = address.lastIndexOf(':');
  return {
    host: address.slice(0, colon).replace(/^\[(.*)\]$/, '$1'),
    port: Number(address.slice(colon + 1)),
  };
}
