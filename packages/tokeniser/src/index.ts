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
  let unknown: number | undefined;
  try {
    const document = JSON.parse(Buffer.from(json).toString('utf8')) as object;
    tokenizer = new Tokenizer(document, {});
    unknown = unknownOf(document);
  } catch (error) {
    throw dataLoss(`${source} is no tokenizer.json that can be read`, {
      reason: 'MODEL_CORRUPT',
      cause: error,
    });
  }
  return (prompt) => {
    // The library leaves holes for words that a WordLevel model does not have.
    const found: readonly (number | undefined)[] = tokenizer.encode(prompt, { add_special_tokens: true }).ids;
    let ids = found.map((id) => id ?? unknown).filter((id) => id !== undefined);
    if (ids.length < found.length || (unknownId !== undefined && ids.includes(unknownId))) {
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

/** Id of the token that a tokenizer.json names for words outside of its vocabulary. */
function unknownOf(document: object): number | undefined {
  const model: unknown = 'model' in document ? document.model : undefined;
  if (typeof model !== 'object' || model === null || !('unk_token' in model) || !('vocab' in model))
    return undefined;
  const { unk_token: token, vocab } = model;
  if (typeof token !== 'string' || typeof vocab !== 'object' || vocab === null) return undefined;
  const id: unknown = Object.getOwnPropertyDescriptor(vocab, token)?.value;
  return typeof id === 'number' ? id : undefined;
}
