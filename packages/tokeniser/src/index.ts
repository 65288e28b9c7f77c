/** Prompts as tokens, by a model's own tokenizer.json. */

import { Tokenizer } from '@huggingface/tokenizers';
import { dataLoss, invalidArgument } from '@plumb/kit/errors';

/** How a prompt is fitted into what a text encoder takes. */
export interface TokeniserSettings {
  /** Tokens at most; of a longer prompt the beginning and the end token are kept. */
  readonly maxLength: number;
  /** Id that shorter prompts are filled up with; not filled up unless given. */
  readonly padId?: number | undefined;
  /** Id that stands for words outside of the vocabulary, when those are an error. */
  readonly unknownId?: number | undefined;
}

/** Token ids of a prompt, and which of them are no padding. */
export interface Tokens {
  readonly ids: readonly number[];
  /** 1 for a token and 0 for padding. */
  readonly mask: readonly number[];
}

/**
 * A tokeniser of prompts.
 *
 * @param json bytes of the tokenizer.json; `source` says what it is, for errors
 * @throws PlumbError DATA_LOSS, reason MODEL_CORRUPT, when it cannot be read
 */
export function openTokeniser(
  json: Uint8Array,
  source: string,
  { maxLength, padId, unknownId }: TokeniserSettings,
): (prompt: string) => Tokens {
  let tokenizer: Tokenizer;
  try {
    tokenizer = new Tokenizer(JSON.parse(Buffer.from(json).toString('utf8')) as object, {});
  } catch (error) {
    throw dataLoss(`${source} is no tokenizer.json that can be read`, {
      reason: 'MODEL_CORRUPT',
      cause: error,
    });
  }
  return (prompt) => {
    let { ids } = tokenizer.encode(prompt, { add_special_tokens: true });
    if (unknownId !== undefined && ids.includes(unknownId)) {
      throw invalidArgument(
        'prompt.text',
        `"${prompt.slice(0, 200)}" has a word that the model does not know; use the words that it was trained on`,
        { reason: 'PROMPT_UNKNOWN_WORD' },
      );
    }
    // The end token stays: CLIP's text embedding is taken there.
    if (ids.length > maxLength) ids = [...ids.slice(0, maxLength - 1), ...ids.slice(-1)];
    const padding = padId === undefined ? 0 : maxLength - ids.length;
    return {
      ids: [...ids, ...Array.from({ length: padding }, () => padId ?? 0)],
      mask: [...ids.map(() => 1), ...Array.from({ length: padding }, () => 0)],
    };
  };
}
