import assert from 'node:assert/strict';
import { once } from 'node:events';
import { mkdtempSync, rmSync } from 'node:fs';
import { mkdir, readFile } from 'node:fs/promises';
import { connect, createServer } from 'node:net';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { describe, test } from 'node:test';
import { inspect } from 'node:util';
import { create } from '@bufbuild/protobuf';
import { anyPack } from '@bufbuild/protobuf/wkt';
import { Metadata } from '@grpc/grpc-js';
import { JetStreamApiError } from '@nats-io/jetstream/internal';
import { errors as natsErrors } from '@nats-io/nats-core';
import { ErrorInfoSchema } from '@plumb/proto/google/rpc/error_details_pb.js';
import { StatusSchema } from '@plumb/proto/google/rpc/status_pb.js';
import fc from 'fast-check';
import { z } from 'zod';
import {
  describeError,
  errorCodeOf,
  errorCodes,
  errorReasons,
  fromStatus,
  invalidArgument,
  invalidArguments,
  isErrorCode,
  listenError,
  notFound,
  PlumbError,
  toStatus,
  unavailable,
  unexpectedErrorMessage,
} from '../errors.ts';

async function thrownBy(body: () => unknown): Promise<unknown> {
  try {
    await body();
  } catch (error) {
    return error;
  }
  return assert.fail('nothing was thrown');
}

function systemError(code: string): Error {
  return Object.assign(new Error(`${code}: at /secret/path 10.0.0.7:5432`), { code });
}

