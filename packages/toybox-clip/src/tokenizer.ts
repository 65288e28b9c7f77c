/** Tokens of captions: one a word. The same table is written as a tokenizer.json, by which services tokenise. */

import { vocabulary } from '@plumb/toybox';

/** Tokens that are no words, in the order of their ids. */
const special = ['[PAD]', '[UNK]', '[CLS]', '[SEP]'] as const;

/** Id of padding, and of a word outside of the vocabulary, which a service refuses. */
export const padId = 0;
export const unknownId = 1;
const beginId = 2;
const endId = 3;

/** Ids that there are. */
export const vocabularySize = special.length + vocabulary.length;

/** Ids of a caption of the toybox, begin and end included, filled up to `length` with padding. */
export function captionTokens(caption: string, length: number): Int32Array {
  const words = caption.split(' ').map((word) => {
    const index = vocabulary.indexOf(word);
    return index < 0 ? unknownId : special.length + index;
  });
  const tokens = new Int32Array(length).fill(padId);
  tokens.set([beginId, ...words, endId]);
  return tokens;
}

/** The tokenizer.json (Hugging Face tokenizers) that does the same: lower case, one token a word, begin and end. */
export function tokenizerJson(): string {
  const vocab = Object.fromEntries([...special, ...vocabulary].map((token, id) => [token, id]));
  const named = (token: string, id: number) => ({ id: token, ids: [id], tokens: [token] });
  const json = {
    version: '1.0',
    truncation: null,
    padding: null,
    added_tokens: special.map((content, id) => ({
      id,
      content,
      single_word: false,
      lstrip: false,
      rstrip: false,
      normalized: false,
      special: true,
    })),
    normalizer: { type: 'Lowercase' },
    pre_tokenizer: { type: 'BertPreTokenizer' },
    post_processor: {
      type: 'TemplateProcessing',
      single: [
        { SpecialToken: { id: '[CLS]', type_id: 0 } },
        { Sequence: { id: 'A', type_id: 0 } },
        { SpecialToken: { id: '[SEP]', type_id: 0 } },
      ],
      pair: [
        { SpecialToken: { id: '[CLS]', type_id: 0 } },
        { Sequence: { id: 'A', type_id: 0 } },
        { SpecialToken: { id: '[SEP]', type_id: 0 } },
        { Sequence: { id: 'B', type_id: 1 } },
        { SpecialToken: { id: '[SEP]', type_id: 1 } },
      ],
      special_tokens: { '[CLS]': named('[CLS]', beginId), '[SEP]': named('[SEP]', endId) },
    },
    decoder: { type: 'WordPiece', prefix: '##', cleanup: true },
    model: {
      type: 'WordPiece',
      unk_token: '[UNK]',
      // No word is cut: the prefix occurs in no token, so a word is in the table or unknown.
      continuing_subword_prefix: '##',
      max_input_chars_per_word: 100,
      vocab,
    },
  };
  return `${JSON.stringify(json, undefined, 1)}\n`;
}
