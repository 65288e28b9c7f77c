import assert from 'node:assert/strict';
import { readFileSync } from 'node:fs';
import { test } from 'node:test';
import fc from 'fast-check';
import { AnswerError, answerJsonSchema, parseClipAnswer, parseComparisonAnswer } from './answer.ts';
import type { RawAnswer } from './answer.ts';
import { parseRubric } from './rubric.ts';

const rubric = parseRubric(
  readFileSync(new URL('../rubrics/physics-and-alignment.yaml', import.meta.url), 'utf8'),
);
const checks = { motion: true, picture: true };
const accepted = { reason: 'It falls.', checks, failure_mode: 'none', accept: true };

function raw(content: unknown, changes: Partial<RawAnswer> = {}): RawAnswer {
  const text = typeof content === 'string' || content === null ? content : JSON.stringify(content);
  return { content: text, refusal: null, finishReason: 'stop', ...changes };
}

const faultOf = (answer: RawAnswer): string => {
  try {
    parseClipAnswer(answer, 'binary', rubric);
  } catch (error) {
    if (error instanceof AnswerError) return error.fault;
    throw error;
  }
  return 'none';
};

test('an answer of the right shape is read', () => {
  assert.deepEqual(parseClipAnswer(raw(accepted), 'binary', rubric), {
    reason: 'It falls.',
    checks,
    failureMode: '',
    accept: true,
  });
  const rejected = {
    ...accepted,
    checks: { motion: false, picture: true },
    failure_mode: 'static',
    accept: false,
  };
  assert.equal(parseClipAnswer(raw(rejected), 'binary', rubric).failureMode, 'static');
  const graded = { reason: '', checks, failure_mode: 'none', grade: 4 };
  assert.equal(parseClipAnswer(raw(graded), 'grade', rubric).grade, 4);
  assert.equal(parseComparisonAnswer(raw({ reason: '', better: 'tie' })).better, 'tie');
});

test('a code fence around the whole answer is taken off, other text is not', () => {
  assert.equal(faultOf(raw(`\`\`\`json\n${JSON.stringify(accepted)}\n\`\`\``)), 'none');
  assert.equal(faultOf(raw(`Sure! ${JSON.stringify(accepted)}`)), 'ANSWER_INVALID');
});

test('anything else is an error and never a guess', () => {
  const table: readonly [string, RawAnswer, string][] = [
    ['empty', raw(''), 'ANSWER_EMPTY'],
    ['white space', raw(' \n'), 'ANSWER_EMPTY'],
    ['no text', raw(null), 'ANSWER_EMPTY'],
    ['refused', raw(null, { refusal: 'no' }), 'ANSWER_REFUSED'],
    ['filtered', raw(accepted, { finishReason: 'content_filter' }), 'ANSWER_REFUSED'],
    ['cut off, though it happens to be whole', raw(accepted, { finishReason: 'length' }), 'ANSWER_TRUNCATED'],
    ['cut off', raw(JSON.stringify(accepted).slice(0, -5)), 'ANSWER_INVALID'],
    ['a word', raw('accept'), 'ANSWER_INVALID'],
    ['a bare value', raw('true'), 'ANSWER_INVALID'],
    ['text for a truth value', raw({ ...accepted, accept: 'true' }), 'ANSWER_INVALID'],
    ['a number for a truth value', raw({ ...accepted, accept: 1 }), 'ANSWER_INVALID'],
    ['a missing key', raw({ ...accepted, accept: undefined }), 'ANSWER_INVALID'],
    ['another key', raw({ ...accepted, extra: 1 }), 'ANSWER_INVALID'],
    ['an unknown failure mode', raw({ ...accepted, failure_mode: 'boring' }), 'ANSWER_INVALID'],
    ['an unknown check', raw({ ...accepted, checks: { ...checks, mood: true } }), 'ANSWER_INVALID'],
    ['a contradiction', raw({ ...accepted, failure_mode: 'static' }), 'ANSWER_INVALID'],
    ['two answers', raw(JSON.stringify(accepted) + JSON.stringify(accepted)), 'ANSWER_INVALID'],
    ['another language', raw('Das Video ist gut.'), 'ANSWER_INVALID'],
  ];
  for (const [what, answer, fault] of table) assert.equal(faultOf(answer), fault, what);
});

test('grades are whole numbers from 1 to 5', () => {
  for (const grade of [0, 6, 2.5, '3', null]) {
    const answer = raw({ reason: '', checks, failure_mode: 'none', grade });
    assert.throws(() => parseClipAnswer(answer, 'grade', rubric), AnswerError);
  }
});

test('any text is an answer or an AnswerError, and the error quotes nothing of it', () => {
  fc.assert(
    fc.property(fc.oneof(fc.string(), fc.json()), (content) => {
      try {
        parseClipAnswer(raw(content), 'binary', rubric);
      } catch (error) {
        assert.ok(error instanceof AnswerError);
        if (content.length > 20) assert.ok(!error.message.includes(content));
      }
    }),
  );
});

test('the schema that is sent is closed, asks for every key, and puts the reason before the answer', () => {
  const schema = answerJsonSchema('binary', rubric);
  assert.deepEqual(schema['required'], ['reason', 'checks', 'failure_mode', 'accept']);
  assert.equal(schema['additionalProperties'], false);
  assert.ok(!('$schema' in schema));
});
