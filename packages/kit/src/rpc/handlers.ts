import { once } from 'node:events';
import type { EventEmitter } from 'node:events';
import { context } from '@opentelemetry/api';
import { ATTR_ENDUSER_ID } from '@opentelemetry/semantic-conventions/incubating';
import type { DescMessage, DescMethod } from '@bufbuild/protobuf';
import type {
  handleBidiStreamingCall,
  handleClientStreamingCall,
  handleServerStreamingCall,
  handleUnaryCall,
  Metadata,
  sendUnaryData,
  ServerDuplexStream,
  ServerReadableStream,
  ServerUnaryCall,
  ServerWritableStream,
  UntypedHandleCall,
} from '@grpc/grpc-js';
import { admissionOf } from '../access/access.ts';
import { cancelled, deadlineExceeded } from '../errors/shorthand.ts';
import { PlumbError } from '../errors/plumb-error.ts';
import { logger } from '../telemetry/logger.ts';
import { serverCall } from './call-telemetry.ts';
import type { CallContext } from './types.ts';
import { decode, encode, toWireError } from './wire.ts';

/** A handler of any kind, as the adapter sees it; the types were checked at `addService`. */
export type AnyHandler = (request: unknown, call: CallContext) => unknown;

type AnyCall =
  | ServerUnaryCall<Buffer, Buffer>
  | ServerReadableStream<Buffer, Buffer>
  | ServerWritableStream<Buffer, Buffer>
  | ServerDuplexStream<Buffer, Buffer>;

/** The calls a server is answering, each with what cuts it off with an error. */
export type RunningCalls = Set<(error: PlumbError) => void>;

/** The grpc-js handler of a method. */
export function toGrpcHandler(
  method: DescMethod,
  handler: AnyHandler,
  running: RunningCalls,
): UntypedHandleCall {
  switch (method.methodKind) {
    case 'unary': {
      const unary: handleUnaryCall<Buffer, Buffer> = (call, respond) => {
        const answer = (ctx: CallContext) => handler(received(method.input, call.request, call), ctx);
        void guard(method, call, running, failUnary(respond), async (ctx) => {
          const response = encodeResponse(method, await answer(ctx));
          return () => {
            respond(null, response);
          };
        });
      };
      return unary;
    }
    case 'client_streaming': {
      const clientStreaming: handleClientStreamingCall<Buffer, Buffer> = (call, respond) => {
        void guard(method, call, running, failUnary(respond), async (ctx) => {
          const response = encodeResponse(method, await handler(decodeAll(method.input, call), ctx));
          return () => {
            respond(null, response);
          };
        });
      };
      return clientStreaming;
    }
    case 'server_streaming': {
      const serverStreaming: handleServerStreamingCall<Buffer, Buffer> = (call) => {
        void guard(method, call, running, failStream(call), async (ctx) => {
          await writeAll(method, call, handler(received(method.input, call.request, call), ctx), ctx.signal);
          return () => {
            call.end();
          };
        });
      };
      return serverStreaming;
    }
    case 'bidi_streaming':
      break;
  }
  const bidiStreaming: handleBidiStreamingCall<Buffer, Buffer> = (call) => {
    void guard(method, call, running, failStream(call), async (ctx) => {
      await writeAll(method, call, handler(decodeAll(method.input, call), ctx), ctx.signal);
      return () => {
        call.end();
      };
    });
  };
  return bidiStreaming;
}

/**
 * The one wrapper that every call goes through. It builds the context, runs the body in the call's span, and turns
 * whatever is thrown, at once, by a rejected promise or by a generator, into exactly one answer. It never rejects.
 */
