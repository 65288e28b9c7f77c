/** Identical work that is asked for at the same time is done once. */

interface Flight<T> {
  readonly promise: Promise<T>;
  readonly controller: AbortController;
  waiting: number;
}

/** Runs work once for each key that is in flight; every caller gets its result. */
export interface SingleFlight<T> {
  /**
   * @param signal Lets this caller leave; the work goes on for the others and is aborted when the last one has left.
   * @throws the signal's reason, or what the work throws.
   */
  run(key: string, signal: AbortSignal, work: (signal: AbortSignal) => Promise<T>): Promise<T>;
}

/** A new group of flights. */
export function createSingleFlight<T>(): SingleFlight<T> {
  const flights = new Map<string, Flight<T>>();

  function start(key: string, work: (signal: AbortSignal) => Promise<T>): Flight<T> {
    const controller = new AbortController();
    const promise = work(controller.signal).finally(() => {
      if (flights.get(key) === flight) flights.delete(key);
    });
    const flight: Flight<T> = { promise, controller, waiting: 0 };
    // Whoever waits gets the error; if nobody is left, it must not count as unhandled.
    promise.catch(() => undefined);
    flights.set(key, flight);
    return flight;
  }

  return {
    async run(key, signal, work) {
      signal.throwIfAborted();
      const flight = flights.get(key) ?? start(key, work);
      flight.waiting += 1;
      const left = Promise.withResolvers<never>();
      const leave = (): void => left.reject(signal.reason);
      signal.addEventListener('abort', leave, { once: true });
      try {
        return await Promise.race([flight.promise, left.promise]);
      } finally {
        signal.removeEventListener('abort', leave);
        flight.waiting -= 1;
        // Work that has ended is not there any more: an abort would only cost its listeners time.
        if (flight.waiting === 0 && flights.get(key) === flight) {
          // A later caller with the same key must not join work that is being aborted.
          flights.delete(key);
          flight.controller.abort(signal.reason);
        }
      }
    },
  };
}
