/** What an endpoint may answer, as a JSON schema to send and as a strict parser for what comes back. */

import { z } from 'zod';
import type { JudgeMode, Rubric } from './rubric.ts';

/** Longest reason that is kept, in characters; the rest is cut, as it is for people only. */
const longestReason = 1000;

/** Accept or reject, or a grade, with its words. */
export interface ClipAnswer {
  /** Set in mode binary. */
  readonly accept?: boolean;
  /** 1 (worst) to 5 (best); set in mode grade. */
  readonly grade?: number;
  readonly reason: string;
  /** Name from the rubric's closed list; empty for none. */
  readonly failureMode: string;
  /** Checks by name; true is passed. */
  readonly checks: Readonly<Record<string, boolean>>;
}

/** Which clip of two is better. */
export interface ComparisonAnswer {
  readonly better: 'A' | 'B' | 'tie';
  readonly reason: string;
}

/** Why an answer cannot be used. The reasons are the same that the caller's error carries. */
export type AnswerFault = 'ANSWER_EMPTY' | 'ANSWER_TRUNCATED' | 'ANSWER_REFUSED' | 'ANSWER_INVALID';

/** An answer that is not a verdict. It is never guessed what was meant. */
export class AnswerError extends Error {
  override readonly name = 'AnswerError';
  readonly fault: AnswerFault;
  constructor(fault: AnswerFault, message: string) {
    super(message);
    this.fault = fault;
  }
}

/** Raw answer of an endpoint, before it is understood. */
export interface RawAnswer {
  /** Text of the first choice; null if the endpoint gave none. */
  readonly content: string | null;
  /** Words of a refusal; null if the endpoint did not refuse. */
  readonly refusal: string | null;
  /** Why the endpoint stopped: stop, length, content_filter... */
  readonly finishReason: string;
}

// The order of the keys is the order in which a model with structured output writes them: reasons first, then the
// answer, so that the answer can rest on what was said.
function sharedFields(rubric: Rubric) {
  return {
    reason: z.string(),
    checks: z.strictObject(
      Object.fromEntries(Object.keys(rubric.checks).map((check) => [check, z.boolean()])),
    ),
    failure_mode: z.enum(['none', ...Object.keys(rubric.failureModes)]),
  };
}

// Making a schema takes longer than using it.
const binarySchema = onceFor((rubric: Rubric) =>
  z.strictObject({ ...sharedFields(rubric), accept: z.boolean() }),
);
const gradeSchema = onceFor((rubric: Rubric) =>
  z.strictObject({ ...sharedFields(rubric), grade: z.literal([1, 2, 3, 4, 5]) }),
);
const jsonSchemas = onceFor((rubric: Rubric) => ({
  binary: withoutDialect(binarySchema(rubric)),
  grade: withoutDialect(gradeSchema(rubric)),
  compare: withoutDialect(comparisonSchema),
}));
const comparisonSchema = z.strictObject({ reason: z.string(), better: z.enum(['A', 'B', 'tie']) });

/** JSON schema (draft 2020-12) of the answer, fit for the structured output of OpenAI-compatible endpoints. */
export function answerJsonSchema(mode: JudgeMode, rubric: Rubric): Record<string, unknown> {
  return jsonSchemas(rubric)[mode];
}

function withoutDialect(schema: z.ZodType): Record<string, unknown> {
  const { $schema: _, ...rest } = z.toJSONSchema(schema);
  return rest;
}

function onceFor<T>(make: (rubric: Rubric) => T): (rubric: Rubric) => T {
  const made = new WeakMap<Rubric, T>();
  return (rubric) => {
    const known = made.get(rubric) ?? make(rubric);
    made.set(rubric, known);
    return known;
  };
}

/**
 * Reads a verdict on one clip.
 *
 * @throws AnswerError if the answer was refused, cut off, empty, not JSON, of another shape, or contradicts itself
 *   (accepted with a failure mode).
 */
export function parseClipAnswer(raw: RawAnswer, mode: 'binary' | 'grade', rubric: Rubric): ClipAnswer {
  if (mode === 'grade') {
    const answer = readJson(raw, gradeSchema(rubric));
    return { ...wordsOf(answer), grade: answer.grade };
  }
  const answer = readJson(raw, binarySchema(rubric));
  const words = wordsOf(answer);
  if (answer.accept && words.failureMode !== '') {
    throw new AnswerError(
      'ANSWER_INVALID',
      `the answer accepts the clip and names the failure mode ${words.failureMode}`,
    );
  }
  return { ...words, accept: answer.accept };
}

function wordsOf(answer: { reason: string; checks: Record<string, boolean>; failure_mode: string }) {
  return {
    reason: shorten(answer.reason),
    failureMode: answer.failure_mode === 'none' ? '' : answer.failure_mode,
    checks: answer.checks,
  };
}

/**
 * Reads a comparison of two clips.
 *
 * @throws AnswerError as parseClipAnswer does.
 */
export function parseComparisonAnswer(raw: RawAnswer): ComparisonAnswer {
  const answer = readJson(raw, comparisonSchema);
  return { better: answer.better, reason: shorten(answer.reason) };
}

function readJson<T>(raw: RawAnswer, schema: z.ZodType<T>): T {
  if (raw.refusal !== null && raw.refusal !== '') {
    throw new AnswerError('ANSWER_REFUSED', 'the endpoint refused to answer');
  }
  if (raw.finishReason === 'content_filter') {
    throw new AnswerError('ANSWER_REFUSED', "the endpoint's content filter stopped the answer");
  }
  if (raw.finishReason === 'length') {
    throw new AnswerError(
      'ANSWER_TRUNCATED',
      'the answer was cut off at the largest number of output tokens',
    );
  }
  const content = unfence(raw.content ?? '');
  if (content === '') throw new AnswerError('ANSWER_EMPTY', 'the answer is empty');
  let value: unknown;
  try {
    value = JSON.parse(content);
  } catch {
    // The text may quote the caption or be long: it stays out of the message.
    throw new AnswerError(
      'ANSWER_INVALID',
      `the answer is not one JSON object (${content.length} characters)`,
    );
  }
  const result = schema.safeParse(value);
  if (result.success) return result.data;
  const issue = result.error.issues[0];
  throw new AnswerError(
    'ANSWER_INVALID',
    `the answer has another shape than the rubric asks for: ${issue?.path.join('.') ?? ''} ${issue?.code ?? ''}`.trim(),
  );
}

// Models without structured output like to put JSON into a code fence. A fence around the whole answer is taken off;
// anything else around it makes the answer invalid.
function unfence(content: string): string {
  const trimmed = content.trim();
  return /^```(?:json)?\n([^`]*)\n```$/.exec(trimmed)?.[1]?.trim() ?? trimmed;
}

function shorten(reason: string): string {
  return reason.length <= longestReason ? reason : reason.slice(0, longestReason).toWellFormed();
}
