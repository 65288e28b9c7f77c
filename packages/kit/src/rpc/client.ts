import { once } from 'node:events';
import { context } from '@opentelemetry/api';
import type { DescMethod, DescService, MessageShape } from '@bufbuild/protobuf';
import { MethodOptions_IdempotencyLevel } from '@bufbuild/protobuf/wkt';
import { Client, credentials, Metadata } from '@grpc/grpc-js';
import type { CallOptions as GrpcCallOptions, ServiceError } from '@grpc/grpc-js';
import { PlumbError } from '../errors/plumb-error.ts';
import { cancelled, unavailable } from '../errors/shorthand.ts';
import type { ClientCredentials } from '../access/client-credentials.ts';
import { splitAddress } from '../config/service-settings.ts';
import { clientCall } from './call-telemetry.ts';
import type { CallRecord } from './call-telemetry.ts';
import { isLoopback } from './loopback.ts';
import type { CallOptions, RpcClient } from './types.ts';
import { decode, encode, fromWireError, pathOf, sameBytes } from './wire.ts';

export interface ClientOptions {
  /** TLS, token and certificate; plain text and nothing shown without them. */
  readonly credentials?: ClientCredentials | undefined;
  /** Deadline of unary and client-streaming calls that name none, 30 s by default. Streams of answers have none. */
  readonly defaultDeadlineMs?: number;
  /**
   * Which methods are sent again on UNAVAILABLE (5 attempts, 0.1 to 2 s apart): 'idempotent', the default, are those
   * whose proto option idempotency_level says so; or names of methods; or 'none'.
   */
  readonly retry?: 'idempotent' | 'none' | readonly string[];
  /** Default of CallOptions.waitForReady. */
  readonly waitForReady?: boolean;
  /** Largest response, in bytes; 8 MiB by default. */
  readonly maxReceiveBytes?: number;
  /** A connection with running calls is probed after this long without a sign of life; 20 s by default. */
  readonly keepaliveMs?: number;
}

type AnyRequests = AsyncIterable<unknown> | Iterable<unknown>;

/**
 * A typed client of a service at `host:port` (or any gRPC target such as `dns:///judge:50051`, whose addresses share
 * the calls). It connects at the first call and reconnects by itself.
 */
export function createClient<S extends DescService>(
  service: S,
  address: string,
  options: ClientOptions = {},
): RpcClient<S> {
  checkTokenStaysSecret(address, options.credentials);
  const client = new Client(address, options.credentials?.channel ?? credentials.createInsecure(), {
    'grpc.max_receive_message_length': options.maxReceiveBytes ?? 8 * 2 ** 20,
    'grpc.max_send_message_length': -1,
    'grpc.keepalive_time_ms': options.keepaliveMs ?? 20_000,
    'grpc.keepalive_timeout_ms': 10_000,
    'grpc.initial_reconnect_backoff_ms': 100,
    'grpc.max_reconnect_backoff_ms': 2000,
    'grpc.service_config': JSON.stringify(serviceConfig(service, options.retry ?? 'idempotent')),
  });
  const methods: Record<string, unknown> = {
    close: () => {
      client.close();
    },
    ready: (waiting: { deadlineMs?: number | undefined; signal?: AbortSignal | undefined } = {}) =>
      ready(client, address, waiting),
  };
  for (const method of service.methods) {
    if (Object.hasOwn(methods, method.localName)) {
      throw new TypeError(`${service.typeName}: the name ${method.localName} is taken by the client itself`);
    }
    methods[method.localName] = clientMethod(client, address, method, options);
  }
  // oxlint-disable-next-line typescript/no-unsafe-type-assertion -- the loop above made one function for each method
  return methods as RpcClient<S>;
}

