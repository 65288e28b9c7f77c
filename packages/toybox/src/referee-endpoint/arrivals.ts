import { z } from 'zod';

const arrivalSchema = z.object({
  /** When the call came, in milliseconds since the epoch. */
  at: z.number(),
  /** SHA-256 of the first picture's bytes: tells whose call it was. */
  picture: z.string(),
  /** Tokens that it is billed for: what it asked and, if it was answered, the answer. */
  tokens: z.int(),
});

/** One call as the endpoint saw it. */
export type Arrival = z.output<typeof arrivalSchema>;

/**
 * The log of calls that a referee endpoint keeps, for checks of what its clients promise.
 *
 * @param address host and port of the endpoint
 */
export async function arrivalsAt(address: string): Promise<Arrival[]> {
  const response = await fetch(`http://${address}/arrivals`);
  return z.array(arrivalSchema).parse(await response.json());
}

/**
 * The most that arrived in any window of this length, wherever it begins.
 *
 * @param windowMs length in milliseconds, its end not included
 * @param weight of one arrival; 1 counts them
 */
export function mostWithin(
  arrivals: readonly Arrival[],
  windowMs: number,
  weight: (arrival: Arrival) => number = () => 1,
): number {
  const ordered = arrivals.toSorted((a, b) => a.at - b.at);
  let most = 0;
  let sum = 0;
  let oldest = 0;
  for (const arrival of ordered) {
    sum += weight(arrival);
    for (let first = ordered[oldest]; first !== undefined && first.at <= arrival.at - windowMs;) {
      sum -= weight(first);
      oldest += 1;
      first = ordered[oldest];
    }
    most = Math.max(most, sum);
  }
  return most;
}
