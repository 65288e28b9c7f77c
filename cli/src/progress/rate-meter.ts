/** Rate of something that counts up, over the last while: a resumed stage does not start with its whole past. */
export interface RateMeter {
  /** @param atMs monotonic time in milliseconds */
  observe(done: number, atMs: number): void;
  /** Units a second; undefined until there are two observations of which the later is larger. */
  perSecond(): number | undefined;
}

const windowMs = 20_000;

export function createRateMeter(): RateMeter {
  const seen: { done: number; atMs: number }[] = [];
  return {
    observe(done, atMs) {
      const last = seen.at(-1);
      if (last?.done === done) {
        // The clock starts when something begins to move, not when its row is first shown.
        if (seen.length === 1) last.atMs = atMs;
        return;
      }
      seen.push({ done, atMs });
      while (seen.length > 2 && atMs - (seen[0]?.atMs ?? atMs) > windowMs) seen.shift();
    },
    perSecond() {
      const first = seen[0];
      const last = seen.at(-1);
      if (first === undefined || last === undefined || last.atMs <= first.atMs || last.done <= first.done) {
        return undefined;
      }
      return ((last.done - first.done) / (last.atMs - first.atMs)) * 1000;
    },
  };
}
