import { invalidArgument } from '@plumb/kit/errors';
import type { VideoModelConfig } from './config.ts';

/**
 * Tokens of a caption: one a word, in order, padded with 0 to `caption.maxWords`. The empty caption (all 0) is the
 * unconditional one of classifier-free guidance.
 * @returns int32 [maxWords]
 * @throws PlumbError INVALID_ARGUMENT naming the unknown word, or a caption that is too long
 */
export function tokenise(config: VideoModelConfig, caption: string): Int32Array {
  const { vocabulary, maxWords } = config.caption;
  const words = caption.toLowerCase().match(/[\p{L}\p{N}]+/gu) ?? [];
  if (words.length > maxWords) {
    throw invalidArgument(
      'prompt.text',
      `"${caption}" has ${words.length} words; model ${config.name} takes at most ${maxWords}`,
    );
  }
  const tokens = new Int32Array(maxWords);
  words.forEach((word, position) => {
    const index = vocabulary.indexOf(word);
    if (index < 0) {
      throw invalidArgument(
        'prompt.text',
        `"${caption}" has the word "${word}", which model ${config.name} does not know; its words are: ${vocabulary.join(' ')}`,
        { reason: 'PROMPT_UNKNOWN_WORD' },
      );
    }
    tokens[position] = index + 1;
  });
  return tokens;
}
