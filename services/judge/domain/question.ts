/** The question that is put to an endpoint: trusted system text, and a user message with caption and frames. */

import { delimitCaption } from './untrusted-text.ts';
import { systemText } from './rubric.ts';
import type { Category } from './rubric.ts';
import { answerJsonSchema } from './answer.ts';
import type { Judge } from './judge-definition.ts';

/** One frame as it is sent. */
export interface EncodedFrame {
  readonly mediaType: 'image/png';
  readonly bytes: Uint8Array;
}

/** A part of the user message. */
export type QuestionPart =
  { readonly kind: 'text'; readonly text: string } | { readonly kind: 'image'; readonly image: EncodedFrame };

/** Everything that one call sends. */
export interface Question {
  readonly model: string;
  /** Trusted: from the rubric only. */
  readonly system: string;
  /** Untrusted content stands here and nowhere else. */
  readonly parts: readonly QuestionPart[];
  /** Shape of the answer; undefined where the endpoint is not told. */
  readonly answer:
    | { readonly kind: 'json-schema'; readonly schema: Record<string, unknown> }
    | { readonly kind: 'json-object' }
    | undefined;
  readonly temperature: number | undefined;
  readonly seed: number | undefined;
  readonly maxOutputTokens: number;
  readonly tokenLimitParameter: 'max_completion_tokens' | 'max_tokens';
  readonly logProbabilities: boolean;
}

/** What the clips were asked to show. */
export interface Prompt {
  readonly text: string;
  readonly category: Category | undefined;
}

/**
 * The question about one clip (modes binary and grade) or two (mode compare).
 *
 * @param clips Frames of each clip, in their order in time.
 */
export function askAbout(
  judge: Judge,
  prompt: Prompt,
  clips: readonly (readonly EncodedFrame[])[],
): Question {
  const { definition, rubric } = judge;
  const parts: QuestionPart[] = [{ kind: 'text', text: `Caption: ${delimitCaption(prompt.text)}` }];
  for (const [index, frames] of clips.entries()) {
    const name = clips.length === 1 ? 'The video' : `Clip ${index === 0 ? 'A' : 'B'}`;
    parts.push({ kind: 'text', text: `${name}: ${frames.length} frames in their order in time.` });
    for (const image of frames) parts.push({ kind: 'image', image });
  }
  return {
    model: definition.model,
    system: systemText(rubric, definition.mode, prompt.category),
    parts,
    answer: answerShape(judge),
    temperature: definition.sampling.temperature,
    seed: definition.sampling.seed,
    maxOutputTokens: definition.sampling.maxOutputTokens,
    tokenLimitParameter: definition.sampling.tokenLimitParameter,
    logProbabilities: definition.sampling.logProbabilities,
  };
}

function answerShape({ definition, rubric }: Judge): Question['answer'] {
  const kind = definition.structuredOutput;
  if (kind === 'none') return undefined;
  if (kind === 'json-object') return { kind };
  return { kind, schema: answerJsonSchema(definition.mode, rubric) };
}
