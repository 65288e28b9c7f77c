import { createServer } from 'node:http';
import type { IncomingMessage, ServerResponse } from 'node:http';
import { createContextValues } from '@connectrpc/connect';
import { connectNodeAdapter } from '@connectrpc/connect-node';
import { bearerToken, createDoorkeeper } from '../access/access.ts';
import type { Doorkeeper } from '../access/access.ts';
import { createLimits } from '../access/limits.ts';
import { listenError } from '../errors/listen-error.ts';
import { PlumbError } from '../errors/plumb-error.ts';
import { isLoopback } from '../rpc/loopback.ts';
import { logger } from '../telemetry/logger.ts';
import { addWebServices, peerKey } from './connect-routes.ts';
import type { WebService } from './connect-routes.ts';
import type { Links } from './links.ts';
import { readStaticFiles } from './static-files.ts';
import type { StaticFile } from './static-files.ts';

export interface WebServerOptions {
  readonly host: string;
  /** 0 takes a free one. */
  readonly port: number;
  /** Whether plain HTTP may leave this machine: only behind a proxy that encrypts. */
  readonly insecurePlaintext: boolean;
  /** What signs tokens and paths. */
  readonly links: Links;
  /** Who else may come in: the callers that the gRPC server knows. */
  readonly access?: Doorkeeper | undefined;
  readonly services: readonly WebService[];
  /** Folder of the page's files. */
  readonly folder: string;
  /** The bytes of an artifact by its SHA-256. @throws PlumbError NOT_FOUND */
  readonly artifact: (sha256: string) => Promise<Uint8Array>;
}

export interface WebServer {
  /** host:port */
  readonly address: string;
  stop(): Promise<void>;
}

/** What may be shown of the artifact store, and nothing that a browser would run. */
const artifactTypes: ReadonlySet<string> = new Set([
  'image/png',
  'image/webp',
  'image/gif',
  'image/apng',
  'video/mp4',
  'video/webm',
  'video/raw',
  'application/json',
]);

/** The path of an artifact, to be signed; undefined for what a browser is not shown. */
export function artifactPath(sha256: string, mediaType: string): string | undefined {
  return /^[0-9a-f]{64}$/.test(sha256) && artifactTypes.has(mediaType)
    ? `/artifacts/${sha256}/${mediaType}`
    : undefined;
}

const securityHeaders: Readonly<Record<string, string>> = {
  'content-security-policy':
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data: blob:; media-src 'self' blob:; connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
  'x-content-type-options': 'nosniff',
  'referrer-policy': 'no-referrer',
  'cross-origin-opener-policy': 'same-origin',
  'cross-origin-resource-policy': 'same-origin',
  'permissions-policy': 'camera=(), geolocation=(), microphone=()',
};

const maxRequestBytes = 8 * 2 ** 20;
/** Streams that are cut off at a stop get this long to end, in milliseconds. */
const stopMs = 2_000;

/**
 * Serves the page, its calls (the gRPC handlers, over the Connect protocol) and signed artifacts, on one address. There is
 * always a control of access: whoever calls has a link, or credentials that the gRPC server takes.
 *
 * @throws PlumbError PORT_IN_USE, ADDRESS_NOT_LOOPBACK or ADDRESS_NOT_AVAILABLE
 */
