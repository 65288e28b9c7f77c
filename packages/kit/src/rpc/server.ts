import type { DescService } from '@bufbuild/protobuf';
import { Server, ServerCredentials, setLogger } from '@grpc/grpc-js';
import type { ServiceDefinition, UntypedServiceImplementation } from '@grpc/grpc-js';
import { HealthImplementation } from 'grpc-health-check';
import { listenError } from '../errors/listen-error.ts';
import { PlumbError } from '../errors/plumb-error.ts';
import type { Access } from '../access/access.ts';
import { unavailable } from '../errors/shorthand.ts';
import { logger } from '../telemetry/logger.ts';
import { isLoopback } from './loopback.ts';
import { toGrpcHandler } from './handlers.ts';
import type { AnyHandler, RunningCalls } from './handlers.ts';
import { addReflection } from './reflection.ts';
import type { Implementation } from './types.ts';
import { pathOf, sameBytes } from './wire.ts';

export interface ServerOptions {
  /** 127.0.0.1 by default. Anything but loopback needs `tls` and `access`, or what calls itself insecure. */
  readonly host?: string;
  /** 0, the default, takes a free one. */
  readonly port?: number;
  /** See serverTls in access/certificates.ts. Plain text without it. */
  readonly tls?: ServerCredentials | undefined;
  /** Who may call what. Everybody everything without it. */
  readonly access?: Access | undefined;
  /** Plain text on an address that is not loopback: only where the network itself encrypts. */
  readonly insecurePlaintext?: boolean | undefined;
  /** No control of access on an address that is not loopback: only where the network itself controls it. */
  readonly insecureNoAuth?: boolean | undefined;
  /** Largest request, in bytes; 8 MiB by default. */
  readonly maxReceiveBytes?: number;
  /**
   * At this age, give or take a tenth, a connection takes no new calls and ends with the last of those it has: clients
   * come back and are spread over new pods. Never by default.
   */
  readonly maxConnectionAgeMs?: number | undefined;
  /** A silent connection is probed after this long; 30 s by default. */
  readonly keepaliveMs?: number;
  /** Serves the contracts to whoever asks (gRPC reflection); not by default. */
  readonly reflection?: boolean | undefined;
  /** Health turns to NOT_SERVING when it aborts, before anything is stopped. */
  readonly signal?: AbortSignal | undefined;
}

export type HealthStatus = 'SERVING' | 'NOT_SERVING';

export interface RpcServer {
  /** The grpc-js server beneath. */
  readonly grpc: Server;
  /** Implements a service. All of them before `listen`. */
  add<S extends DescService>(service: S, implementation: Implementation<S>): void;
  /**
   * Binds and serves; every service's health becomes SERVING.
   *
   * @throws PlumbError PORT_IN_USE, ADDRESS_NOT_LOOPBACK or ADDRESS_NOT_AVAILABLE, naming host, port and the fix
   */
  listen(): Promise<{ readonly host: string; readonly port: number; readonly address: string }>;
  /** Health of one service by its full name, or of the whole process by ''. */
  setHealth(service: string, status: HealthStatus): void;
  /** Whether the health of the whole process is SERVING. */
  isServing(): boolean;
  /** NOT_SERVING, then waits for running calls up to `deadlineMs` (5 s by default), then cuts them off. */
  stop(options?: { readonly deadlineMs?: number }): Promise<void>;
}

// Time for the last statuses to leave the process.
const cutOffMs = 500;

const mebibyte = 2 ** 20;

