/** A point estimate with its interval. */
export interface Estimate {
  readonly value: number;
  readonly lower: number;
  readonly upper: number;
  /** Nominal coverage of [lower, upper], such as 0.95. */
  readonly level: number;
  /**
   * `cluster-bootstrap` resamples prompts. `wilson` treats its trials as independent; of a clustered rate it stands where
   * every prompt agrees (all 0 or all 1), in which case resampling says nothing and prompts are the trials.
   */
  readonly method: 'cluster-bootstrap' | 'wilson';
  /** Independent units behind the interval: prompts, or trials. */
  readonly clusters: number;
  readonly samples: number;
}
