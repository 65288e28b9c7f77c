/** What a call will take, before it is made. */

import type { JudgeDefinition } from './judge-definition.ts';
import type { Question } from './question.ts';

/** Tokens of one call. */
export interface Tokens {
  readonly input: number;
  readonly output: number;
}

// English takes about four characters a token; captions with rare words take more, which the margin is for.
const charactersPerToken = 3.5;

/**
 * Upper estimate of what a call takes: the text, `perPicture + pixels / pixelsPerToken` for every picture, and as many
 * output tokens as the judge allows.
 */
export function estimateTokens(question: Question, { image, sampling }: JudgeDefinition): Tokens {
  const { perPicture, pixelsPerToken } = image.tokens;
  let characters = question.system.length;
  if (question.answer?.kind === 'json-schema') characters += JSON.stringify(question.answer.schema).length;
  let input = 0;
  for (const part of question.parts) {
    if (part.kind === 'text') characters += part.text.length;
    else {
      const pixels = part.image.width * part.image.height;
      input += perPicture + (pixelsPerToken === undefined ? 0 : pixels / pixelsPerToken);
    }
  }
  return { input: Math.ceil(input + characters / charactersPerToken), output: sampling.maxOutputTokens };
}

/** What tokens cost by a judge's price list; 0 for a judge without one. */
export function costOf({ input, output }: Tokens, price: JudgeDefinition['price']): number {
  if (price === undefined) return 0;
  return (input * price.inputPerMillionTokens + output * price.outputPerMillionTokens) / 1e6;
}
