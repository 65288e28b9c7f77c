import { ledgerError } from './database-error.ts';

/** The same handlers, whose promises and streams fail with a PlumbError where a database's own error would leave them. */
export function withLedgerErrors<Handlers extends object>(handlers: Handlers): Handlers {
  return new Proxy(handlers, {
    get(target, name, receiver): unknown {
      const handler: unknown = Reflect.get(target, name, receiver);
      if (typeof handler !== 'function') return handler;
      return (...input: unknown[]): unknown => {
        const output: unknown = Reflect.apply(handler, target, input);
        if (isStream(output)) return translated(output);
        if (!(output instanceof Promise)) return output;
        return output.catch((thrown: unknown) => {
          throw ledgerError(thrown);
        });
      };
    },
  });
}

function isStream(output: unknown): output is AsyncIterable<unknown> {
  return typeof output === 'object' && output !== null && Symbol.asyncIterator in output;
}

async function* translated(stream: AsyncIterable<unknown>): AsyncGenerator {
  try {
    yield* stream;
  } catch (thrown) {
    throw ledgerError(thrown);
  }
}
