import type { Report, Run } from '@plumb/proto/plumb/loop/v1/loop_pb.js';
import { failedPrecondition } from '@plumb/kit/errors';
import type { Acceptance, DifferenceInterval, RateInterval } from '@plumb/charts';

/** The object that `plumb demo --json` prints. */
export interface DemoResult {
  readonly acceptance: Acceptance;
  readonly samples: number;
  readonly judged: number;
  readonly errors: number;
  readonly promoted: boolean;
  /** Path of report.html. */
  readonly report: string;
  readonly seconds: number;
  /** Only with --control. */
  readonly control?: {
    readonly acceptance: Acceptance;
    readonly samples: number;
    readonly judged: number;
    readonly errors: number;
  };
}

/** The acceptance of a run's last iteration. */
export function acceptanceOf(report: Report): Acceptance {
  const iteration = lastIteration(report);
  const rates = (of: Readonly<Record<string, RateInterval>>): Record<string, RateInterval> =>
    Object.fromEntries(ordered(of).map(([key, { rate, low, high }]) => [key, { rate, low, high }]));
  const difference: Record<string, DifferenceInterval> = Object.fromEntries(
    ordered(iteration.difference).map(([key, { mean, low, high }]) => [key, { mean, low, high }]),
  );
  return { before: rates(iteration.before), after: rates(iteration.after), difference };
}

/**
 * The last iteration that is evaluated.
 * @throws PlumbError FAILED_PRECONDITION if none is
 */
export function lastIteration({ runId, iterations }: Report): Report['iterations'][number] {
  const iteration = iterations.findLast(({ after }) => after['overall'] !== undefined);
  if (iteration === undefined) {
    throw failedPrecondition(`no iteration of run ${runId} is evaluated yet; wait for \`./plumb run watch\``);
  }
  return iteration;
}

/** Counts of a run as plain numbers. */
export function countsOf(run: Run): { samples: number; judged: number; errors: number } {
  return {
    samples: Number(run.counts?.planned ?? 0n),
    judged: Number(run.counts?.scored ?? 0n),
    errors: Number(run.counts?.errors ?? 0n),
  };
}

const order = ['overall', 'OR', 'MO', 'DO', 'DM', 'FD'];

function ordered<Value>(of: Readonly<Record<string, Value>>): [string, Value][] {
  const position = (key: string): number => (order.includes(key) ? order.indexOf(key) : order.length);
  return Object.entries(of).toSorted(([a], [b]) => position(a) - position(b));
}
