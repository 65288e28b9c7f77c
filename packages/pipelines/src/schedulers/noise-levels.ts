/**
 * Noise levels of the schedules that diffusers trains with: alpha-bar, the share of the signal's variance, at every
 * training time step. Computed in double precision; diffusers computes in single.
 */

/** How betas run over the training time steps. */
export type BetaSchedule = 'linear' | 'scaled_linear' | 'squaredcos_cap_v2' | 'sigmoid';

export interface BetaSettings {
  readonly num_train_timesteps: number;
  readonly beta_start: number;
  readonly beta_end: number;
  readonly beta_schedule: BetaSchedule;
  readonly trained_betas?: readonly number[] | null | undefined;
}

/** `count` numbers from `first` to `last`, both included. */
export function linspace(first: number, last: number, count: number): number[] {
  if (count === 1) return [first];
  return Array.from({ length: count }, (_, i) => first + ((last - first) * i) / (count - 1));
}

/** Variance of the noise that each training time step adds. */
export function betas(settings: BetaSettings): number[] {
  const { num_train_timesteps: count, beta_start: start, beta_end: end } = settings;
  if (settings.trained_betas !== undefined && settings.trained_betas !== null)
    return [...settings.trained_betas];
  switch (settings.beta_schedule) {
    case 'linear':
      return linspace(start, end, count);
    case 'scaled_linear':
      return linspace(Math.sqrt(start), Math.sqrt(end), count).map((root) => root * root);
    case 'squaredcos_cap_v2': {
      // Nichol and Dhariwal, arXiv 2102.09672.
      const alphaBar = (t: number): number => Math.cos((((t + 0.008) / 1.008) * Math.PI) / 2) ** 2;
      return Array.from({ length: count }, (_, i) =>
        Math.min(1 - alphaBar((i + 1) / count) / alphaBar(i / count), 0.999),
      );
    }
    case 'sigmoid':
      return linspace(-6, 6, count).map((x) => (end - start) / (1 + Math.exp(-x)) + start);
  }
}

/** Running product of 1 - beta. */
export function alphaBars(settings: BetaSettings): number[] {
  let product = 1;
  return betas(settings).map((beta) => (product *= 1 - beta));
}

/** Alpha-bars moved and stretched so that the last step is pure noise (Lin et al., arXiv 2305.08891). */
export function withZeroTerminalSnr(bars: readonly number[]): number[] {
  const roots = bars.map(Math.sqrt);
  const first = roots[0] ?? 0;
  const last = roots.at(-1) ?? 0;
  return roots.map((root) => (((root - last) * first) / (first - last)) ** 2);
}

/** Spacing of the sampling steps over the training time steps. */
export type TimestepSpacing = 'leading' | 'trailing' | 'linspace';

/** Half-way cases go to the even neighbour, as numpy rounds. */
export function roundHalfEven(x: number): number {
  const floor = Math.floor(x);
  const rest = x - floor;
  if (rest !== 0.5) return Math.round(x);
  return floor % 2 === 0 ? floor : floor + 1;
}

/**
 * Descending training time steps of a sampler that ends in the step after its last one (DDIM, DDPM).
 * @param offset added where spacing is `leading`
 */
export function closedTimesteps(
  spacing: TimestepSpacing,
  training: number,
  steps: number,
  offset: number,
): number[] {
  switch (spacing) {
    case 'linspace':
      return linspace(0, training - 1, steps)
        .map(roundHalfEven)
        .toReversed();
    case 'leading': {
      const ratio = Math.floor(training / steps);
      return Array.from({ length: steps }, (_, i) => i * ratio + offset).toReversed();
    }
    case 'trailing':
      return Array.from({ length: steps }, (_, i) => roundHalfEven(training - (i * training) / steps) - 1);
  }
}

/**
 * Descending training time steps of a multistep solver, which has one noise level more than steps.
 * @param last number of the training time steps that are used, all of them unless the noisiest are left out
 */
export function openTimesteps(
  spacing: TimestepSpacing,
  training: number,
  steps: number,
  offset: number,
): number[] {
  switch (spacing) {
    case 'linspace':
      return linspace(0, training - 1, steps + 1)
        .map(roundHalfEven)
        .toReversed()
        .slice(0, -1);
    case 'leading': {
      const ratio = Math.floor(training / (steps + 1));
      return Array.from({ length: steps + 1 }, (_, i) => i * ratio)
        .toReversed()
        .slice(0, -1)
        .map((step) => step + offset);
    }
    case 'trailing':
      return closedTimesteps('trailing', training, steps, offset);
  }
}

/** Value of a table between its entries. */
export function interpolate(table: readonly number[], at: number): number {
  const low = Math.min(Math.max(Math.floor(at), 0), table.length - 1);
  const high = Math.min(low + 1, table.length - 1);
  const a = table[low] ?? 0;
  return a + (at - low) * ((table[high] ?? 0) - a);
}

/** Noise levels spaced after Karras et al., arXiv 2206.00364, with rho 7; both ends are kept. */
export function karrasSigmas(largest: number, smallest: number, steps: number): number[] {
  const rho = 7;
  return linspace(largest ** (1 / rho), smallest ** (1 / rho), steps).map((root) => root ** rho);
}

/** Noise levels spaced evenly in their logarithm; both ends are kept. */
export function exponentialSigmas(largest: number, smallest: number, steps: number): number[] {
  return linspace(Math.log(largest), Math.log(smallest), steps).map(Math.exp);
}

/** Place of a noise level in the ascending table of the training time steps' levels, between its entries. */
export function timestepOfSigma(sigma: number, sigmas: readonly number[]): number {
  const wanted = Math.log(Math.max(sigma, 1e-10));
  let low = 0;
  while (low < sigmas.length - 2 && Math.log(sigmas[low + 1] ?? 0) <= wanted) low += 1;
  const below = Math.log(sigmas[low] ?? 0);
  const above = Math.log(sigmas[low + 1] ?? 0);
  const share = Math.min(Math.max((below - wanted) / (below - above), 0), 1);
  return (1 - share) * low + share * (low + 1);
}
