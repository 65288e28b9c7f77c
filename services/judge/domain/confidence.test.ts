import assert from 'node:assert/strict';
import { test } from 'node:test';
import { acceptProbability } from './confidence.ts';
import type { TokenLogProbability } from './confidence.ts';

function token(text: string, probability = 1, others: Record<string, number> = {}): TokenLogProbability {
  return {
    token: text,
    logProbability: Math.log(probability),
    alternatives: [[text, probability] as const, ...Object.entries(others)].map(([other, share]) => ({
      token: other,
      logProbability: Math.log(share),
    })),
  };
}

const close = (actual: number | undefined, expected: number): void => {
  assert.ok(actual !== undefined && Math.abs(actual - expected) < 1e-9, `${actual} is not ${expected}`);
};

test('the value of accept decides, among true and false', () => {
  const before = [token('{"reason":"x",'), token('"accept":')];
  close(acceptProbability([...before, token('true', 0.6, { false: 0.2, maybe: 0.2 }), token('}')]), 0.75);
  close(acceptProbability([...before, token('false', 0.9, { true: 0.1 }), token('}')]), 0.1);
  close(acceptProbability([...before, token(' false', 0.5, { ' true': 0.3, true: 0.2 }), token('}')]), 0.5);
});

test('the value may begin inside of a token, or be spread over several', () => {
  close(acceptProbability([token('{"accept"'), token(':true', 0.8, { ':false': 0.2 }), token('}')]), 0.8);
  close(acceptProbability([token('{"accept":'), token('tr', 0.7, { fal: 0.3 }), token('ue}')]), 0.7);
});

test('a reason that quotes the key is not mistaken for the answer', () => {
  const quoted = token(String.raw`{"reason":"says \"accept\":true",`);
  close(acceptProbability([quoted, token('"accept":'), token('false', 0.9, { true: 0.1 }), token('}')]), 0.1);
});

test('without alternatives the rest is on the other answer', () => {
  const bare = { token: 'false', logProbability: Math.log(0.9), alternatives: [] };
  close(acceptProbability([token('{"accept":'), bare]), 0.1);
});

test('tokens that do not tell give nothing', () => {
  assert.equal(acceptProbability([]), undefined);
  assert.equal(acceptProbability([token('{"grade":'), token('5')]), undefined);
});
