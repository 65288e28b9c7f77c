import { oneMinusSigmoid, labelMargin, negativeLogSigmoid, pairMargin } from './margins.ts';
import type { AlgorithmName, SettingsOf } from './settings.ts';
import { exponential, identity, shaped, threshold } from './weights.ts';
import type { LogWeight } from './weights.ts';
import type { Link } from './margins.ts';

/**
 * One objective, two projections (arXiv 2412.02617).
 *
 * KL-regularised reward maximisation, max over p of E_p[r] - beta KL(p || p_ref), is solved by
 * p*(x0|c) = p_ref(x0|c) exp(r(x0,c)/beta) / Z(c). Offline finetuning samples from p_ref, labels the samples, and
 * projects p* on what the policy can express. The algorithms differ in the projection, in what the label does inside
 * it, and in where the reference holds the policy back:
 *
 * | algorithm      | projection                             | weight or margin                       | anchor       |
 * |----------------|----------------------------------------|----------------------------------------|--------------|
 * | `sft`          | forward EM: mean of w * error          | w = 1                                  | none         |
 * | `filtered-sft` | forward EM                             | w = 1[r >= threshold]                  | none         |
 * | `rwr`          | forward EM                             | w = exp(r / beta), or max(0, r) shaped | in the target|
 * | `dpo`          | reverse BT: mean of -log sigma(margin) | r_policy(chosen) - r_policy(rejected)  | in the margin|
 * | `kto`          | reverse BT: mean of 1 - sigma(margin)  | +-(r_policy - z0) by the label         | in the margin|
 *
 * The code below is this table. A new algorithm is a new row (and its settings in `settings.ts`), not a new trainer.
 * Where a row says `r`, shaping has been applied already; `r_policy` is the implicit reward,
 * beta log(p_policy / p_ref), which for a denoiser is -beta times the difference of squared errors (`losses.ts`).
 */
export const algorithms = {
  sft: {
    projection: 'forward-em',
    items: 'weighted-samples',
    logWeight: () => identity,
    anchor: 'none',
    contrast: 'not-needed',
  },
  'filtered-sft': {
    projection: 'forward-em',
    items: 'weighted-samples',
    logWeight: (settings) => threshold(settings.acceptThreshold),
    anchor: 'none',
    contrast: 'labels',
  },
  rwr: {
    projection: 'forward-em',
    items: 'weighted-samples',
    logWeight: (settings) => (settings.transform === 'exp' ? exponential(settings.temperature) : shaped),
    anchor: 'in-target',
    contrast: 'rewards',
  },
  dpo: {
    projection: 'reverse-bt',
    items: 'pairs',
    margin: pairMargin,
    link: negativeLogSigmoid,
    anchor: 'in-margin',
    contrast: 'pairs',
  },
  kto: {
    projection: 'reverse-bt',
    items: 'labelled-samples',
    margin: labelMargin,
    link: oneMinusSigmoid,
    anchor: 'in-margin',
    contrast: 'labels',
  },
} as const satisfies { [A in AlgorithmName]: ForwardRow<SettingsOf<A>> | PairedRow | UnpairedRow };

/** Forward-EM-projection, KL(p* || policy): a weighted denoising (or likelihood) loss over single samples. */
export interface ForwardRow<Settings> {
  readonly projection: 'forward-em';
  readonly items: 'weighted-samples';
  /** The weight as a function of the shaped reward, in logarithms. */
  readonly logWeight: (settings: Settings) => LogWeight;
  /** `in-target`: p* itself contains p_ref, through the samples and exp(r / beta). `none`: nothing holds the policy. */
  readonly anchor: 'none' | 'in-target';
  readonly contrast: Contrast;
}

/** Reverse-BT-projection on preference pairs: Bradley-Terry likelihood of the implicit rewards. */
export interface PairedRow {
  readonly projection: 'reverse-bt';
  readonly items: 'pairs';
  readonly margin: typeof pairMargin;
  readonly link: Link;
  /** p_ref stands inside the implicit reward. */
  readonly anchor: 'in-margin';
  readonly contrast: Contrast;
}

/** Reverse-BT-projection on single accepted or rejected samples, against a common reference point z0. */
export interface UnpairedRow {
  readonly projection: 'reverse-bt';
  readonly items: 'labelled-samples';
  readonly margin: typeof labelMargin;
  readonly link: Link;
  readonly anchor: 'in-margin';
  readonly contrast: Contrast;
}

/**
 * What must differ between samples for the algorithm to learn anything from feedback: the accept label, the shaped
 * reward, or enough of either within a prompt to form a pair. Without it the data step refuses the data set.
 */
export type Contrast = 'not-needed' | 'labels' | 'rewards' | 'pairs';