describe('from: one branch each', () => {
  const systemCases: [code: string, expected: string, reason: string, retryable: boolean][] = [
    ['ENOSPC', 'RESOURCE_EXHAUSTED', 'DISK_FULL', true],
    ['EDQUOT', 'RESOURCE_EXHAUSTED', 'DISK_FULL', true],
    ['EMFILE', 'RESOURCE_EXHAUSTED', 'TOO_MANY_OPEN_FILES', true],
    ['ENFILE', 'RESOURCE_EXHAUSTED', 'TOO_MANY_OPEN_FILES', true],
    ['EACCES', 'PERMISSION_DENIED', 'FILE_ACCESS_DENIED', false],
    ['EPERM', 'PERMISSION_DENIED', 'FILE_ACCESS_DENIED', false],
    ['EROFS', 'PERMISSION_DENIED', 'FILE_ACCESS_DENIED', false],
    ['ENOENT', 'NOT_FOUND', 'FILE_NOT_FOUND', false],
    ['ENOTDIR', 'FAILED_PRECONDITION', 'FILE_NOT_FOUND', false],
    ['EEXIST', 'ALREADY_EXISTS', 'FILE_EXISTS', false],
    ['EADDRINUSE', 'FAILED_PRECONDITION', 'PORT_IN_USE', false],
    ['EADDRNOTAVAIL', 'FAILED_PRECONDITION', 'ADDRESS_NOT_AVAILABLE', false],
    ['ECONNREFUSED', 'UNAVAILABLE', 'CONNECTION_FAILED', true],
    ['ECONNRESET', 'UNAVAILABLE', 'CONNECTION_FAILED', true],
    ['EPIPE', 'UNAVAILABLE', 'CONNECTION_FAILED', true],
    ['ETIMEDOUT', 'UNAVAILABLE', 'CONNECTION_FAILED', true],
    ['EHOSTUNREACH', 'UNAVAILABLE', 'CONNECTION_FAILED', true],
    ['ENETUNREACH', 'UNAVAILABLE', 'CONNECTION_FAILED', true],
    ['ENOTFOUND', 'UNAVAILABLE', 'CONNECTION_FAILED', true],
    ['EAI_AGAIN', 'UNAVAILABLE', 'CONNECTION_FAILED', true],
    ['UND_ERR_CONNECT_TIMEOUT', 'UNAVAILABLE', 'CONNECTION_FAILED', true],
    ['UND_ERR_SOCKET', 'UNAVAILABLE', 'CONNECTION_FAILED', true],
    ['UND_ERR_HEADERS_TIMEOUT', 'DEADLINE_EXCEEDED', 'DEADLINE_EXCEEDED', true],
    ['UND_ERR_BODY_TIMEOUT', 'DEADLINE_EXCEEDED', 'DEADLINE_EXCEEDED', true],
  ];
  for (const [code, expected, reason, retryable] of systemCases) {
    test(`${code} is ${expected}, and its text stays here`, () => {
      const cause = systemError(code);
      const error = PlumbError.from(cause);
      assert.deepEqual([error.code, error.reason, error.retryable], [expected, reason, retryable]);
      assert.doesNotMatch(error.message, /secret|10\.0\.0\.7/);
      assert.equal(error.cause, cause);
      assert.match(describeError(error), /secret/);
    });
  }

  const namedCases: [name: string, thrown: unknown, expected: string, reason: string][] = [
    ['AbortError', new DOMException('stop', 'AbortError'), 'CANCELLED', 'CANCELLED'],
    ['TimeoutError', new DOMException('late', 'TimeoutError'), 'DEADLINE_EXCEEDED', 'DEADLINE_EXCEEDED'],
    ['NATS timeout', new natsErrors.TimeoutError(), 'DEADLINE_EXCEEDED', 'DEADLINE_EXCEEDED'],
    ['NATS nobody answers', new natsErrors.NoRespondersError('x'), 'UNAVAILABLE', 'BROKER_UNAVAILABLE'],
    ['NATS connection', new natsErrors.ConnectionError('x'), 'UNAVAILABLE', 'BROKER_UNAVAILABLE'],
    ['NATS closed', new natsErrors.ClosedConnectionError(), 'UNAVAILABLE', 'BROKER_UNAVAILABLE'],
    ['NATS draining', new natsErrors.DrainingConnectionError(), 'UNAVAILABLE', 'SHUTTING_DOWN'],
    ['NATS credentials', new natsErrors.AuthorizationError('x'), 'UNAUTHENTICATED', 'CREDENTIALS_INVALID'],
    [
      'NATS expired',
      new natsErrors.UserAuthenticationExpiredError('x'),
      'UNAUTHENTICATED',
      'CREDENTIALS_INVALID',
    ],
    [
      'NATS permission',
      new natsErrors.PermissionViolationError('x', 'publish', 'a'),
      'PERMISSION_DENIED',
      'ACCESS_DENIED',
    ],
    ['NATS subject', new natsErrors.InvalidSubjectError('a b'), 'INVALID_ARGUMENT', 'INVALID_FIELD'],
    ['NATS protocol', new natsErrors.ProtocolError('x'), 'UNAVAILABLE', 'BROKER_UNAVAILABLE'],
    [
      'NATS request, by its cause',
      new natsErrors.RequestError('x', { cause: new natsErrors.NoRespondersError('x') }),
      'UNAVAILABLE',
      'BROKER_UNAVAILABLE',
    ],
    [
      'fetch, by its cause',
      new TypeError('fetch failed', { cause: systemError('ECONNREFUSED') }),
      'UNAVAILABLE',
      'CONNECTION_FAILED',
    ],
  ];
  for (const [name, thrown, expected, reason] of namedCases) {
    test(`${name} is ${expected}`, () => {
      const error = PlumbError.from(thrown);
      assert.deepEqual([error.code, error.reason], [expected, reason]);
    });
  }

  const jetStreamCases: [
    code: number,
    status: number,
    description: string,
    expected: string,
    reason: string,
  ][] = [
    [10014, 404, 'consumer not found', 'NOT_FOUND', 'RESOURCE_NOT_FOUND'],
    [10059, 404, 'stream not found', 'NOT_FOUND', 'RESOURCE_NOT_FOUND'],
    [10037, 404, 'no message found', 'NOT_FOUND', 'RESOURCE_NOT_FOUND'],
    [10071, 400, 'wrong last sequence: 4', 'ABORTED', 'REVISION_CONFLICT'],
    [10077, 503, 'maximum messages exceeded', 'RESOURCE_EXHAUSTED', 'QUEUE_FULL'],
    [10077, 503, 'maximum bytes exceeded', 'RESOURCE_EXHAUSTED', 'QUEUE_FULL'],
    [10077, 503, 'disk write failed', 'UNAVAILABLE', 'BROKER_UNAVAILABLE'],
    [10054, 400, 'message size exceeds maximum allowed', 'INVALID_ARGUMENT', 'MESSAGE_TOO_LARGE'],
    [10047, 500, 'insufficient storage resources', 'RESOURCE_EXHAUSTED', 'DISK_FULL'],
    [10008, 503, 'jetstream system temporarily unavailable', 'UNAVAILABLE', 'BROKER_UNAVAILABLE'],
    [10058, 400, 'stream name already in use', 'FAILED_PRECONDITION', 'BROKER_REFUSED'],
  ];
  for (const [err_code, code, description, expected, reason] of jetStreamCases) {
    test(`JetStream ${err_code} (${description}) is ${expected}`, () => {
      const error = PlumbError.from(new JetStreamApiError({ err_code, code, description }));
      assert.deepEqual([error.code, error.reason], [expected, reason]);
      if (reason === 'QUEUE_FULL') assert.ok((error.retryAfterMs ?? 0) > 0);
    });
  }

  test('zod: every field with its path', () => {
    const schema = z.object({ prompts: z.array(z.object({ text: z.string() })), count: z.number() });
    const { error: issues } = schema.safeParse({ prompts: [{ text: 3 }], count: 'x' });
    const error = PlumbError.from(issues);
    assert.equal(error.code, 'INVALID_ARGUMENT');
    assert.deepEqual(
      error.fieldViolations?.map(({ field }) => field),
      ['prompts[0].text', 'count'],
    );
  });

  test('grpc-js: code and text of the other side', () => {
    const metadata = new Metadata();
    const error = PlumbError.from(
      Object.assign(new Error('14 UNAVAILABLE: x'), { code: 14, details: 'x', metadata }),
    );
    assert.deepEqual([error.code, error.reason, error.message], ['UNAVAILABLE', 'CONNECTION_FAILED', 'x']);
  });

  for (const thrown of [new RangeError('secret'), 'secret', { secret: true }, undefined, null]) {
    test(`anything else (${thrown instanceof Error ? thrown.name : inspect(thrown)}) is INTERNAL with a fixed text`, () => {
      const error = PlumbError.from(thrown);
      assert.deepEqual(
        [error.code, error.reason, error.message],
        ['INTERNAL', 'UNEXPECTED', unexpectedErrorMessage],
      );
      assert.equal(error.retryable, false);
    });
  }

  test('a PlumbError is itself', () => {
    const error = unavailable('x');
    assert.equal(PlumbError.from(error), error);
  });
});

