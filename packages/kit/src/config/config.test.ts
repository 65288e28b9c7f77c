import assert from 'node:assert/strict';
import { describe, test } from 'node:test';
import { z } from 'zod';
import { checkAccessSettings } from './access-settings.ts';
import { loadConfig, serviceSettings, splitAddress, variableName } from '../config.ts';
import { PlumbError } from '../errors.ts';

const schema = z
  .object({
    batchSize: z.coerce.number().int().min(1).default(8).describe('a whole number from 1, for example 8'),
    judgeApiKey: z.string().min(10).optional().describe('the key of the judge'),
    artifactFolder: z.string().describe('a folder that can be written to'),
    low: z.coerce.number().default(0),
    high: z.coerce.number().default(1),
  })
  .refine(({ low, high }) => low < high, { path: ['low'], error: 'must be below PLUMB_HIGH' });

function problem(env: Record<string, string>): PlumbError {
  try {
    loadConfig(schema, env);
  } catch (error) {
    assert.ok(error instanceof PlumbError);
    return error;
  }
  return assert.fail('the configuration was taken');
}

describe('loadConfig', () => {
  test('reads PLUMB_ variables; an empty one is not set', () => {
    const config = loadConfig(schema, {
      PLUMB_ARTIFACT_FOLDER: '/tmp/a',
      PLUMB_BATCH_SIZE: '',
      PLUMB_HIGH: '3',
    });
    assert.deepEqual(config, { artifactFolder: '/tmp/a', batchSize: 8, low: 0, high: 3 });
  });

  test('lists every bad variable on one line, each with its fix', () => {
    const error = problem({ PLUMB_BATCH_SIZE: 'many' });
    assert.equal(error.reason, 'CONFIGURATION_INVALID');
    assert.deepEqual(
      error.fieldViolations?.map(({ field }) => field),
      ['PLUMB_BATCH_SIZE', 'PLUMB_ARTIFACT_FOLDER'],
    );
    assert.match(error.message, /PLUMB_BATCH_SIZE is 'many' \(.*\); set it to a whole number from 1/);
    assert.match(error.message, /PLUMB_ARTIFACT_FOLDER is missing; set it to a folder/);
    assert.doesNotMatch(error.message, /\n/);
  });

  test('never shows a secret', () => {
    const error = problem({ PLUMB_ARTIFACT_FOLDER: '/tmp/a', PLUMB_JUDGE_API_KEY: 'hunter2' });
    assert.doesNotMatch(error.message, /hunter2/);
  });

  test('checks across fields', () => {
    assert.match(
      problem({ PLUMB_ARTIFACT_FOLDER: '/tmp/a', PLUMB_LOW: '5' }).message,
      /PLUMB_LOW is '5'.*below PLUMB_HIGH/,
    );
  });

  test('the settings of every service have defaults for one machine', () => {
    const config = loadConfig(z.object({ ...serviceSettings }), {});
    assert.equal(config.listen, '127.0.0.1:0');
    assert.equal(config.insecurePlaintext, false);
    assert.throws(
      () => loadConfig(z.object({ ...serviceSettings }), { PLUMB_NATS_URL: 'localhost' }),
      /nats:\/\//,
    );
  });
});

test('names and addresses', () => {
  assert.equal(variableName('natsUrl'), 'PLUMB_NATS_URL');
  assert.equal(variableName('s3Bucket'), 'PLUMB_S3_BUCKET');
  assert.deepEqual(splitAddress('127.0.0.1:80'), { host: '127.0.0.1', port: 80 });
  assert.deepEqual(splitAddress('[::1]:0'), { host: '::1', port: 0 });
});

test('settings of access that do not go together are told in sentences', () => {
  const read = (env: Record<string, string>) => () => {
    checkAccessSettings(loadConfig(z.object(serviceSettings), env));
  };
  read({})();
  read({
    PLUMB_TLS_CERT: 'a',
    PLUMB_TLS_KEY: 'b',
    PLUMB_TLS_CLIENT_CA: 'c',
    PLUMB_AUTH_JWKS: 'https://issuer.test/keys',
    PLUMB_AUTH_JWT_ISSUER: 'i',
    PLUMB_AUTH_JWT_AUDIENCE: 'a',
    PLUMB_AUTH_ITEMS_PER_HOUR: '5',
  })();
  assert.throws(read({ PLUMB_TLS_CERT: 'a' }), /PLUMB_TLS_CERT is set and PLUMB_TLS_KEY is not; /);
  assert.throws(read({ PLUMB_TLS_CLIENT_CA: 'a' }), /PLUMB_TLS_CLIENT_CA is set and PLUMB_TLS_CERT is not; /);
  assert.throws(
    read({ PLUMB_AUTH_JWKS: 'keys.json' }),
    /PLUMB_AUTH_JWT_ISSUER is not; .*; .*PLUMB_AUTH_JWT_AUDIENCE is not; /,
  );
  assert.throws(read({ PLUMB_AUTH_CALLS_PER_SECOND: '5' }), /nothing tells callers apart/);
  assert.throws(
    read({ PLUMB_NATS_USER: 'a', PLUMB_NATS_PASSWORD_FILE: 'b', PLUMB_NATS_CREDENTIALS_FILE: 'c' }),
    /are both set/,
  );
  // Each by itself.
  assert.throws(read({ PLUMB_AUTH_JWKS: 'http://issuer.test/keys' }), /https/);
  assert.throws(read({ PLUMB_AUTH_JWT_ALGORITHMS: 'HS256' }), /PLUMB_AUTH_JWT_ALGORITHMS/);
  assert.throws(read({ PLUMB_AUTH_JWT_ALGORITHMS: 'none' }), /PLUMB_AUTH_JWT_ALGORITHMS/);
});
