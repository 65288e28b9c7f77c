import { PlumbError } from '@plumb/kit/errors';
import type { EngineMethod } from './engine.ts';
import type { WireError } from './error-wire.ts';
import { toWireError } from './error-wire.ts';
import { openInThread } from './in-thread.ts';
import type { SessionOptions } from './session.ts';

/** A call, or the wish to end. */
export type HostRequest =
  | {
      readonly kind: 'call';
      readonly id: number;
      readonly method: EngineMethod;
      readonly args: readonly unknown[];
    }
  | { readonly kind: 'close' };

/** Answers of the host. `ready` comes once, first. */
export type HostReply =
  | { readonly kind: 'ready' }
  | {
      readonly kind: 'result';
      readonly id: number;
      readonly value: unknown;
      /** When the engine began and ended the call, in milliseconds since 1970. */
      readonly startMs: number;
      readonly endMs: number;
    }
  | { readonly kind: 'error'; readonly id: number; readonly error: WireError }
  | { readonly kind: 'closed' };

/** How a host answers: `transfer` lists memory that may change hands instead of being copied. */
export type Post = (reply: HostReply, transfer: readonly ArrayBuffer[]) => void;

/**
 * An engine behind a channel of messages. Calls are worked on in the order in which they came, one at a time: the
 * runtime uses all threads for one call anyway, and memory stays that of one call.
 */
export function hostEngine(options: SessionOptions, post: Post): (request: HostRequest) => Promise<void> {
  const engine = openInThread(options);
  let tail: Promise<void> = Promise.resolve();
  let closing = false;
  const call = async (request: Extract<HostRequest, { kind: 'call' }>): Promise<void> => {
    // Their callers have been told already.
    if (closing) return;
    try {
      const method = engine[request.method] as (...args: readonly unknown[]) => Promise<unknown>;
      const startMs = epochMs();
      const value = await method.apply(engine, [...request.args]);
      post({ kind: 'result', id: request.id, value, startMs, endMs: epochMs() }, buffersOf(value));
    } catch (error) {
      post({ kind: 'error', id: request.id, error: toWireError(PlumbError.from(error)) }, []);
    }
  };
  return async (request) => {
    if (request.kind === 'call') {
      tail = tail.then(() => call(request));
      return tail;
    }
    closing = true;
    await tail;
    await engine.close();
    post({ kind: 'closed' }, []);
  };
}

function epochMs(): number {
  return performance.timeOrigin + performance.now();
}

/** The memory of all typed arrays in a result. Results are fresh, so their memory can be given away. */
function buffersOf(value: unknown, found: Set<ArrayBuffer> = new Set()): ArrayBuffer[] {
  if (ArrayBuffer.isView(value)) {
    if (value.buffer instanceof ArrayBuffer) found.add(value.buffer);
  } else if (typeof value === 'object' && value !== null) {
    for (const item of Object.values(value)) buffersOf(item, found);
  }
  return [...found];
}