export async function startWebServer(options: WebServerOptions): Promise<WebServer> {
  const { host, port, links } = options;
  if (!isLoopback(host) && !options.insecurePlaintext) {
    throw new PlumbError({
      code: 'FAILED_PRECONDITION',
      reason: 'ADDRESS_NOT_LOOPBACK',
      message: `${host} can be reached from other machines and the dashboard speaks plain HTTP; put a proxy with TLS before it and set PLUMB_INSECURE_PLAINTEXT=true, or set PLUMB_WEB_LISTEN to 127.0.0.1`,
    });
  }
  const log = logger('web');
  const files = await readStaticFiles(options.folder);
  if (files === undefined) {
    log.warn({ folder: options.folder }, 'the dashboard has not been built: run ./plumb, or npm run web');
  }
  const doorkeeper = doorkeeperOf(links, options.access);
  const calls = connectNodeAdapter({
    routes: (router) => {
      addWebServices(router, options.services, doorkeeper);
    },
    readMaxBytes: maxRequestBytes,
    requestPathPrefix: '/api',
    contextValues: (request) =>
      createContextValues().set(peerKey, request.socket?.remoteAddress ?? 'unknown'),
  });

  const handle = async (request: IncomingMessage, response: ServerResponse): Promise<void> => {
    for (const [name, value] of Object.entries(securityHeaders)) response.setHeader(name, value);
    const { pathname, searchParams } = new URL(request.url ?? '/', 'http://plumb.invalid');
    if (pathname.startsWith('/api/')) {
      // A page of somebody else has no business here, whatever credentials a proxy puts beside its request.
      if (request.headers['sec-fetch-site'] === 'cross-site')
        return end(response, 403, 'cross-site calls are refused');
      response.setHeader('cache-control', 'no-store');
      calls(request, response);
      return;
    }
    if (request.method !== 'GET' && request.method !== 'HEAD') return end(response, 405, 'only GET and HEAD');
    if (pathname.startsWith('/artifacts/')) return await sendArtifact(response, pathname, searchParams);
    sendFile(request, response, pathname);
  };

  async function sendArtifact(response: ServerResponse, path: string, query: URLSearchParams): Promise<void> {
    const [, , sha256 = '', kind = '', subtype = ''] = path.split('/');
    const mediaType = `${kind}/${subtype}`;
    if (artifactPath(sha256, mediaType) !== path || !links.isSigned(path, query)) {
      end(response, 403, 'this address is not signed or has expired; load the page again');
      return;
    }
    try {
      const bytes = await options.artifact(sha256);
      response.writeHead(200, {
        'content-type': mediaType === 'video/raw' ? 'application/octet-stream' : mediaType,
        'content-length': bytes.length,
        'cache-control': 'private, max-age=21600, immutable',
      });
      response.end(bytes);
    } catch (thrown) {
      const error = PlumbError.from(thrown);
      if (error.code !== 'NOT_FOUND') log.error({ error: thrown, sha256 }, 'an artifact cannot be sent');
      end(response, error.code === 'NOT_FOUND' ? 404 : 500, 'this artifact cannot be had');
    }
  }

  function sendFile(request: IncomingMessage, response: ServerResponse, path: string): void {
    if (files === undefined) {
      end(response, 503, 'the dashboard has not been built: run ./plumb, or npm run web');
      return;
    }
    // Every path that is no file is a view of the one page.
    const file = files.get(path) ?? (path.includes('.') ? undefined : files.get('/index.html'));
    if (file === undefined) {
      end(response, 404, 'there is no such file');
      return;
    }
    response.setHeader('etag', file.etag);
    response.setHeader('vary', 'accept-encoding');
    response.setHeader('cache-control', file.immutable ? 'public, max-age=31536000, immutable' : 'no-cache');
    if (request.headers['if-none-match'] === file.etag) {
      response.writeHead(304).end();
      return;
    }
    const [coding, body] = bodyFor(file, request.headers['accept-encoding'] ?? '');
    if (coding !== 'identity') response.setHeader('content-encoding', coding);
    response.writeHead(200, { 'content-type': file.mediaType, 'content-length': body.length });
    response.end(request.method === 'HEAD' ? undefined : body);
  }

  const server = createServer((request, response) => {
    handle(request, response).catch((error: unknown) => {
      log.error({ error }, 'a request of the dashboard failed');
      if (response.headersSent) response.destroy();
      else end(response, 500, 'this did not work; the log of the loop service says why');
    });
  });
  const bound = await new Promise<number>((resolve, reject) => {
    server.once('error', (error) => {
      reject(listenError(error, host, port, 'PLUMB_WEB_LISTEN'));
    });
    server.listen(port, host, () => {
      const address = server.address();
      resolve(typeof address === 'object' && address !== null ? address.port : port);
    });
  });
  return {
    address: `${host.includes(':') ? `[${host}]` : host}:${bound}`,
    stop: async () => {
      const closed = Promise.withResolvers<undefined>();
      server.close(() => {
        closed.resolve(undefined);
      });
      server.closeIdleConnections();
      // Watched runs never end by themselves; a browser comes back.
      const cutOff = setTimeout(() => {
        server.closeAllConnections();
      }, stopMs);
      await closed.promise;
      clearTimeout(cutOff);
    },
  };
}

/** Links first, then whoever the gRPC server knows; each with the limits of its own door. */
function doorkeeperOf(links: Links, access: Doorkeeper | undefined): Doorkeeper {
  const byLink = createDoorkeeper(async (presented) => {
    const token = bearerToken(presented.authorization);
    const caller = token === undefined ? undefined : await links.verify(token);
    return caller;
  }, createLimits({}));
  return {
    identify: async (presented) => (await byLink.identify(presented)) ?? (await access?.identify(presented)),
    admit: async (path, presented) =>
      access === undefined || (await byLink.identify(presented)) !== undefined
        ? await byLink.admit(path, presented)
        : await access.admit(path, presented),
  };
}

function bodyFor(file: StaticFile, accepted: string): readonly [string, Buffer] {
  for (const coding of ['br', 'gzip']) {
    const body = file.bodies[coding];
    if (body !== undefined && accepted.split(/[\s,;]+/).includes(coding)) return [coding, body];
  }
  return ['identity', file.bodies['identity'] ?? Buffer.alloc(0)];
}

function end(response: ServerResponse, status: number, text: string): void {
  response.writeHead(status, { 'content-type': 'text/plain; charset=utf-8', 'cache-control': 'no-store' });
  response.end(`${text}\n`);
}
