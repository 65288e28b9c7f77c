import { context } from '@opentelemetry/api';
import { ATTR_ENDUSER_ID } from '@opentelemetry/semantic-conventions/incubating';
import type { DescMethod, DescService } from '@bufbuild/protobuf';
import { ConnectError, createContextKey } from '@connectrpc/connect';
import type { ConnectRouter, HandlerContext, ServiceImpl } from '@connectrpc/connect';
import { Metadata } from '@grpc/grpc-js';
import type { Admission, Doorkeeper } from '../access/access.ts';
import { PlumbError } from '../errors/plumb-error.ts';
import { toStatus } from '../errors/status.ts';
import { serverCall } from '../rpc/call-telemetry.ts';
import type { CallRecord } from '../rpc/call-telemetry.ts';
import type { AnyHandler } from '../rpc/handlers.ts';
import type { CallContext, Implementation } from '../rpc/types.ts';
import { pathOf } from '../rpc/wire.ts';
import { logger } from '../telemetry/logger.ts';

/** Address of the other end. */
export const peerKey = createContextKey('', { description: 'peer' });

/** A service with the handlers that gRPC calls, for browsers. */
export interface WebService {
  readonly service: DescService;
  readonly implementation: Readonly<Record<string, AnyHandler | undefined>>;
}

/** Pairs a service with its handlers; the same object that the gRPC server has. */
export function webService<S extends DescService>(service: S, implementation: Implementation<S>): WebService {
  // oxlint-disable-next-line typescript/no-unsafe-type-assertion -- its own type says what each method takes
  return { service, implementation: implementation as WebService['implementation'] };
}

/** Adds services to a Connect router: who calls is asked at the same door, errors and spans are those of gRPC. */
export function addWebServices(
  router: ConnectRouter,
  services: readonly WebService[],
  doorkeeper: Doorkeeper,
): void {
  for (const { service, implementation } of services) {
    const handlers: Record<string, unknown> = {};
    for (const method of service.methods) {
      const handler = implementation[method.localName];
      if (handler === undefined)
        throw new TypeError(`${service.typeName}: no handler for ${method.localName}`);
      const bound: AnyHandler = (request, call) => handler.call(implementation, request, call);
      if (method.methodKind === 'unary') {
        handlers[method.localName] = (request: unknown, ctx: HandlerContext) =>
          answer(method, bound, doorkeeper, request, ctx);
      } else if (method.methodKind === 'server_streaming') {
        handlers[method.localName] = (request: unknown, ctx: HandlerContext) =>
          stream(method, bound, doorkeeper, request, ctx);
      }
      // Browsers cannot stream requests: Connect answers UNIMPLEMENTED to methods that it has no handler for.
    }
    router.service(service, handlers as Partial<ServiceImpl<DescService>>);
  }
}

interface Entered {
  readonly record: CallRecord;
  readonly call: CallContext;
  readonly admission: Admission;
}

async function enter(method: DescMethod, doorkeeper: Doorkeeper, ctx: HandlerContext): Promise<Entered> {
  const { requestHeader: header, values } = ctx;
  const peer = values.get(peerKey);
  const authorization = header.get('authorization');
  const admission = await doorkeeper.admit(pathOf(method), {
    authorization: authorization === null ? [] : [authorization],
    certificateNames: [],
    peer,
  });
  // Only what handlers and traces read: a browser's headers are nobody's business.
  const metadata = new Metadata();
  for (const name of ['traceparent', 'tracestate']) {
    const value = header.get(name);
    if (value !== null) metadata.set(name, value);
  }
  const record = serverCall(method, metadata);
  record.span.setAttribute(ATTR_ENDUSER_ID, admission.caller);
  const timeoutMs = ctx.timeoutMs();
  return {
    record,
    admission,
    call: {
      signal: ctx.signal,
      deadline: timeoutMs === undefined ? undefined : new Date(Date.now() + timeoutMs),
      metadata,
      logger: logger('rpc'),
      method: pathOf(method).slice(1),
      peer,
      caller: admission.caller,
      session: admission.session,
      allows: (other) => admission.allows(`/${other}`),
    },
  };
}

async function answer(
  method: DescMethod,
  handler: AnyHandler,
  doorkeeper: Doorkeeper,
  request: unknown,
  ctx: HandlerContext,
): Promise<unknown> {
  let entered: Entered | undefined;
  try {
    const { record, call, admission } = (entered = await enter(method, doorkeeper, ctx));
    const response = await context.with(record.context, async () => {
      admission.spend(request);
      return await handler(request, call);
    });
    record.end();
    return response;
  } catch (thrown) {
    throw failed(method, entered, thrown);
  }
}

async function* stream(
  method: DescMethod,
  handler: AnyHandler,
  doorkeeper: Doorkeeper,
  request: unknown,
  ctx: HandlerContext,
): AsyncGenerator {
  let entered: Entered | undefined;
  try {
    const { record, call, admission } = (entered = await enter(method, doorkeeper, ctx));
    const inCall = <Result>(work: () => Promise<Result>): Promise<Result> =>
      context.with(record.context, work);
    admission.spend(request);
    const answers = (handler(request, call) as AsyncIterable<unknown>)[Symbol.asyncIterator]();
    try {
      for (;;) {
        const next = await inCall(() => answers.next());
        if (next.done === true) break;
        yield next.value;
      }
    } finally {
      await answers.return?.();
      // Does nothing when the record has an end already.
      record.end();
    }
  } catch (thrown) {
    // A reader that has gone is how most streams end.
    if (ctx.signal.aborted) return;
    throw failed(method, entered, thrown);
  }
}

function failed(method: DescMethod, entered: Entered | undefined, thrown: unknown): ConnectError {
  const error = PlumbError.from(thrown);
  if (entered !== undefined) {
    const unforeseen = error.code === 'INTERNAL' || error.code === 'UNKNOWN' || error.code === 'DATA_LOSS';
    logger('rpc')[unforeseen ? 'error' : 'debug'](
      { error: thrown, method: pathOf(method), code: error.code },
      'call failed',
    );
    entered.record.end(thrown);
  }
  const status = toStatus(error);
  // Connect's codes are gRPC's.
  const connectError = new ConnectError(status.message, status.code);
  connectError.details = status.details.map(({ typeUrl, value }) => ({
    type: typeUrl.slice(typeUrl.lastIndexOf('/') + 1),
    value,
  }));
  return connectError;
}