function clientMethod(client: Client, address: string, method: DescMethod, defaults: ClientOptions): unknown {
  const begin = (options: CallOptions, deadline: number | undefined): Begun => {
    const metadata = new Metadata({ waitForReady: options.waitForReady ?? defaults.waitForReady ?? false });
    for (const [key, value] of Object.entries(options.metadata ?? {})) metadata.set(key, value);
    const token = defaults.credentials?.token();
    if (token !== undefined) metadata.set('authorization', `Bearer ${token}`);
    const record = clientCall(method, address, metadata);
    const callOptions: GrpcCallOptions = deadline === undefined ? {} : { deadline: Date.now() + deadline };
    return { record, metadata, callOptions, signal: options.signal };
  };
  const path = pathOf(method);
  const unaryDeadline = (options: CallOptions): number =>
    options.deadlineMs ?? defaults.defaultDeadlineMs ?? 30_000;
  const encodeRequest = (request: unknown): Buffer =>
    // oxlint-disable-next-line typescript/no-unsafe-type-assertion -- RpcClient's type says what each method takes
    encode(method.input, request as Parameters<typeof encode>[1]);

  switch (method.methodKind) {
    case 'unary':
      return async (request: unknown, options: CallOptions = {}) =>
        await single(method, begin(options, unaryDeadline(options)), (begun, settle) => ({
          call: client.makeUnaryRequest(
            path,
            sameBytes,
            sameBytes,
            encodeRequest(request),
            begun.metadata,
            begun.callOptions,
            settle,
          ),
        }));
    case 'client_streaming':
      return async (requests: AnyRequests, options: CallOptions = {}) =>
        await single(method, begin(options, unaryDeadline(options)), (begun, settle) => {
          const call = client.makeClientStreamRequest(
            path,
            sameBytes,
            sameBytes,
            begun.metadata,
            begun.callOptions,
            settle,
          );
          return { call, sending: sendAll(call, requests, encodeRequest) };
        });
    case 'server_streaming':
      return (request: unknown, options: CallOptions = {}) =>
        streamed(
          method,
          () => begin(options, options.deadlineMs),
          (begun) => ({
            call: client.makeServerStreamRequest(
              path,
              sameBytes,
              sameBytes,
              encodeRequest(request),
              begun.metadata,
              begun.callOptions,
            ),
          }),
        );
    case 'bidi_streaming':
      break;
  }
  return (requests: AnyRequests, options: CallOptions = {}) =>
    streamed(
      method,
      () => begin(options, options.deadlineMs),
      (begun) => {
        const call = client.makeBidiStreamRequest(
          path,
          sameBytes,
          sameBytes,
          begun.metadata,
          begun.callOptions,
        );
        return { call, sending: sendAll(call, requests, encodeRequest) };
      },
    );
}

interface Begun {
  readonly record: CallRecord;
  readonly metadata: Metadata;
  readonly callOptions: GrpcCallOptions;
  readonly signal: AbortSignal | undefined;
}

interface Started<Call> {
  readonly call: Call;
  /** Settles when all requests are written; rejects with what the caller's iterable threw. */
  readonly sending?: Promise<void>;
}

/** A call with one answer. */
async function single(
  method: DescMethod,
  begun: Begun,
  start: (
    begun: Begun,
    settle: (error: ServiceError | null, value?: Buffer) => void,
  ) => Started<{ cancel(): void }>,
): Promise<unknown> {
  const { record, signal } = begun;
  try {
    if (signal?.aborted === true) throw abortReason(signal);
    const { promise, resolve, reject } = Promise.withResolvers<Buffer>();
    const { call, sending } = context.with(record.context, () =>
      start(begun, (error, value) => {
        if (error !== null) reject(error);
        else if (value !== undefined) resolve(value);
        else reject(new Error('grpc-js gave neither a value nor an error'));
      }),
    );
    const abort = (): void => {
      call.cancel();
    };
    signal?.addEventListener('abort', abort, { once: true });
    try {
      // The requests' own failure counts more than the CANCELLED that follows from it.
      sending?.catch((error: unknown) => {
        reject(asError(error));
        call.cancel();
      });
      const response = decode(method.output, await promise);
      record.end();
      return response;
    } finally {
      signal?.removeEventListener('abort', abort);
    }
  } catch (thrown) {
    const error = signal?.aborted === true ? abortReason(signal) : fromWireError(thrown);
    record.end(error);
    throw error;
  }
}

type ResponseCall = AsyncIterable<Buffer> & { cancel(): void };

/** A call with a stream of answers. It begins when it is iterated and is cancelled when the iteration is left. */
async function* streamed(
  method: DescMethod,
  begin: () => Begun,
  start: (begun: Begun) => Started<ResponseCall>,
): AsyncGenerator<MessageShape<typeof method.output>> {
  const begun = begin();
  const { record, signal } = begun;
  let sendingError: unknown;
  let call: ResponseCall | undefined;
  const abort = (): void => {
    call?.cancel();
  };
  try {
    if (signal?.aborted === true) throw abortReason(signal);
    const started = context.with(record.context, () => start(begun));
    const running = started.call;
    call = running;
    signal?.addEventListener('abort', abort, { once: true });
    started.sending?.catch((error: unknown) => {
      sendingError = error;
      running.cancel();
    });
    for await (const bytes of running) yield decode(method.output, bytes);
    record.end();
  } catch (thrown) {
    const error =
      signal?.aborted === true
        ? abortReason(signal)
        : fromWireError(sendingError === undefined ? thrown : sendingError);
    record.end(error);
    throw error;
  } finally {
    signal?.removeEventListener('abort', abort);
    // Left early: tells the server to stop. After the end it does nothing.
    call?.cancel();
    record.end();
  }
}

