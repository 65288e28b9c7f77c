/** The question that is put to an endpoint: trusted system text, and a user message with caption and frames. */

import { delimitCaption } from './untrusted-text.ts';
import { systemText } from './rubric.ts';
import type { Category, Rubric } from './rubric.ts';
import { answerJsonSchema } from './answer.ts';
import { rubricFor } from './judge-definition.ts';
import type { Judge, JudgeDefinition } from './judge-definition.ts';

/** One picture as it is sent: a frame, or several in a grid. */
export interface EncodedPicture {
  readonly mediaType: 'image/png' | 'image/jpeg' | 'image/webp';
  readonly bytes: Uint8Array;
  /** Pixels. */
  readonly width: number;
  readonly height: number;
}

/** A part of the user message. */
export type QuestionPart =
  | { readonly kind: 'text'; readonly text: string }
  | { readonly kind: 'image'; readonly image: EncodedPicture };

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

/** What is seen of a clip. */
export interface ClipPictures {
  /** Pictures, in their order in time. */
  readonly pictures: readonly EncodedPicture[];
  /** Frames in them. */
  readonly frames: number;
  /** Set if all frames stand in one picture. */
  readonly grid?: { readonly columns: number; readonly rows: number };
}

/**
 * The question about one clip (modes binary and grade) or two (mode compare).
 *
 * @param vote Number of the answer, from 0: each gets its own seed.
 */
export function askAbout(judge: Judge, prompt: Prompt, clips: readonly ClipPictures[], vote = 0): Question {
  const { definition } = judge;
  const rubric = rubricFor(judge, prompt.category);
  const parts: QuestionPart[] = [{ kind: 'text', text: `Caption: ${delimitCaption(prompt.text)}` }];
  for (const [index, { frames, pictures, grid }] of clips.entries()) {
    const name = clips.length === 1 ? 'The video' : `Clip ${index === 0 ? 'A' : 'B'}`;
    const order = 'in their order in time';
    const text =
      grid === undefined
        ? `${name}: ${frames} frames ${order}.`
        : `${name}: ${frames} frames in one picture of ${grid.columns} columns and ${grid.rows} rows, ${order} from left to right and from top to bottom.`;
    parts.push({ kind: 'text', text });
    for (const image of pictures) parts.push({ kind: 'image', image });
  }
  return {
    model: definition.model,
    system: systemText(rubric, definition.mode, prompt.category),
    parts,
    answer: answerShape(definition, rubric),
    temperature: definition.sampling.temperature,
    seed: definition.sampling.seed === undefined ? undefined : definition.sampling.seed + vote,
    maxOutputTokens: definition.sampling.maxOutputTokens,
    tokenLimitParameter: definition.sampling.tokenLimitParameter,
    logProbabilities: definition.sampling.logProbabilities,
  };
}

// Votes of one verdict have seeds beside each other, 25 at most.
const seedStride = 1000;

/** The same question with another seed, after an answer that cannot be used: the same seed may give the same answer. */
export function askedAgain(question: Question): Question {
  return question.seed === undefined ? question : { ...question, seed: question.seed + seedStride };
}

function answerShape(definition: JudgeDefinition, rubric: Rubric): Question['answer'] {
  const kind = definition.structuredOutput;
  if (kind === 'none') return undefined;
  if (kind === 'json-object') return { kind };
  return { kind, schema: answerJsonSchema(definition.mode, rubric) };
}
