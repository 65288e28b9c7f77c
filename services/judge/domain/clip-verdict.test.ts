import assert from 'node:assert/strict';
import { readFileSync } from 'node:fs';
import { test } from 'node:test';
import { combinePanel, combineVotes } from './clip-verdict.ts';
import type { Vote } from './clip-verdict.ts';
import { parseCalibration } from './calibration.ts';
import { defineJudge, definePanel, judgesFileSchema } from './judge-definition.ts';
import { parseRubric } from './rubric.ts';

const rubric = parseRubric(
  readFileSync(new URL('../rubrics/physics-and-alignment.yaml', import.meta.url), 'utf8'),
);
const file = judgesFileSchema.parse({
  endpoints: { e: { baseUrl: 'http://127.0.0.1:1/v1' } },
  judges: Object.fromEntries(
    (['binary', 'grade'] as const).map((mode) => [
      mode,
      { version: '1', endpoint: 'e', model: 'm', mode, rubric: 'r', frames: { count: 8 } },
    ]),
  ),
});

function judge(mode: 'binary' | 'grade', changes: { threshold?: number; calibrated?: boolean } = {}) {
  const definition = file.judges[mode];
  assert.ok(definition);
  const calibration = parseCalibration(`
kind: plumb.judge-calibration
version: 1
judge: ${mode}
askHash: ${'a'.repeat(64)}
votes: 1
labels: ${'a'.repeat(64)}
samples: 10
fittedAt: now
recommendedThreshold: 0.5
mapping: { method: isotonic, scores: [0, 1], probabilities: [0.1, 0.7] }
`);
  const { threshold = 0.5, calibrated = false } = changes;
  return defineJudge(mode, { ...definition, threshold }, { rubric, ...(calibrated ? { calibration } : {}) });
}

function vote(changes: Partial<Vote>): Vote {
  const accept = changes.accept ?? false;
  return {
    kind: 'clip',
    reason: accept ? 'good' : 'bad',
    failureMode: accept ? '' : 'static',
    checks: { motion: accept },
    model: 'm',
    inputTokens: 100,
    outputTokens: 10,
    endpointMs: 5,
    calls: 1,
    cached: false,
    ...changes,
  };
}

const yes = vote({ accept: true });
const no = vote({ accept: false });

test('one answer is the verdict, without a probability that nobody told', () => {
  for (const one of [yes, no]) {
    const verdict = combineVotes(judge('binary'), [one]);
    assert.equal(verdict.accept, one.accept);
    assert.equal(verdict.probability, undefined);
    assert.deepEqual([verdict.reason, verdict.failureMode], [one.reason, one.failureMode]);
  }
});

test('votes decide by their share, and the words are those of a vote that agrees', () => {
  const verdict = combineVotes(judge('binary'), [no, yes, yes]);
  assert.deepEqual([verdict.accept, verdict.probability, verdict.reason], [true, 2 / 3, 'good']);
  assert.deepEqual([verdict.failureMode, verdict.checks['motion']], ['', true]);
  assert.deepEqual([verdict.inputTokens, verdict.calls, verdict.votes], [300, 3, 3]);
  const strict = combineVotes(judge('binary', { threshold: 0.9 }), [no, yes, yes]);
  assert.deepEqual([strict.accept, strict.failureMode, strict.reason], [false, 'static', 'bad']);
  const cached = combineVotes(judge('binary'), [{ ...yes, cached: true }, no]);
  assert.equal(cached.cached, false);
});

test('log-probabilities count more than the word that was drawn', () => {
  const verdict = combineVotes(judge('binary'), [vote({ accept: true, probability: 0.4 })]);
  assert.deepEqual([verdict.accept, verdict.probability], [false, 0.4]);
});

test('a calibration maps the score, and its probability decides', () => {
  const verdict = combineVotes(judge('binary', { calibrated: true }), [
    vote({ accept: true, probability: 0.5 }),
  ]);
  assert.ok(Math.abs((verdict.probability ?? 0) - 0.4) < 1e-12);
  assert.deepEqual([verdict.accept, verdict.score], [false, 0.5]);
});

test('grades: the median counts, and only a calibration makes a probability of them', () => {
  const grades = [5, 2, 4, 4].map((grade) => vote({ grade, accept: undefined }));
  const plain = combineVotes(judge('grade'), grades);
  assert.deepEqual([plain.grade, plain.accept, plain.probability], [4, undefined, undefined]);
  assert.ok(Math.abs(plain.score - 2.75 / 4) < 1e-12);
  assert.ok((combineVotes(judge('grade', { calibrated: true }), grades).probability ?? 0) > 0.5);
});

test('panels: all, majority, mean', () => {
  const members = [judge('binary'), judge('binary'), judge('binary')];
  const verdicts = [[yes], [yes, no, no], [yes]].map((votes) => combineVotes(judge('binary'), votes));
  const by = (rule: 'all' | 'majority' | 'mean', threshold = 0.5) =>
    combinePanel(
      definePanel('p', { version: '1', judges: ['a', 'b', 'c'], rule, threshold, heldOut: false }, members),
      verdicts,
    );
  assert.deepEqual([by('all').accept, by('majority').accept, by('mean').accept], [false, true, true]);
  assert.equal(by('mean', 0.9).accept, false);
  assert.equal(by('all').failureMode, 'static');
  assert.ok(Math.abs((by('mean').probability ?? 0) - (1 + 1 / 3 + 1) / 3) < 1e-12);
  assert.equal(by('majority').votes, 5);
});
