import assert from 'node:assert/strict';
import { createHash } from 'node:crypto';
import { mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { writeFile } from 'node:fs/promises';
import { createServer as createHttpServer } from 'node:http';
import { once } from 'node:events';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { after, before, describe, test } from 'node:test';
import type { TestContext } from 'node:test';
import { createFileRegistry, fromBinary } from '@bufbuild/protobuf';
import type { DescMethod, DescService } from '@bufbuild/protobuf';
import { FileDescriptorSetSchema } from '@bufbuild/protobuf/wkt';
import { Client, credentials, Metadata } from '@grpc/grpc-js';
import type { StatusObject } from '@grpc/grpc-js';
import { LabelService } from '@plumb/proto/plumb/loop/v1/label_pb.js';
import { RewardService } from '@plumb/proto/plumb/reward/v1/reward_pb.js';
import { exportJWK, generateKeyPair, SignJWT } from 'jose';
import { PlumbError } from '../errors.ts';
import { createClient, createServer } from '../rpc.ts';
import type { Implementation, RpcServer } from '../rpc.ts';
import { createLogger } from '../telemetry/logger.ts';
import { createAuthority, writeFiles } from '../testing/certificates.ts';
import { openAccess } from './access.ts';
import type { Access, AccessOptions } from './access.ts';
import { serverTls } from './certificates.ts';
import { openClientCredentials } from './client-credentials.ts';
import type { ClientCredentialFiles, ClientCredentials } from './client-credentials.ts';
import { roles } from './roles.ts';
import type { Role } from './roles.ts';
import { rpcRule } from './rpc-access.ts';

// Every RPC that the contracts have, found without the table that is tested.
const descriptors = createFileRegistry(
  fromBinary(
    FileDescriptorSetSchema,
    readFileSync(new URL('../../../../proto/gen/descriptors.binpb', import.meta.url)),
  ),
);
const services = [...descriptors].filter(
  (type): type is DescService => type.kind === 'service' && type.typeName.startsWith('plumb.'),
);
const methods = services.flatMap((service) => service.methods);
const pathOf = (method: DescMethod): string => `/${method.parent.typeName}/${method.name}`;

/** What the platform promises, written down once more and independently: may this role make this call? */
const promised: Readonly<Record<Exclude<Role, 'admin'>, readonly RegExp[]>> = {
  score: [
    /RewardService\/(?!Reload)/,
    /JudgeService\/(Judge|Compare|ListJudges|ListEndpoints|GetSpend)$/,
    /Registry\S+\/(Get|List)/,
  ],
  read: [/\/(Get|List|Watch|ExportRun$)/],
  label: [
    /LabelService\/(CreateLabel|ListLabels|GetRatingQueue|Rate)$/,
    /LoopService\/(GetRun|ListRuns|WatchRuns?|ListSamples|GetCaller)$/,
    /Registry\S+\/(Get|List)/,
  ],
  train: [
    /GeneratorService/,
    /JudgeService\/(SetBudget|GetSpend)$/,
    /TrainerService/,
    /LoopService\/(?!OverrideDecision)/,
    /StudyService/,
    /Registry\S+\/(Get|List|Create)/,
    /LabelService\/(List|Get|CreateLabelSession|CreateRaterLink)/,
  ],
  rate: [/LabelService\/(GetRatingQueue|Rate)$/],
};

const token = (name: string): string => `${name}-Zm9yLXRlc3RzLW9ubHktYW5kLW5vdGhpbmctZWxzZQ`;
const sha256 = (text: string): string => createHash('sha256').update(text).digest('hex');

let folder: string;
before(() => {
  folder = mkdtempSync(path.join(tmpdir(), 'plumb-access-'));
});
after(() => {
  rmSync(folder, { recursive: true });
});

function callersOf(entries: readonly string[]): string {
  return `callers:\n${entries.map((entry) => `  - { ${entry} }\n`).join('')}`;
}

const everyRole = callersOf(
  roles.map((role) => `name: ${role}, roles: [${role}], tokenSha256: ${sha256(token(role))}`),
);

/** A server whose handlers all answer with nothing, and say by a counter that they were reached. */
async function serve(
  t: TestContext,
  options: AccessOptions,
): Promise<{ server: RpcServer; address: string; access: Access; reached: () => number }> {
  const access = await openAccess({ everyMs: 600_000, ...options });
  const server = createServer({ access });
  let reached = 0;
  for (const service of services) {
    const handlers: Record<string, unknown> = {};
    for (const method of service.methods) {
      handlers[method.localName] =
        method.methodKind === 'unary'
          ? () => {
              reached += 1;
              return {};
            }
          : // oxlint-disable-next-line require-yield -- a stream without answers
            async function* () {
              reached += 1;
            };
    }
    // oxlint-disable-next-line typescript/no-unsafe-type-assertion -- made for each method above
    server.add(service, handlers as Implementation<DescService>);
  }
  const { address } = await server.listen();
  t.after(async () => {
    await server.stop({ deadlineMs: 0 });
    access.close();
  });
  return { server, address, access, reached: () => reached };
}

interface Ended {
  readonly code: number;
  readonly details: string;
  readonly trailers: string;
}

/** Makes any call with any header, and gives its status. */
async function ask(client: Client, path_: string, authorization?: string): Promise<Ended> {
  const metadata = new Metadata();
  if (authorization !== undefined) metadata.set('authorization', authorization);
  const call = client.makeBidiStreamRequest(
    path_,
    (bytes: Buffer) => bytes,
    (bytes: Buffer) => bytes,
    metadata,
    { deadline: Date.now() + 60_000 },
  );
  // The status says the same.
  call.on('error', () => undefined);
  const { promise, resolve } = Promise.withResolvers<StatusObject>();
  call.on('status', resolve);
  call.resume();
  call.write(Buffer.alloc(0));
  call.end();
  const ended = await promise;
  const binary = ended.metadata.get('grpc-status-details-bin')[0];
  return {
    code: ended.code,
    details: ended.details,
    trailers: binary instanceof Buffer ? binary.toString('latin1') : '',
  };
}

function clientTo(t: TestContext, address: string): Client {
  const client = new Client(address, credentials.createInsecure());
  t.after(() => {
    client.close();
  });
  return client;
}

const issuer = 'https://issuer.test';
const audience = 'plumb';

async function signingKey(kid: string) {
  const { publicKey, privateKey } = await generateKeyPair('ES256');
  const jwk = { ...(await exportJWK(publicKey)), kid, alg: 'ES256', use: 'sig' };
  const sign = async (
    claims: Record<string, unknown>,
    header: Record<string, unknown> = {},
  ): Promise<string> =>
    await new SignJWT({ sub: 'someone', iss: issuer, aud: audience, plumb_roles: ['read'], ...claims })
      .setProtectedHeader({ alg: 'ES256', kid, ...header })
      .setExpirationTime(claims['exp'] === undefined ? '1h' : Number(claims['exp']))
      .sign(privateKey);
  return { jwk, sign };
}

function verification(keys: string) {
  return {
    keys,
    issuer,
    audience,
    algorithms: ['ES256'],
    rolesClaim: 'plumb_roles',
    clockToleranceSeconds: 5,
  };
}

test('every RPC of the contracts has a rule', () => {
  assert.ok(methods.length >= 30);
  for (const method of methods) assert.ok(rpcRule(pathOf(method)), `${pathOf(method)} is not in the table`);
});

test('every RPC with every role, and with none', async (t) => {
  const callersFile = path.join(folder, 'every-role.yaml');
  await writeFile(callersFile, everyRole);
  const keys = await signingKey('k1');
  const stranger = await signingKey('k1');
  const jwks = path.join(folder, 'jwks.json');
  await writeFile(jwks, JSON.stringify({ keys: [keys.jwk] }));
  const { address, reached } = await serve(t, { callersFile, jwt: verification(jwks) });
  const client = clientTo(t, address);

  const past = Math.floor(Date.now() / 1000) - 60;
  const encode = (part: unknown): string => Buffer.from(JSON.stringify(part)).toString('base64url');
  const unsigned = `${encode({ alg: 'none' })}.${encode({ sub: 'x', iss: issuer, aud: audience, exp: past + 7200, plumb_roles: 'admin' })}.`;
  const refused: Readonly<Record<string, string | undefined>> = {
    nothing: undefined,
    'an empty header': '',
    'no scheme': token('admin'),
    'another scheme': `Basic ${Buffer.from('admin:admin').toString('base64')}`,
    'an unknown token': `Bearer ${token('somebody')}`,
    'the hash of a token': `Bearer ${sha256(token('admin'))}`,
    'two tokens': `Bearer ${token('admin')} ${token('admin')}`,
    garbage: 'Bearer %%%',
    'garbage that looks like a JWT': 'Bearer aaaa.bbbb.cccc',
    'a very long one': `Bearer ${'a'.repeat(9000)}`,
    'an expired JWT': `Bearer ${await keys.sign({ plumb_roles: 'admin', exp: past })}`,
    'a JWT for somebody else': `Bearer ${await keys.sign({ plumb_roles: 'admin', aud: 'other' })}`,
    'a JWT of another issuer': `Bearer ${await keys.sign({ plumb_roles: 'admin', iss: 'https://other.test' })}`,
    'a JWT signed with another key': `Bearer ${await stranger.sign({ plumb_roles: 'admin' })}`,
    'a JWT without a subject': `Bearer ${await keys.sign({ plumb_roles: 'admin', sub: undefined })}`,
    'a JWT of an unknown key': `Bearer ${await keys.sign({ plumb_roles: 'admin' }, { kid: 'k2' })}`,
    'an unsigned JWT': `Bearer ${unsigned}`,
  };
  const first = methods[0];
  assert.ok(first !== undefined);
  const answer = await ask(client, pathOf(first));
  assert.equal(answer.code, 16);
  for (const method of methods) {
    for (const [what, header] of Object.entries(refused)) {
      // The same words for all: what was wrong is nobody's business.
      assert.deepEqual(await ask(client, pathOf(method), header), answer, `${pathOf(method)} with ${what}`);
    }
  }
  assert.equal(reached(), 0);

  let admitted = 0;
  for (const method of methods) {
    for (const role of roles) {
      const may = role === 'admin' || promised[role].some((pattern) => pattern.test(pathOf(method)));
      const jwt = await keys.sign({ plumb_roles: [role, 'no-such-role'], sub: `user-${role}` });
      for (const header of [`Bearer ${token(role)}`, `bearer ${jwt}`]) {
        const { code, details } = await ask(client, pathOf(method), header);
        // A handler that gives nothing back where an answer is due ends with its own codes, but it was reached.
        if (may)
          assert.ok(code !== 16 && code !== 7, `${role} may call ${pathOf(method)}: ${code} ${details}`);
        else assert.equal(code, 7, `${role} may not call ${pathOf(method)}`);
        if (may) admitted += 1;
      }
    }
    const { code } = await ask(client, pathOf(method), `Bearer ${await keys.sign({ plumb_roles: [] })}`);
    assert.equal(code, 7, `a caller without roles may not call ${pathOf(method)}`);
  }
  assert.equal(reached(), admitted);
});

test('a refusal says nothing but itself; health is open', async (t) => {
  const callersFile = path.join(folder, 'refusal.yaml');
  await writeFile(callersFile, everyRole);
  const { address } = await serve(t, { callersFile });
  const client = clientTo(t, address);
  const anonymous = await ask(client, '/plumb.reward.v1.RewardService/ListRewards');
  assert.equal(anonymous.details, 'this call needs valid credentials');
  const denied = await ask(client, '/plumb.reward.v1.RewardService/ListRewards', `Bearer ${token('label')}`);
  assert.deepEqual([denied.code, denied.details], [7, 'this caller may not make this call']);
  for (const { trailers } of [anonymous, denied])
    assert.doesNotMatch(trailers, /label|Role|read|score|Reward/);
  const health = await ask(client, '/grpc.health.v1.Health/Check');
  assert.equal(health.code, 0);
});

test("a callers' file is used as soon as it changes, and a broken one is not used", async (t) => {
  const callersFile = path.join(folder, 'changing.yaml');
  await writeFile(callersFile, everyRole);
  const { address, access } = await serve(t, { callersFile });
  const client = clientTo(t, address);
  const list = '/plumb.reward.v1.RewardService/ListRewards';
  assert.equal((await ask(client, list, `Bearer ${token('read')}`)).code, 0);
  await writeFile(callersFile, 'callers: [{ name: x');
  await access.refresh();
  assert.equal((await ask(client, list, `Bearer ${token('read')}`)).code, 0);
  await writeFile(callersFile, callersOf([`name: new, roles: [read], tokenSha256: ${sha256(token('new'))}`]));
  await access.refresh();
  assert.equal((await ask(client, list, `Bearer ${token('read')}`)).code, 16);
  assert.equal((await ask(client, list, `Bearer ${token('new')}`)).code, 0);
});

describe("a callers' file that cannot be used", () => {
  const cases: Readonly<Record<string, readonly [string, RegExp]>> = {
    'no YAML': ['callers: [', /not valid YAML/],
    'no credentials': [
      callersOf(['name: a, roles: [read]']),
      /callers\.0: needs tokenSha256, certificate or both/,
    ],
    'a role that is none': [callersOf([`name: a, roles: [root], certificate: x`]), /callers\.0\.roles\.0/],
    'a token in place of its hash': [
      callersOf([`name: a, roles: [read], tokenSha256: ${token('secret')}`]),
      /must be the token's SHA-256/,
    ],
    'a name twice': [
      callersOf(['name: a, roles: [read], certificate: x', 'name: a, roles: [read], certificate: y']),
      /'a' is there twice/,
    ],
    'a setting that is none': [callersOf(['name: a, roles: [read], certificate: x, quota: 5']), /quota/],
  };
  for (const [what, [text, problem]] of Object.entries(cases)) {
    test(what, async () => {
      const callersFile = path.join(folder, 'bad.yaml');
      await writeFile(callersFile, text);
      await assert.rejects(openAccess({ callersFile }), (error) => {
        assert.ok(error instanceof PlumbError);
        assert.equal(error.reason, 'CONFIGURATION_INVALID');
        assert.match(error.message, problem);
        assert.match(error.message, /PLUMB_AUTH_CALLERS_FILE=/);
        assert.doesNotMatch(error.message, /Zm9yLXRlc3Rz/);
        return true;
      });
    });
  }
});

test('keys from a URL: fetched when needed; without them a call may be tried again', async (t) => {
  const keys = await signingKey('k1');
  let up = false;
  let fetched = 0;
  const http = createHttpServer((_request, response) => {
    fetched += 1;
    if (up) response.setHeader('content-type', 'application/json').end(JSON.stringify({ keys: [keys.jwk] }));
    else response.writeHead(503).end();
  }).listen(0, '127.0.0.1');
  await once(http, 'listening');
  t.after(() => http.close());
  const bound = http.address();
  assert.ok(bound !== null && typeof bound !== 'string');
  const { address } = await serve(t, { jwt: verification(`http://127.0.0.1:${bound.port}/jwks`) });
  const client = clientTo(t, address);
  const list = '/plumb.reward.v1.RewardService/ListRewards';
  const header = `Bearer ${await keys.sign({})}`;
  assert.equal((await ask(client, list, header)).code, 14);
  up = true;
  assert.equal((await ask(client, list, header)).code, 0);
  assert.equal((await ask(client, list, header)).code, 0);
  assert.equal(fetched, 2);
});

describe('limits', () => {
  const limited = callersOf([
    `name: few-calls, roles: [score], callsPerSecond: 0.001, tokenSha256: ${sha256(token('calls'))}`,
    `name: few-items, roles: [score, label], itemsPerHour: 5, tokenSha256: ${sha256(token('items'))}`,
    `name: free, roles: [score], tokenSha256: ${sha256(token('free'))}`,
  ]);

  async function limitedClient(t: TestContext, name: string) {
    const callersFile = path.join(folder, 'limited.yaml');
    await writeFile(callersFile, limited);
    const { address } = await serve(t, { callersFile });
    const { token: tokenFile } = await writeFiles(folder, { token: token(name) });
    const shown = await openClientCredentials({ token: { path: tokenFile, variable: '--token-file' } });
    const client = createClient(RewardService, address, { credentials: shown, retry: 'none' });
    const labels = createClient(LabelService, address, { credentials: shown, retry: 'none' });
    t.after(() => {
      client.close();
      labels.close();
      shown.close();
    });
    return { client, labels };
  }

  const isExhausted =
    (reason: string, wait: boolean) =>
    (error: unknown): true => {
      assert.ok(error instanceof PlumbError);
      assert.deepEqual([error.code, error.reason], ['RESOURCE_EXHAUSTED', reason]);
      assert.equal(error.retryAfterMs !== undefined && error.retryAfterMs > 0, wait);
      return true;
    };

  test('calls a second', async (t) => {
    const { client } = await limitedClient(t, 'calls');
    await client.listRewards({});
    await assert.rejects(client.listRewards({}), isExhausted('RATE_LIMITED', true));
  });

  test('items an hour, over all calls; a refused call costs none', async (t) => {
    const { client, labels } = await limitedClient(t, 'items');
    const items = (count: number) => ({ items: Array.from({ length: count }, () => ({})) });
    await client.score(items(3));
    await assert.rejects(client.score(items(3)), isExhausted('QUOTA_EXHAUSTED', true));
    await labels.createLabel({});
    await client.score(items(1));
    await assert.rejects(client.score(items(1)), isExhausted('QUOTA_EXHAUSTED', true));
    await client.listRewards({});
  });

  test('more items in a call than an hour has: waiting does not help', async (t) => {
    const { client } = await limitedClient(t, 'items');
    const items = Array.from({ length: 6 }, () => ({}));
    await assert.rejects(client.score({ items }), isExhausted('QUOTA_EXHAUSTED', false));
  });

  test('a caller without limits has none', async (t) => {
    const { client } = await limitedClient(t, 'free');
    for (let i = 0; i < 20; i++) await client.score({ items: Array.from({ length: 64 }, () => ({})) });
  });
});

describe('TLS', () => {
  const loopback = [
    { type: 'dns', value: 'localhost' },
    { type: 'ip', value: '127.0.0.1' },
  ] as const;

  async function tlsServer(t: TestContext, clientCa: string | undefined, callers?: string) {
    const authority = await createAuthority('servers');
    const own = mkdtempSync(path.join(folder, 'tls-'));
    const issued = await authority.issue([...loopback]);
    const files = await writeFiles(own, {
      'tls.crt': issued.certificate,
      'tls.key': issued.key,
      'ca.crt': authority.certificate,
      'clients.crt': clientCa ?? '',
      'callers.yaml': callers ?? everyRole,
    });
    const tls = await serverTls({
      certificate: { path: files['tls.crt'], variable: 'PLUMB_TLS_CERT' },
      key: { path: files['tls.key'], variable: 'PLUMB_TLS_KEY' },
      authority:
        clientCa === undefined ? undefined : { path: files['clients.crt'], variable: 'PLUMB_TLS_CLIENT_CA' },
      everyMs: 600_000,
    });
    const access = await openAccess({ callersFile: files['callers.yaml'], everyMs: 600_000 });
    const server = createServer({ tls: tls.credentials, access });
    server.add(RewardService, {
      score: () => ({}),
      async *scoreStream(requests) {
        for await (const { item } of requests) yield { item: { id: item?.id ?? '' } };
      },
      listRewards: (_request, { caller }) => ({ rewards: [{ name: caller ?? '' }] }),
      getReward: () => ({}),
      getShadowReport: () => ({}),
      reloadRewards: () => ({}),
    });
    const { address } = await server.listen();
    t.after(async () => {
      await server.stop({ deadlineMs: 0 });
      tls.close();
      access.close();
    });
    return { authority, files, tls, address, own };
  }

  async function tlsClient(t: TestContext, address: string, files: ClientCredentialFiles) {
    const shown: ClientCredentials = await openClientCredentials({ everyMs: 600_000, ...files });
    const client = createClient(RewardService, address, { credentials: shown, retry: 'none' });
    t.after(() => {
      client.close();
      shown.close();
    });
    return { client, shown };
  }

  const named = (file: string) => ({ path: file, variable: '--test' });

  test('a token over TLS; a client that trusts another authority gets nowhere', async (t) => {
    const { files, address, own } = await tlsServer(t, undefined);
    const other = await createAuthority('somebody else');
    const more = await writeFiles(own, { token: `${token('read')}\n`, 'other.crt': other.certificate });
    const { client } = await tlsClient(t, address, { ca: named(files['ca.crt']), token: named(more.token) });
    assert.equal((await client.listRewards({})).rewards[0]?.name, 'read');
    const { client: distrusting } = await tlsClient(t, address, {
      ca: named(more['other.crt']),
      token: named(more.token),
    });
    await assert.rejects(distrusting.listRewards({}), { code: 'UNAVAILABLE' });
    const { client: plain } = await tlsClient(t, address, {});
    await assert.rejects(plain.listRewards({}), { code: 'UNAVAILABLE' });
  });

  test('a new certificate is used by new connections, and calls under way go on', async (t) => {
    const { authority, files, address, tls, own } = await tlsServer(t, undefined);
    const more = await writeFiles(own, { token: token('score') });
    const before_ = await tlsClient(t, address, { ca: named(files['ca.crt']), token: named(more.token) });
    const gate = Promise.withResolvers<undefined>();
    const stream = before_.client.scoreStream(
      (async function* () {
        yield { item: { id: 'before' } };
        await gate.promise;
        yield { item: { id: 'after' } };
      })(),
    );
    const answers = stream[Symbol.asyncIterator]();
    const first = await answers.next();
    assert.equal(first.done === true ? '' : first.value.item?.id, 'before');

    const replacement = await createAuthority('servers, renewed');
    const renewed = await replacement.issue([...loopback]);
    // The certificate is there before its key: the pair does not fit, and the old one stays.
    await writeFiles(own, { 'tls.crt': renewed.certificate });
    await tls.refresh();
    const between = await tlsClient(t, address, { ca: named(files['ca.crt']), token: named(more.token) });
    await between.client.listRewards({});
    await writeFiles(own, { 'tls.key': renewed.key, 'renewed-ca.crt': replacement.certificate });
    await tls.refresh();

    gate.resolve(undefined);
    const second = await answers.next();
    assert.equal(second.done === true ? '' : second.value.item?.id, 'after');
    const { client: renewing } = await tlsClient(t, address, {
      ca: named(path.join(own, 'renewed-ca.crt')),
      token: named(more.token),
    });
    await renewing.listRewards({});
    const { client: old } = await tlsClient(t, address, {
      ca: named(files['ca.crt']),
      token: named(more.token),
    });
    await assert.rejects(old.listRewards({}), { code: 'UNAVAILABLE' });
    assert.match(authority.certificate, /BEGIN CERTIFICATE/);
  });

  test('mutual TLS: a certificate is who one is; without one nothing connects', async (t) => {
    const clients = await createAuthority('clients');
    const name = 'spiffe://plumb/reward';
    const { files, address, own } = await tlsServer(
      t,
      clients.certificate,
      callersOf([`name: reward, roles: [score], certificate: "${name}"`]),
    );
    const known = await clients.issue([{ type: 'url', value: name }]);
    const unknown = await clients.issue([{ type: 'dns', value: 'somebody' }]);
    const forged = await (await createAuthority('clients')).issue([{ type: 'url', value: name }]);
    const more = await writeFiles(own, {
      'known.crt': known.certificate,
      'known.key': known.key,
      'unknown.crt': unknown.certificate,
      'unknown.key': unknown.key,
      'forged.crt': forged.certificate,
      'forged.key': forged.key,
    });
    const ca = named(files['ca.crt']);
    const as = async (who: 'known' | 'unknown' | 'forged') =>
      await tlsClient(t, address, {
        ca,
        certificate: named(more[`${who}.crt`]),
        key: named(more[`${who}.key`]),
      });
    const { client, shown } = await as('known');
    assert.equal((await client.listRewards({})).rewards[0]?.name, 'reward');
    await assert.rejects((await as('unknown')).client.listRewards({}), { code: 'UNAUTHENTICATED' });
    await assert.rejects((await as('forged')).client.listRewards({}), { code: 'UNAVAILABLE' });
    await assert.rejects((await tlsClient(t, address, { ca })).client.listRewards({}), {
      code: 'UNAVAILABLE',
    });

    // A client's certificate is renewed under it as well.
    const renewed = await clients.issue([{ type: 'dns', value: 'renewed' }]);
    await writeFiles(own, { 'known.crt': renewed.certificate, 'known.key': renewed.key });
    await shown.refresh();
    const again = createClient(RewardService, address.replace('127.0.0.1', 'localhost'), {
      credentials: shown,
      retry: 'none',
    });
    t.after(() => {
      again.close();
    });
    await assert.rejects(again.listRewards({}), { code: 'UNAUTHENTICATED' });
  });

  test('files that do not fit are named', async () => {
    const authority = await createAuthority('x');
    const [one, two] = [await authority.issue([...loopback]), await authority.issue([...loopback])];
    const files = await writeFiles(folder, { 'one.crt': one.certificate, 'two.key': two.key });
    const certificate = { path: files['one.crt'], variable: 'PLUMB_TLS_CERT' };
    const key = { path: files['two.key'], variable: 'PLUMB_TLS_KEY' };
    await assert.rejects(
      serverTls({ certificate, key }),
      /the certificate of the server cannot be used .*PLUMB_TLS_CERT=.*PLUMB_TLS_KEY=/,
    );
    const missing = { path: path.join(folder, 'no-such-file'), variable: 'PLUMB_TLS_KEY' };
    await assert.rejects(serverTls({ certificate, key: missing }), /ENOENT.*PLUMB_TLS_KEY=/);
  });
});

test('a token never goes to another machine in plain text, unless told', async () => {
  const { t: file } = await writeFiles(folder, { t: token('read') });
  const shown = await openClientCredentials({ token: { path: file, variable: 'PLUMB_AUTH_TOKEN_FILE' } });
  assert.throws(
    () => createClient(RewardService, 'dns:///reward.plumb:50051', { credentials: shown }),
    /a token would go to dns:\/\/\/reward\.plumb:50051 in plain text/,
  );
  createClient(RewardService, '127.0.0.1:50051', { credentials: shown }).close();
  shown.close();
  const insecure = await openClientCredentials({
    token: { path: file, variable: 'PLUMB_AUTH_TOKEN_FILE' },
    insecurePlaintext: true,
  });
  createClient(RewardService, 'dns:///reward.plumb:50051', { credentials: insecure }).close();
  insecure.close();
});

test('what a logger is given of secrets does not come out', () => {
  let written = '';
  const log = createLogger({ write: (line: string) => (written += line) });
  const secret = token('admin');
  log.info(
    { authorization: `Bearer ${secret}`, token: secret, metadata: { authorization: `Bearer ${secret}` } },
    'call',
  );
  assert.match(written, /\[redacted\]/);
  assert.doesNotMatch(written, /Zm9yLXRlc3Rz/);
});
