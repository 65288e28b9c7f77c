/**
 * A bell that a loop waits for: `ring()` ends the current wait, or the next one when nobody is waiting. Any number of rings
 * between two waits are one.
 */
export class Wakeup {
  #rung = false;
  #awake: (() => void) | undefined;

  ring(): void {
    this.#rung = true;
    this.#awake?.();
  }

  /** Resolves at the ring, after `ms` milliseconds, or when the signal aborts: whichever is first. Never rejects. */
  async wait(ms: number, signal: AbortSignal): Promise<void> {
    if (this.#rung || signal.aborted) {
      this.#rung = false;
      return;
    }
    await new Promise<void>((resolve) => {
      const timer = setTimeout(end, ms);
      signal.addEventListener('abort', end, { once: true });
      this.#awake = end;
      function end(): void {
        clearTimeout(timer);
        signal.removeEventListener('abort', end);
        resolve();
      }
    });
    this.#awake = undefined;
    this.#rung = false;
  }
}
