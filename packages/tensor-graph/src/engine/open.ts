import { fork } from 'node:child_process';
import { availableParallelism } from 'node:os';
import { fileURLToPath } from 'node:url';
import { Worker } from 'node:worker_threads';
import { context, trace } from '@opentelemetry/api';
import type { Context } from '@opentelemetry/api';
import { cancelled, invalidArgument, unavailable } from '@plumb/kit/errors';
import { recordError, startSpan, tracer } from '@plumb/kit/telemetry';
import type { PlumbError } from '@plumb/kit/errors';
import type { CallOptions, Engine, EngineMethod, EngineOptions } from './engine.ts';
import { fromWireError } from './error-wire.ts';
import type { HostReply, HostRequest } from './host.ts';
import type { SessionOptions } from './session.ts';
import type { TypedTensor } from './typed-tensor.ts';

/** How long a closing process may take to finish its call before it is ended by force, in milliseconds. */
const CLOSE_DEADLINE_MS = 10_000;

const spans = tracer('plumb.engine');

/** One end of a channel to a host. */
interface Channel {
  send(request: HostRequest): void;
  /** Ends the host at once, where that is possible. */
  kill(): void;
  /** Process of the host, where it has one of its own. */
  readonly pid?: number | undefined;
  /** Resolves when the host is gone. */
  readonly gone: Promise<void>;
}

/** What a channel tells. */
interface ChannelEvents {
  reply(reply: HostReply): void;
  /** The host ended; `how` completes the sentence "the engine ...". */
  exit(how: string): void;
}

/**
 * Opens an engine off this thread.
 * @throws PlumbError INVALID_ARGUMENT for options out of range; UNAVAILABLE when the host does not start
 */
export async function openEngine(options: EngineOptions = {}): Promise<Engine> {
  const { form = 'process', ...rest } = options;
  const session: SessionOptions = { intraOpThreads: availableParallelism(), ...rest };
  const threads = session.intraOpThreads ?? 1;
  if (!Number.isInteger(threads) || threads < 1) {
    throw invalidArgument('intraOpThreads', `${threads} must be a positive integer`);
  }
  const client = new EngineClient((events) =>
    form === 'process' ? forkHost(session, events) : startHostThread(session, events),
  );
  await client.ready;
  return client;
}

function forkHost(options: SessionOptions, events: ChannelEvents): Channel {
  const child = fork(fileURLToPath(new URL('host-process.ts', import.meta.url)), [JSON.stringify(options)], {
    serialization: 'advanced',
    // Standard output belongs to the service, which prints one line on it; the runtime's messages go to stderr.
    stdio: ['ignore', 2, 2, 'ipc'],
  });
  child.on('message', (reply: HostReply) => {
    events.reply(reply);
  });
  child.on('error', (error) => {
    events.exit(`failed: ${error.message}`);
  });
  const gone = new Promise<void>((resolve) => {
    child.once('exit', (code, signal) => {
      events.exit(
        signal === null
          ? `process ended with code ${code}`
          : `process was killed by ${signal}; if that is SIGKILL, the machine may have run out of memory`,
      );
      resolve();
    });
  });
  return {
    send(request) {
      // An error here means that the process is gone, which `exit` reports.
      if (child.connected) child.send(withOwnMemory(request), () => undefined);
    },
    kill: () => child.kill('SIGKILL'),
    pid: child.pid,
    gone,
  };
}

/** Methods whose second argument is tensors by name. */
const methodsWithFeeds: ReadonlySet<EngineMethod> = new Set([
  'run',
  'iterate',
  'trainStep',
  'measureTraining',
]);

/** Another process cannot see shared memory, so feeds in it are copied. */
function withOwnMemory(request: HostRequest): HostRequest {
  if (request.kind !== 'call') return request;
  const [first, feeds, ...rest] = request.args;
  if (!methodsWithFeeds.has(request.method) || typeof feeds !== 'object' || feeds === null) {
    return request;
  }
  const own = Object.entries(feeds as Record<string, TypedTensor>).map(([name, tensor]) => [
    name,
    tensor.data.buffer instanceof SharedArrayBuffer ? { ...tensor, data: tensor.data.slice() } : tensor,
  ]);
  return { ...request, args: [first, Object.fromEntries(own), ...rest] };
}

function startHostThread(options: SessionOptions, events: ChannelEvents): Channel {
  const worker = new Worker(new URL('host-thread.ts', import.meta.url), { workerData: options });
  worker.on('message', (reply: HostReply) => {
    events.reply(reply);
  });
  worker.on('error', (error: unknown) => {
    events.exit(`thread failed: ${error instanceof Error ? error.message : String(error)}`);
  });
  const gone = new Promise<void>((resolve) => {
    worker.once('exit', (code) => {
      events.exit(`thread ended with code ${code}`);
      resolve();
    });
  });
  return {
    // oxlint-disable-next-line unicorn/require-post-message-target-origin -- that is for windows
    send: (request) => worker.postMessage(request),
    // Native work cannot be interrupted within a process, and terminating a thread in the middle of it aborts them all.
    kill: () => undefined,
    gone,
  };
}

interface Pending {
  readonly method: EngineMethod;
  /** The caller's trace. */
  readonly context: Context;
  readonly startMs: number;
  resolve(value: unknown): void;
  reject(error: unknown): void;
}

/** The caller's side of an engine in another thread or process. */
class EngineClient implements Engine {
  readonly ready: Promise<void>;
  readonly ended: Promise<Error | undefined>;
  readonly #channel: Channel;
  readonly #pending = new Map<number, Pending>();
  readonly #ready = Promise.withResolvers<void>();
  readonly #ended = Promise.withResolvers<Error | undefined>();
  #nextId = 0;
  #closing: Promise<void> | undefined;
  #failure: PlumbError | undefined;