/** Makes a server; it accepts nothing before `listen`. */
export function createServer(options: ServerOptions = {}): RpcServer {
  const host = options.host ?? '127.0.0.1';
  const port = options.port ?? 0;
  checkReach(host, options);
  // grpc-js prints lines of its own to standard error; what matters in them comes as an error too.
  const log = logger('grpc');
  const toLog = (...parts: unknown[]): void => {
    log.debug(parts.join(' '));
  };
  setLogger({ error: toLog, info: toLog, debug: toLog });
  const keepaliveMs = options.keepaliveMs ?? 30_000;
  const server = new Server({
    'grpc.max_receive_message_length': options.maxReceiveBytes ?? 8 * mebibyte,
    'grpc.max_send_message_length': -1,
    'grpc.keepalive_time_ms': keepaliveMs,
    'grpc.keepalive_timeout_ms': 10_000,
    ...(options.maxConnectionAgeMs === undefined
      ? {}
      : {
          'grpc.max_connection_age_ms': options.maxConnectionAgeMs,
        }),
    ...(options.access === undefined ? {} : { interceptors: [options.access.interceptor] }),
  });
  const health = new HealthImplementation({ '': 'NOT_SERVING' });
  health.addToServer(server);
  const services: string[] = [''];
  const reflected: DescService[] = [];
  const running: RunningCalls = new Set();
  let stopping = false;
  let serving = false;
  const setStatus = (service: string, status: HealthStatus): void => {
    if (service === '') serving = status === 'SERVING';
    health.setStatus(service, status);
  };

  const setAll = (status: HealthStatus): void => {
    for (const service of services) setStatus(service, status);
  };
  const notServing = (): void => {
    stopping = true;
    setAll('NOT_SERVING');
  };
  if (options.signal?.aborted === true) notServing();
  options.signal?.addEventListener('abort', notServing, { once: true });

  return {
    grpc: server,
    add: (service, implementation) => {
      const definition: Record<string, ServiceDefinition[string]> = {};
      const handlers: UntypedServiceImplementation = {};
      for (const method of service.methods) {
        // oxlint-disable-next-line typescript/no-unsafe-type-assertion -- its own type says what each method takes
        const handler = (implementation as Readonly<Record<string, AnyHandler | undefined>>)[
          method.localName
        ];
        if (handler === undefined) {
          throw new TypeError(`${service.typeName}: no handler for ${method.localName}`);
        }
        definition[method.localName] = {
          path: pathOf(method),
          requestStream: method.methodKind === 'client_streaming' || method.methodKind === 'bidi_streaming',
          responseStream: method.methodKind === 'server_streaming' || method.methodKind === 'bidi_streaming',
          requestSerialize: sameBytes,
          requestDeserialize: sameBytes,
          responseSerialize: sameBytes,
          responseDeserialize: sameBytes,
          originalName: method.localName,
        };
        const bound: AnyHandler = (request, call) => handler.call(implementation, request, call);
        handlers[method.localName] = toGrpcHandler(method, bound, running);
      }
      server.addService(definition, handlers);
      services.push(service.typeName);
      reflected.push(service);
      health.setStatus(service.typeName, 'NOT_SERVING');
    },
    listen: async () => {
      if (options.reflection === true) addReflection(server, reflected);
      const bracketed = host.includes(':') ? `[${host}]` : host;
      const bound = await bind(
        server,
        bracketed,
        port,
        options.tls ?? ServerCredentials.createInsecure(),
      ).catch((error: unknown) => {
        throw listenError(error, host, port, 'PLUMB_LISTEN');
      });
      if (!stopping) setAll('SERVING');
      return { host, port: bound, address: `${bracketed}:${bound}` };
    },
    setHealth: setStatus,
    isServing: () => serving,
    stop: async ({ deadlineMs = 5000 } = {}) => {
      notServing();
      options.signal?.removeEventListener('abort', notServing);
      const finished = Promise.withResolvers<'finished'>();
      server.tryShutdown(() => {
        finished.resolve('finished');
      });
      if (await within(finished.promise, deadlineMs)) return;
      // Callers learn that they may try again elsewhere; a moment later nobody is asked any more.
      for (const cutOff of running) {
        cutOff(unavailable('the service is stopping; try again', { reason: 'SHUTTING_DOWN' }));
      }
      if (!(await within(finished.promise, cutOffMs))) server.forceShutdown();
    },
  };
}

/** Implements a service on a server; every method of the service needs its handler. */
export function addService<S extends DescService>(
  server: RpcServer,
  service: S,
  implementation: Implementation<S>,
): void {
  server.add(service, implementation);
}

async function within(promise: Promise<unknown>, ms: number): Promise<boolean> {
  const { promise: late, resolve } = Promise.withResolvers<'late'>();
  const timer = setTimeout(() => {
    resolve('late');
  }, ms);
  const first = await Promise.race([promise, late]);
  clearTimeout(timer);
  return first !== 'late';
}

function checkReach(host: string, options: ServerOptions): void {
  if (isLoopback(host)) return;
  const fixes: string[] = [];
  if (options.tls === undefined && options.insecurePlaintext !== true) {
    fixes.push(
      'set PLUMB_TLS_CERT and PLUMB_TLS_KEY (or PLUMB_INSECURE_PLAINTEXT=true where the network itself encrypts)',
    );
  }
  if (options.access === undefined && options.insecureNoAuth !== true) {
    fixes.push(
      'set PLUMB_AUTH_CALLERS_FILE or PLUMB_AUTH_JWKS (or PLUMB_INSECURE_NO_AUTH=true where the network itself controls access)',
    );
  }
  if (fixes.length === 0) return;
  throw new PlumbError({
    code: 'FAILED_PRECONDITION',
    reason: 'ADDRESS_NOT_LOOPBACK',
    message: `${host} can be reached from other machines; ${fixes.join(', and ')}, or listen on 127.0.0.1`,
  });
}

async function bind(server: Server, host: string, port: number, creds: ServerCredentials): Promise<number> {
  const { promise, resolve, reject } = Promise.withResolvers<number>();
  server.bindAsync(`${host}:${port}`, creds, (error, bound) => {
    if (error === null) resolve(bound);
    else reject(error);
  });
  return promise;
}
