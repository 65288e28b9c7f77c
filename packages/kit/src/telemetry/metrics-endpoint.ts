import { createServer } from 'node:http';
import { once } from 'node:events';
import type { PrometheusExporter } from '@opentelemetry/exporter-prometheus';
import { PlumbError } from '../errors/plumb-error.ts';
import { listenError } from '../errors/listen-error.ts';

/** A running metrics endpoint. */
export interface MetricsEndpoint {
  /** `host:port` */
  readonly address: string;
  close(): Promise<void>;
}

/**
 * Serves `GET /metrics` in the Prometheus text format, and what a kubelet asks, without TLS: `GET /livez` is 200 as long as
 * the process answers, `GET /readyz` is 200 while `isReady` says so and 503 otherwise. Port 0 takes a free one.
 *
 * @throws PlumbError FAILED_PRECONDITION, reason PORT_IN_USE, naming host and port
 */
export async function serveMetrics(
  exporter: PrometheusExporter,
  host: string,
  port: number,
  isReady: () => boolean = () => true,
): Promise<MetricsEndpoint> {
  const server = createServer((request, response) => {
    const path = request.method === 'GET' ? request.url?.split('?')[0] : undefined;
    switch (path ?? '') {
      case '/metrics':
        exporter.getMetricsRequestHandler(request, response);
        break;
      case '/livez':
        response.writeHead(200, { 'content-type': 'text/plain' }).end('ok\n');
        break;
      case '/readyz':
        response
          .writeHead(isReady() ? 200 : 503, { 'content-type': 'text/plain' })
          .end(isReady() ? 'ok\n' : 'not serving\n');
        break;
      default:
        response.writeHead(404).end();
    }
  });
  server.listen(port, host);
  try {
    await once(server, 'listening');
  } catch (error) {
    throw listenError(error, host, port, 'PLUMB_METRICS_LISTEN');
  }
  server.unref();
  const bound = server.address();
  if (bound === null || typeof bound === 'string') {
    throw new PlumbError({
      code: 'INTERNAL',
      reason: 'UNEXPECTED',
      message: 'the metrics endpoint has no address',
    });
  }
  return {
    address: `${host.includes(':') ? `[${host}]` : host}:${bound.port}`,
    close: async () => {
      const closed = once(server, 'close');
      server.close();
      server.closeAllConnections();
      await closed;
    },
  };
}