describe('the real thing', () => {
  test('a file that is not there, one in the way, a port nobody listens on, an aborted read', async (t) => {
    const directory = mkdtempSync(path.join(tmpdir(), 'plumb-kit-'));
    t.after(() => {
      rmSync(directory, { recursive: true });
    });
    const code = async (body: () => unknown): Promise<string> => PlumbError.from(await thrownBy(body)).reason;
    assert.equal(await code(() => readFile(path.join(directory, 'none'))), 'FILE_NOT_FOUND');
    assert.equal(await code(() => mkdir(directory)), 'FILE_EXISTS');
    assert.equal(await code(() => once(connect(1, '127.0.0.1'), 'connect')), 'CONNECTION_FAILED');
    const closed = createServer().listen(0, '127.0.0.1');
    await once(closed, 'listening');
    const bound = closed.address();
    assert.ok(bound !== null && typeof bound === 'object');
    closed.close();
    await once(closed, 'close');
    assert.equal(await code(() => fetch(`http://127.0.0.1:${bound.port}/`)), 'CONNECTION_FAILED');
    assert.equal(await code(() => readFile(directory, { signal: AbortSignal.abort() })), 'CANCELLED');
  });

  test('a busy port is told with host, port and the setting', async (t) => {
    const first = createServer().listen(0, '127.0.0.1');
    await once(first, 'listening');
    t.after(() => first.close());
    const bound = first.address();
    assert.ok(bound !== null && typeof bound === 'object');
    const second = createServer().listen(bound.port, '127.0.0.1');
    const error = listenError(
      await thrownBy(() => once(second, 'listening')),
      '127.0.0.1',
      bound.port,
      'PLUMB_LISTEN',
    );
    assert.equal(error.reason, 'PORT_IN_USE');
    assert.match(error.message, new RegExp(`port ${bound.port} on 127\\.0\\.0\\.1 is in use.*PLUMB_LISTEN`));
  });
});