interface RequestCall {
  write(bytes: Buffer): boolean;
  end(): void;
  once(event: string, listener: () => void): unknown;
  removeListener(event: string, listener: () => void): unknown;
}

/** Writes all requests, as fast as the other side takes them, and closes the sending side. */
async function sendAll(
  call: RequestCall & NodeJS.EventEmitter,
  requests: AnyRequests,
  encodeRequest: (request: unknown) => Buffer,
): Promise<void> {
  const over = new AbortController();
  const stop = (): void => {
    over.abort();
  };
  call.once('status', stop);
  call.once('close', stop);
  for await (const request of requests) {
    if (over.signal.aborted) return;
    if (!call.write(encodeRequest(request))) {
      try {
        await once(call, 'drain', { signal: over.signal });
      } catch {
        // The call is over; its own error, if any, is reported where its answers are read.
        return;
      }
    }
  }
  call.end();
}

async function ready(
  client: Client,
  address: string,
  waiting: { deadlineMs?: number | undefined; signal?: AbortSignal | undefined },
): Promise<void> {
  const { promise, resolve, reject } = Promise.withResolvers<undefined>();
  const { signal } = waiting;
  const abort = (): void => {
    if (signal !== undefined) reject(abortReason(signal));
  };
  if (signal?.aborted === true) abort();
  signal?.addEventListener('abort', abort, { once: true });
  client.waitForReady(Date.now() + (waiting.deadlineMs ?? 30_000), (cause) => {
    if (cause === undefined) resolve(undefined);
    else reject(unavailable(`nothing answers at ${address}`, { cause }));
  });
  try {
    await promise;
  } finally {
    signal?.removeEventListener('abort', abort);
  }
}

// Source: https://github.com/grpc/grpc-proto/blob/master/grpc/service_config/service_config.proto
function serviceConfig(service: DescService, retry: 'idempotent' | 'none' | readonly string[]): unknown {
  const retried = service.methods.filter((method) => {
    if (retry === 'none') return false;
    if (retry === 'idempotent')
      return method.idempotency !== MethodOptions_IdempotencyLevel.IDEMPOTENCY_UNKNOWN;
    return retry.includes(method.name) || retry.includes(method.localName);
  });
  return {
    loadBalancingConfig: [{ round_robin: {} }],
    methodConfig:
      retried.length === 0
        ? []
        : [
            {
              name: retried.map((method) => ({ service: service.typeName, method: method.name })),
              retryPolicy: {
                maxAttempts: 5,
                initialBackoff: '0.1s',
                maxBackoff: '2s',
                backoffMultiplier: 2,
                retryableStatusCodes: ['UNAVAILABLE'],
              },
            },
          ],
  };
}

function checkTokenStaysSecret(address: string, shown: ClientCredentials | undefined): void {
  if (shown === undefined || shown.encrypted || shown.insecurePlaintext || shown.token() === undefined)
    return;
  if (isLoopback(splitAddress(address.replace(/^[a-z]+:\/*/, '')).host)) return;
  throw new PlumbError({
    code: 'FAILED_PRECONDITION',
    reason: 'CONFIGURATION_INVALID',
    message: `a token would go to ${address} in plain text; name the authority of the server (PLUMB_TLS_CA, --ca), or set PLUMB_INSECURE_PLAINTEXT=true where the network itself encrypts`,
  });
}

/** Why a signal aborted, as a PlumbError: a reason that is one already is kept. */
function abortReason(signal: AbortSignal): PlumbError {
  const reason: unknown = signal.reason;
  const error = PlumbError.from(reason);
  return error.code === 'INTERNAL' ? cancelled('the operation was cancelled', { cause: reason }) : error;
}

function asError(thrown: unknown): Error {
  return thrown instanceof Error ? thrown : new Error('the requests could not be made', { cause: thrown });
}
