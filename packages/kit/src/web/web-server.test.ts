import assert from 'node:assert/strict';
import { randomBytes } from 'node:crypto';
import { mkdir, mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { after, before, describe, test } from 'node:test';
import { gzipSync } from 'node:zlib';
import { StudyService } from '@plumb/proto/plumb/loop/v1/study_pb.js';
import { exportJWK, generateKeyPair, SignJWT } from 'jose';
import { openAccess } from '../access/access.ts';
import { notFound } from '../errors.ts';
import type { WebServerOptions } from '../web.ts';
import { artifactPath, openLinks, startWebServer, webService } from '../web.ts';
import type { Links, WebServer } from '../web.ts';

const known = 'a'.repeat(64);
const bytes = Buffer.from('pixels');

describe('the web server', () => {
  let folder: string;
  let links: Links;
  let server: WebServer;
  let options: WebServerOptions;
  before(async () => {
    folder = await mkdtemp(path.join(tmpdir(), 'plumb-web-'));
    const keyFile = path.join(folder, 'key');
    await writeFile(keyFile, randomBytes(32));
    const page = path.join(folder, 'page');
    await mkdir(path.join(page, 'assets'), { recursive: true });
    await writeFile(path.join(page, 'index.html'), '<!doctype html><title>page</title>');
    const script = 'console.log(1)';
    await writeFile(path.join(page, 'assets/index-1234.js'), script);
    await writeFile(path.join(page, 'assets/index-1234.js.gz'), gzipSync(script));
    await writeFile(path.join(page, 'secret.key'), 'of no media type that is served');
    links = await openLinks(keyFile);
    options = {
      host: '127.0.0.1',
      port: 0,
      insecurePlaintext: false,
      links,
      services: [],
      folder: page,
      artifact: async (sha256) => {
        if (sha256 === known) return bytes;
        throw notFound('artifact', sha256);
      },
    };
    server = await startWebServer(options);
  });
  after(async () => {
    await server.stop();
    links.close();
    await rm(folder, { recursive: true });
  });
  const get = async (target: string, init: RequestInit = {}): Promise<Response> =>
    await fetch(`http://${server.address}${target}`, init);
  const signed = (sha256: string, mediaType = 'image/png'): string =>
    links.signPath(artifactPath(sha256, mediaType) ?? '');

  test('every answer has a policy that lets in no script but the page’s own', async () => {
    for (const target of ['/', '/runs/some', '/assets/index-1234.js', signed(known), '/none.js', '/api/x']) {
      const response = await get(target);
      await response.arrayBuffer();
      const policy = new Map(
        (response.headers.get('content-security-policy') ?? '').split('; ').map((directive) => {
          const [name = '', ...sources] = directive.split(' ');
          return [name, sources.join(' ')] as const;
        }),
      );
      assert.equal(policy.get('default-src'), "'none'", target);
      assert.equal(policy.get('script-src'), "'self'");
      assert.equal(policy.get('style-src'), "'self'");
      assert.equal(policy.get('connect-src'), "'self'");
      assert.equal(policy.get('frame-ancestors'), "'none'");
      assert.equal(policy.get('base-uri'), "'none'");
      assert.equal(policy.get('form-action'), "'none'");
      assert.doesNotMatch([...policy.values()].join(' '), /unsafe|\*|http/);
      assert.equal(response.headers.get('x-content-type-options'), 'nosniff');
      assert.equal(response.headers.get('referrer-policy'), 'no-referrer');
    }
  });

  test('every path without a file is a view of the one page; files are those that were there, and no others', async () => {
    assert.match(await (await get('/runs/run-1/clips')).text(), /<title>page/);
    for (const target of [
      '/none.js',
      '/secret.key',
      '/../web.key',
      '/%2e%2e/web.key',
      '/assets/..%2f..%2fkey.js',
    ]) {
      assert.equal((await get(target)).status, 404, target);
    }
    const posted = await get('/', { method: 'POST' });
    assert.equal(posted.status, 405);
  });

  test('files are compressed where the browser says so, kept where their name has their hash, and not sent twice', async () => {
    const packed = await get('/assets/index-1234.js', { headers: { 'accept-encoding': 'gzip' } });
    assert.equal(packed.headers.get('content-encoding'), 'gzip');
    assert.equal(await packed.text(), 'console.log(1)');
    assert.match(packed.headers.get('cache-control') ?? '', /immutable/);
    const etag = (await get('/')).headers.get('etag') ?? '';
    const again = await get('/', { headers: { 'if-none-match': etag } });
    assert.deepEqual([again.status, again.headers.get('cache-control')], [304, 'no-cache']);
  });

  test('an artifact is sent to whoever has its signed path, with the media type that was signed', async () => {
    const response = await get(signed(known));
    assert.deepEqual([response.status, response.headers.get('content-type')], [200, 'image/png']);
    assert.deepEqual(Buffer.from(await response.arrayBuffer()), bytes);
    assert.match(response.headers.get('cache-control') ?? '', /^private/);
    assert.equal((await get(signed('b'.repeat(64)))).status, 404);
    for (const wrong of [
      `/artifacts/${known}/image/png`,
      signed(known).replace('image/png', 'image/webp'),
      signed(known).replace(known, 'b'.repeat(64)),
      // Signed by ourselves, and still nothing that a browser is shown.
      links.signPath(`/artifacts/${known}/text/html`),
      links.signPath(`/artifacts/${known}/image/svg+xml`),
    ]) {
      assert.equal((await get(wrong)).status, 403, wrong);
    }
    assert.equal(artifactPath(known, 'text/html'), undefined);
    assert.equal(artifactPath('../key', 'image/png'), undefined);
  });

  test('calls from pages of others are refused before anybody is asked who calls', async () => {
    // fetch of Node sets no such header by itself.
    const response = await get('/api/plumb.loop.v1.LoopService/ListRuns', {
      method: 'POST',
      headers: { 'sec-fetch-site': 'cross-site' },
    });
    assert.equal(response.status, 403);
  });

  test('a caller with a JSON Web Token of a provider comes in with its roles, as one with a link does', async () => {
    const { publicKey, privateKey } = await generateKeyPair('ES256');
    const keys = path.join(folder, 'keys.json');
    await writeFile(
      keys,
      JSON.stringify({ keys: [{ ...(await exportJWK(publicKey)), kid: 'k', alg: 'ES256', use: 'sig' }] }),
    );
    const access = await openAccess({
      jwt: {
        keys,
        issuer: 'https://login.test',
        audience: 'plumb-dashboard',
        algorithms: ['ES256'],
        rolesClaim: 'plumb_roles',
        clockToleranceSeconds: 5,
      },
    });
    const callers: (string | undefined)[] = [];
    const behindProxy = await startWebServer({
      ...options,
      access,
      services: [
        webService(StudyService, {
          listStudies: (_request, { caller }) => {
            callers.push(caller);
            return {};
          },
          getStudy: () => ({}),
        }),
      ],
    });
    const jwt = async (roles: string, audience = 'plumb-dashboard'): Promise<string> =>
      await new SignJWT({ plumb_roles: roles })
        .setProtectedHeader({ alg: 'ES256', kid: 'k' })
        .setIssuer('https://login.test')
        .setAudience(audience)
        .setSubject('ada@example.com')
        .setExpirationTime('1h')
        .sign(privateKey);
    const list = async (token: string, headers: Record<string, string> = {}): Promise<number> => {
      const response = await fetch(
        `http://${behindProxy.address}/api/plumb.loop.v1.StudyService/ListStudies`,
        {
          method: 'POST',
          headers: { 'content-type': 'application/json', authorization: `Bearer ${token}`, ...headers },
          body: '{}',
        },
      );
      await response.arrayBuffer();
      return response.status;
    };
    try {
      assert.equal(await list(await jwt('read')), 200);
      assert.equal(await list(await jwt('label')), 403, 'a role that may not');
      assert.equal(await list(await jwt('read', 'another')), 401, 'a token for somebody else');
      const expiresAt = new Date(Date.now() + 60_000);
      assert.equal(await list(await links.token({ name: 'bo', roles: ['read'], expiresAt })), 200);
      assert.equal(await list(await jwt('admin'), { 'sec-fetch-site': 'cross-site' }), 403);
      assert.deepEqual(callers, ['jwt:ada@example.com', 'bo']);
    } finally {
      await behindProxy.stop();
      access.close();
    }
  });

  test('plain HTTP does not leave the machine unless a setting that calls itself insecure says so', async () => {
    await assert.rejects(startWebServer({ ...options, host: '0.0.0.0' }), {
      reason: 'ADDRESS_NOT_LOOPBACK',
      message: /PLUMB_INSECURE_PLAINTEXT=true.*PLUMB_WEB_LISTEN/,
    });
    const open = await startWebServer({ ...options, host: '0.0.0.0', insecurePlaintext: true });
    await open.stop();
  });

  test('a page that was not built is said so', async () => {
    const unbuilt = await startWebServer({ ...options, folder: path.join(folder, 'none') });
    const response = await fetch(`http://${unbuilt.address}/`);
    assert.equal(response.status, 503);
    assert.match(await response.text(), /npm run web/);
    await unbuilt.stop();
  });
});
