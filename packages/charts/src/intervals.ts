/** A share from 0 to 1 with its 95% interval. */
export interface RateInterval {
  readonly rate: number;
  readonly low: number;
  readonly high: number;
}

/** A paired difference of shares, -1 to 1, with its 95% interval. */
export interface DifferenceInterval {
  readonly mean: number;
  readonly low: number;
  readonly high: number;
}

/** Rates on held-out prompts, keyed by category id and 'overall'. */
export interface Acceptance {
  readonly before: Readonly<Record<string, RateInterval>>;
  readonly after: Readonly<Record<string, RateInterval>>;
  readonly difference: Readonly<Record<string, DifferenceInterval>>;
}

/** A category of prompts, by the key of its rates, for example MO. */
export interface NamedCategory {
  readonly id: string;
  readonly name: string;
}

/** The categories of interaction (arXiv 2412.02617), in the paper's order. */
export const categories: readonly NamedCategory[] = [
  { id: 'OR', name: 'Object removal' },
  { id: 'MO', name: 'Multiple objects' },
  { id: 'DO', name: 'Deformable object' },
  { id: 'DM', name: 'Directional movement' },
  { id: 'FD', name: 'Falling down' },
];

/** One measured step of a training job. */
export interface TrainingPoint {
  readonly step: number;
  readonly loss: number;
  /** Mean squared distance of policy and reference predictions, where measured. */
  readonly anchorDistance?: number | undefined;
}
