import assert from 'node:assert/strict';
import { test } from 'node:test';
import { ApiException } from '@kubernetes/client-node';
import { notFound } from '@plumb/kit/errors';
import { fromKubernetes, isConflict, isGone, isNotFound } from './errors.ts';

const answer = (http: number, body: unknown): ApiException<unknown> =>
  new ApiException(http, 'refused', body, {});
const status = (reason: string, message: string) => ({ kind: 'Status', reason, message });

const answers = [
  [400, 'INVALID_ARGUMENT', false],
  [401, 'UNAUTHENTICATED', false],
  [403, 'PERMISSION_DENIED', false],
  [404, 'NOT_FOUND', false],
  [405, 'UNIMPLEMENTED', false],
  [409, 'ABORTED', true],
  [410, 'OUT_OF_RANGE', false],
  [413, 'INVALID_ARGUMENT', false],
  [422, 'INVALID_ARGUMENT', false],
  [429, 'RESOURCE_EXHAUSTED', true],
  [500, 'UNAVAILABLE', true],
  [503, 'UNAVAILABLE', true],
  [418, 'UNKNOWN', false],
] as const;

for (const [http, code, retryable] of answers) {
  test(`an answer of ${http} is ${code}`, () => {
    const error = fromKubernetes(answer(http, status('Reason', 'the object is not well')), 'reading Lease a');
    assert.equal(error.code, code);
    assert.equal(error.retryable, retryable);
    assert.match(
      error.message,
      new RegExp(`^reading Lease a: Kubernetes answers ${http}: the object is not`),
    );
  });
}

test('a create that meets an object of that name is told from a change that came too late', () => {
  const exists = answer(409, JSON.stringify(status('AlreadyExists', 'jobs "a" already exists')));
  assert.equal(fromKubernetes(exists, 'creating').code, 'ALREADY_EXISTS');
  assert.equal(fromKubernetes(answer(409, status('Conflict', 'modified')), 'writing').code, 'ABORTED');
  assert.ok(isConflict(exists));
  assert.ok(isConflict(answer(409, status('Conflict', 'modified'))));
  assert.ok(!isConflict(answer(404, undefined)));
});

test('a missing right says where rights are explained', () => {
  assert.match(
    fromKubernetes(answer(403, status('Forbidden', 'no')), 'x').message,
    /give the service account/,
  );
});

test('the page of a proxy and an empty body still say the status', () => {
  assert.match(fromKubernetes(answer(502, '<html>'), 'x').message, /answers 502: no reason given/);
  assert.match(fromKubernetes(answer(404, undefined), 'x').message, /answers 404: no reason given/);
});

test('a watch that was refused is read by its status', () => {
  const refused = Object.assign(new Error('Gone'), { statusCode: 410 });
  assert.ok(isGone(refused));
  assert.ok(!isGone(new Error('Gone')));
  assert.ok(isNotFound(Object.assign(new Error('Not Found'), { statusCode: 404 })));
});

test('what never reached the server may be tried again, and keeps its cause', () => {
  const cause = Object.assign(new Error('connect ECONNREFUSED'), { code: 'ECONNREFUSED' });
  const error = fromKubernetes(new TypeError('fetch failed', { cause }), 'listing jobs');
  assert.equal(error.code, 'UNAVAILABLE');
  assert.ok(error.retryable);
  assert.match(error.message, /listing jobs: the Kubernetes API server cannot be reached/);
  const unknown = fromKubernetes(new Error('whatever'), 'listing jobs');
  assert.equal(unknown.code, 'UNAVAILABLE');
  assert.equal(unknown.reason, 'CONNECTION_FAILED');
});

test('an error of ours stays what it is', () => {
  const ours = notFound('run', 'r');
  assert.equal(fromKubernetes(ours, 'x'), ours);
});