async function guard(
  method: DescMethod,
  call: AnyCall,
  running: RunningCalls,
  fail: (error: PlumbError) => void,
  body: (ctx: CallContext) => Promise<() => void>,
): Promise<void> {
  const record = serverCall(method, call.metadata);
  const name = `${method.parent.typeName}/${method.name}`;
  const log = logger('rpc');
  const admission = admissionOf(call.metadata);
  const { caller, session } = admission ?? {};
  const abort = new AbortController();
  const deadline = deadlineOf(call);
  const events: EventEmitter = call;
  // grpc-js says so after every call, answered ones too.
  let over = false;
  events.on('cancelled', () => {
    if (over) return;
    const late = deadline !== undefined && deadline.getTime() <= Date.now();
    abort.abort(
      late ? deadlineExceeded('the deadline of the call has passed') : cancelled('the caller gave up'),
    );
  });
  // A broken stream says so here, and so does our own answer when it is an error: nothing may go on after either.
  events.on('error', (error: unknown) => {
    abort.abort(cancelled('the connection of the call broke', { cause: error }));
  });
  if (caller !== undefined) record.span.setAttribute(ATTR_ENDUSER_ID, caller);
  const ctx: CallContext = {
    signal: abort.signal,
    deadline,
    metadata: call.metadata,
    logger: log,
    method: name,
    peer: call.getPeer(),
    caller,
    session,
    allows: (other) => admission?.allows(`/${other}`) ?? true,
  };
  const cutOff = (error: PlumbError): void => {
    if (abort.signal.aborted) return;
    fail(error);
    abort.abort(error);
  };
  running.add(cutOff);
  await context.with(record.context, async () => {
    try {
      const answer = await body(ctx);
      if (!abort.signal.aborted) {
        answer();
        record.end();
      }
    } catch (thrown) {
      if (!abort.signal.aborted) {
        const error = PlumbError.from(thrown);
        const unforeseen =
          error.code === 'INTERNAL' || error.code === 'UNKNOWN' || error.code === 'DATA_LOSS';
        log[unforeseen ? 'error' : 'debug']({ error: thrown, method: name, code: error.code }, 'call failed');
        record.end(thrown);
        fail(error);
      }
    }
  });
  over = true;
  running.delete(cutOff);
  // Does nothing for a call that was answered.
  record.end(abort.signal.reason);
}

function failUnary(respond: sendUnaryData<Buffer>): (error: PlumbError) => void {
  return (error) => {
    respond(toWireError(error));
  };
}

function failStream(call: ServerWritableStream<Buffer, Buffer> | ServerDuplexStream<Buffer, Buffer>) {
  return (error: PlumbError): void => {
    // grpc-js sends the status that is emitted as an error and ends the stream.
    call.emit('error', toWireError(error));
  };
}

function deadlineOf(call: AnyCall): Date | undefined {
  const deadline = call.getDeadline();
  const time = typeof deadline === 'number' ? deadline : deadline.getTime();
  return Number.isFinite(time) ? new Date(time) : undefined;
}

function encodeResponse(method: DescMethod, response: unknown): Buffer {
  // oxlint-disable-next-line typescript/no-unsafe-type-assertion -- `addService` checked the handler against the method
  return encode(method.output, response as Parameters<typeof encode<DescMessage>>[1]);
}

/** A request message; it counts against what the caller may have. */
function received(schema: DescMessage, bytes: Buffer, call: { readonly metadata: Metadata }): unknown {
  const message = decode(schema, bytes);
  admissionOf(call.metadata)?.spend(message);
  return message;
}

async function* decodeAll(
  schema: DescMessage,
  call: ServerReadableStream<Buffer, Buffer> | ServerDuplexStream<Buffer, Buffer>,
): AsyncGenerator {
  // A handler that stops reading still has an answer or an error to send, which a destroyed stream could not.
  const messages: AsyncIterable<Buffer> = call.iterator({ destroyOnReturn: false });
  for await (const bytes of messages) yield received(schema, bytes, call);
}

/** Writes answers as fast as the caller takes them and stops the generator when the call is over. */
async function writeAll(
  method: DescMethod,
  call: ServerWritableStream<Buffer, Buffer> | ServerDuplexStream<Buffer, Buffer>,
  responses: unknown,
  signal: AbortSignal,
): Promise<void> {
  // oxlint-disable-next-line typescript/no-unsafe-type-assertion -- `addService` checked the handler against the method
  const iterator = (responses as AsyncIterable<unknown>)[Symbol.asyncIterator]();
  const aborted = abortion(signal);
  try {
    for (;;) {
      const next = await aborted.orElse(iterator.next());
      if (next.done === true) return;
      if (!call.write(encodeResponse(method, next.value))) {
        await aborted.orElse(once(call, 'drain', { signal }));
      }
    }
  } catch (error) {
    // Not awaited: a generator that is stuck would hold the answer up.
    iterator.return?.().catch(() => undefined);
    throw error;
  } finally {
    aborted.dispose();
  }
}

/** Lets promises, one at a time, be left when a signal aborts. A stream may last for weeks: nothing of a promise that is over stays. */
function abortion(signal: AbortSignal): {
  /** The promise, or a rejection with the signal's reason as soon as it aborts. */
  orElse<Result>(promise: Promise<Result>): Promise<Result>;
  dispose(): void;
} {
  let leave: ((reason: Error) => void) | undefined;
  const reason = (): Error => (signal.reason instanceof Error ? signal.reason : cancelled());
  const listener = (): void => leave?.(reason());
  signal.addEventListener('abort', listener, { once: true });
  return {
    orElse: async <Result>(promise: Promise<Result>) => {
      const either = Promise.withResolvers<Result>();
      promise.then(either.resolve, either.reject);
      leave = either.reject;
      if (signal.aborted) leave(reason());
      return either.promise;
    },
    dispose: () => {
      signal.removeEventListener('abort', listener);
    },
  };
}
