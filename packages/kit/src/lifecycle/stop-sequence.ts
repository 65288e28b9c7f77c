import { PlumbError } from '../errors/plumb-error.ts';
import { deadlineExceeded } from '../errors/shorthand.ts';

type StopFunction = () => Promise<void> | void;

interface Step {
  readonly name: string;
  readonly stop: StopFunction;
  readonly deadlineMs: number;
}

/** What one step of stopping came to; no error when it went well. */
export interface StopResult {
  readonly name: string;
  readonly ms: number;
  readonly error?: PlumbError;
}

/** What was started, to be stopped in the reverse order. One that fails or is late does not keep the others. */
export class StopSequence {
  readonly #steps: Step[] = [];

  add(name: string, stop: StopFunction, deadlineMs: number): void {
    this.#steps.push({ name, stop, deadlineMs });
  }

  /** Stops everything, one after the other. Steps added meanwhile are stopped too. Never rejects. */
  async run(onResult: (result: StopResult) => void): Promise<boolean> {
    let allWell = true;
    for (let step = this.#steps.pop(); step !== undefined; step = this.#steps.pop()) {
      const startedMs = performance.now();
      const error = await runStep(step);
      const ms = Math.round(performance.now() - startedMs);
      if (error !== undefined) allWell = false;
      onResult({ name: step.name, ms, ...(error === undefined ? {} : { error }) });
    }
    return allWell;
  }
}

async function runStep({ name, stop, deadlineMs }: Step): Promise<PlumbError | undefined> {
  const late = Promise.withResolvers<never>();
  const timer = setTimeout(() => {
    late.reject(deadlineExceeded(`'${name}' did not stop within ${deadlineMs} ms`));
  }, deadlineMs);
  try {
    await Promise.race([stop(), late.promise]);
    return undefined;
  } catch (error) {
    return PlumbError.from(error);
  } finally {
    clearTimeout(timer);
  }
}
