/** How many units (requests or tokens) may go out in a minute. */

const minuteMs = 60_000;
// What goes out in one minute may arrive in another: calls that travel for up to a second longer than others still find the
// limit kept where they arrive. It costs a sixtieth of the rate.
const travelMs = 1000;

/** A limit on what goes out. */
export interface RateWindow {
  /** Milliseconds until `units` may go out; 0 is now. */
  wait(units: number): number;
  /** Counts units that go out now. */
  take(units: number): void;
  /** Adds units to what was just taken, which turned out to be more. */
  correct(more: number): void;
}

/**
 * A sliding window: in no minute and one second, wherever it begins, more than `perMinute` units go out, so that in no
 * minute more than those arrive. Limits of 600 and more are kept
 * in every second, so that a full minute does not go out at once and the endpoint (which may look at shorter times than
 * minutes) sees an even stream.
 *
 * @param perMinute Units a minute, 1 or more. One request of more units than that goes out alone, after an empty window.
 * @param now Clock in milliseconds.
 * @param smooth False keeps the limit over whole minutes only: for tokens, of which one request takes many.
 */
export function createRateWindow(perMinute: number, now: () => number, smooth = true): RateWindow {
  const parts = smooth && perMinute >= 600 ? 60 : 1;
  const limit = Math.floor(perMinute / parts);
  const windowMs = (minuteMs + travelMs) / parts;
  let taken: { at: number; units: number }[] = [];
  let used = 0;

  function forget(): void {
    const end = now() - windowMs;
    let old = 0;
    for (const entry of taken) {
      if (entry.at > end) break;
      used -= entry.units;
      old += 1;
    }
    if (old > 0) taken = taken.slice(old);
  }

  return {
    wait(units) {
      forget();
      const wanted = Math.min(units, limit);
      let over = used + wanted - limit;
      for (const entry of taken) {
        if (over <= 0) break;
        over -= entry.units;
        if (over <= 0) return Math.max(0.1, entry.at + windowMs - now());
      }
      return 0;
    },
    take(units) {
      taken.push({ at: now(), units });
      used += units;
    },
    correct(more) {
      // On the newest entry: it leaves the window last, so the limit errs to the safe side.
      const last = taken.at(-1);
      if (last === undefined || more <= 0) return;
      last.units += more;
      used += more;
    },
  };
}