  constructor(connect: (events: ChannelEvents) => Channel) {
    this.ready = this.#ready.promise;
    this.ended = this.#ended.promise;
    this.#channel = connect({
      reply: (reply) => {
        this.#onReply(reply);
      },
      exit: (how) => {
        this.#onExit(how);
      },
    });
  }

  load(...args: Parameters<Engine['load']>): Promise<void> {
    return this.#call('load', args) as Promise<void>;
  }

  unload(name: string): Promise<void> {
    return this.#call('unload', [name]) as Promise<void>;
  }

  run(...[name, feeds, outputs, options]: Parameters<Engine['run']>): ReturnType<Engine['run']> {
    return this.#call('run', [name, feeds, outputs], options) as ReturnType<Engine['run']>;
  }

  iterate(
    ...[name, feeds, iteration, options]: Parameters<Engine['iterate']>
  ): ReturnType<Engine['iterate']> {
    return this.#call('iterate', [name, feeds, iteration], options) as ReturnType<Engine['iterate']>;
  }

  openTraining(...args: Parameters<Engine['openTraining']>): Promise<string> {
    return this.#call('openTraining', args) as Promise<string>;
  }

  trainStep(
    ...[id, feeds, scalars, options]: Parameters<Engine['trainStep']>
  ): ReturnType<Engine['trainStep']> {
    return this.#call('trainStep', [id, feeds, scalars], options) as ReturnType<Engine['trainStep']>;
  }

  measureTraining(...args: Parameters<Engine['measureTraining']>): ReturnType<Engine['measureTraining']> {
    return this.#call('measureTraining', args) as ReturnType<Engine['measureTraining']>;
  }

  readTraining(id: string): ReturnType<Engine['readTraining']> {
    return this.#call('readTraining', [id]) as ReturnType<Engine['readTraining']>;
  }

  restoreTraining(...args: Parameters<Engine['restoreTraining']>): Promise<void> {
    return this.#call('restoreTraining', args) as Promise<void>;
  }

  closeTraining(id: string): Promise<void> {
    return this.#call('closeTraining', [id]) as Promise<void>;
  }

  close(): Promise<void> {
    this.#closing ??= this.#closeOnce();
    return this.#closing;
  }

  async #closeOnce(): Promise<void> {
    this.#failure ??= unavailable('the engine is closed; open another', { reason: 'SHUTTING_DOWN' });
    this.#rejectAll(cancelled('the engine was closed before the call had finished'));
    this.#channel.send({ kind: 'close' });
    const timer = setTimeout(() => {
      this.#channel.kill();
    }, CLOSE_DEADLINE_MS);
    await this.#channel.gone;
    clearTimeout(timer);
  }

  #call(method: EngineMethod, args: readonly unknown[], { signal }: CallOptions = {}): Promise<unknown> {
    if (this.#failure !== undefined) return Promise.reject(this.#failure);
    if (signal?.aborted === true) return Promise.reject(cancelled());
    const id = this.#nextId;
    this.#nextId += 1;
    const { promise, resolve, reject } = Promise.withResolvers<unknown>();
    const abort = (): void => {
      this.#pending.delete(id);
      reject(cancelled());
    };
    signal?.addEventListener('abort', abort, { once: true });
    const settle = (): void => signal?.removeEventListener('abort', abort);
    this.#pending.set(id, {
      method,
      context: context.active(),
      startMs: Date.now(),
      resolve: (value) => {
        settle();
        resolve(value);
      },
      reject: (error) => {
        settle();
        reject(error);
      },
    });
    try {
      this.#channel.send({ kind: 'call', id, method, args });
    } catch (error) {
      this.#pending.delete(id);
      settle();
      reject(
        invalidArgument(method, 'was given something that cannot be sent to an engine; give plain data', {
          cause: error,
        }),
      );
    }
    return promise;
  }

  #onReply(reply: HostReply): void {
    if (reply.kind === 'ready') this.#ready.resolve();
    if (reply.kind !== 'result' && reply.kind !== 'error') return;
    // A call that was given up has nobody waiting.
    const pending = this.#pending.get(reply.id);
    this.#pending.delete(reply.id);
    if (reply.kind === 'result') {
      if (pending !== undefined) this.#record(pending, reply);
      pending?.resolve(reply.value);
    } else if (pending !== undefined) {
      const error = fromWireError(reply.error);
      this.#record(pending, { startMs: pending.startMs, endMs: Date.now() }, error);
      pending.reject(error);
    }
  }

  /** The engine has no telemetry of its own: its part of a trace is written here, with the times that it gave. */
  #record(
    { method, context: caller }: Pending,
    { startMs, endMs }: { startMs: number; endMs: number },
    error?: PlumbError,
  ): void {
    if (trace.getSpan(caller) === undefined) return;
    const { span } = startSpan(spans, `engine ${method}`, {
      parent: caller,
      startTime: new Date(startMs),
      attributes: this.#channel.pid === undefined ? {} : { 'process.pid': this.#channel.pid },
    });
    if (error !== undefined) recordError(span, error);
    span.end(new Date(endMs));
  }

  #onExit(how: string): void {
    const deliberate = this.#closing !== undefined;
    this.#failure ??= unavailable(`the engine ${how}; open another`, { reason: 'ENGINE_FAILED' });
    this.#ready.reject(this.#failure);
    this.#rejectAll(this.#failure);
    this.#ended.resolve(deliberate ? undefined : this.#failure);
  }

  #rejectAll(error: PlumbError): void {
    for (const pending of this.#pending.values()) {
      // A crash has no reply; the call that it took along is in the trace all the same.
      this.#record(pending, { startMs: pending.startMs, endMs: Date.now() }, error);
      pending.reject(error);
    }
    this.#pending.clear();
  }
}
