/** The one interface of every reward that looks at pixels. */

import type { PlumbError } from '@plumb/kit/errors';
import type { Clip } from '@plumb/media';
import type { RewardDefinition } from './definition.ts';

/** One clip to score, decoded. */
export interface RewardInput {
  readonly clip: Clip;
  readonly prompt: string;
}

/** A raw value; shaping is the trainer's business. */
export interface RewardValue {
  readonly value: number;
  /** Finer numbers beside the value, by names of the kind. */
  readonly details?: Readonly<Record<string, number>>;
}

/** A value or a typed error; never a value that stands for an error. */
export type RewardResult = { readonly score: RewardValue } | { readonly error: PlumbError };

/** What scores: built from a definition, in whatever thread. */
export interface RewardModule {
  /**
   * Scores a batch of any size: one result for each input, in their order. A value does not depend on what else is in
   * the batch, to the last bit.
   *
   * @throws PlumbError for what concerns all inputs, such as an engine that is gone
   */
  score(inputs: readonly RewardInput[]): Promise<readonly RewardResult[]>;
  close(): Promise<void>;
}

/** A loaded reward, off the caller's thread, that has given its golden clips their recorded values. */
export interface Reward extends RewardModule {
  readonly definition: RewardDefinition;
  /** SHA-256 over the definition in canonical form. */
  readonly definitionHash: string;
  /** SHA-256 over everything that a value depends on besides clip and prompt: definition without golden clips. */
  readonly weightsHash: string;
  /** Resolves when the reward has ended: with the error that ended it, or undefined after `close`. */
  readonly ended: Promise<PlumbError | undefined>;
}