describe('google.rpc.Status', () => {
  const codes = Object.keys(errorCodes).filter(isErrorCode);

  test('there and back: everything but the cause', () => {
    fc.assert(
      fc.property(
        fc.constantFrom(...codes),
        fc.constantFrom(...errorReasons),
        fc.string(),
        fc.option(
          fc.array(fc.record({ field: fc.string(), description: fc.string() }, { noNullPrototype: true }), {
            minLength: 1,
          }),
        ),
        fc.option(fc.nat({ max: 10_000_000 })),
        fc.dictionary(fc.string(), fc.string(), { noNullPrototype: true }),
        (givenCode, givenReason, message, violations, givenRetryMs, givenMetadata) => {
          const given = {
            code: givenCode,
            reason: givenReason,
            fieldViolations: violations ?? undefined,
            retryAfterMs: givenRetryMs ?? undefined,
            metadata: givenMetadata,
          };
          const error = new PlumbError({ ...given, message, cause: new Error('stays here') });
          const status = toStatus(error);
          assert.equal(status.code, errorCodes[givenCode]);
          const back = fromStatus(status);
          const { code, reason, fieldViolations, retryAfterMs, metadata } = back;
          assert.deepEqual({ code, reason, fieldViolations, retryAfterMs, metadata }, given);
          assert.equal(back.message, message);
          assert.equal(back.cause, undefined);
        },
      ),
    );
  });

  test('an unforeseen error takes nothing with it', () => {
    const status = toStatus(new Error('password=hunter2'));
    assert.equal(status.message, unexpectedErrorMessage);
    assert.doesNotMatch(
      JSON.stringify(status.details.map(({ value }) => Buffer.from(value).toString())),
      /hunter2/,
    );
  });

  test('a reason of another domain is not ours', () => {
    const info = create(ErrorInfoSchema, {
      domain: 'example.com',
      reason: 'DISK_FULL',
      metadata: { zone: 'a' },
    });
    const error = fromStatus(
      create(StatusSchema, { code: 8, message: 'x', details: [anyPack(ErrorInfoSchema, info)] }),
    );
    assert.deepEqual(
      [error.code, error.reason, error.metadata],
      ['RESOURCE_EXHAUSTED', 'REMOTE_ERROR', { zone: 'a' }],
    );
  });

  test('a number that is no code is UNKNOWN', () => {
    assert.equal(errorCodeOf(99), 'UNKNOWN');
    assert.equal(isErrorCode('OK'), false);
  });
});

test('shorthands say field, value and fix', () => {
  assert.equal(invalidArgument('count', "is '0'; give 1 or more").message, "count: is '0'; give 1 or more");
  assert.equal(
    invalidArguments([
      { field: 'a', description: 'x' },
      { field: 'b', description: 'y' },
    ]).message,
    'a: x; b: y',
  );
  assert.equal(
    notFound('model', 'toybox-2', { fix: 'list the models', reason: 'MODEL_NOT_FOUND' }).message,
    "model 'toybox-2' does not exist; list the models",
  );
});

test('describeError: causes on one line, each text once', () => {
  const error = new Error('outer', { cause: new Error('middle\n  line', { cause: 'inner' }) });
  assert.equal(describeError(error), 'outer: middle line: inner');
  assert.equal(describeError(new Error('a: b', { cause: new Error('b') })), 'a: b');
});
