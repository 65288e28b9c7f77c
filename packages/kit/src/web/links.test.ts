import assert from 'node:assert/strict';
import { randomBytes } from 'node:crypto';
import { mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { after, before, describe, mock, test } from 'node:test';
import { SignJWT } from 'jose';
import { openLinks } from './links.ts';
import type { Links } from './links.ts';

const day = 24 * 3600 * 1000;
const hour = day / 24;

describe('links', () => {
  let folder: string;
  let links: Links;
  let strangers: Links;
  before(async () => {
    folder = await mkdtemp(path.join(tmpdir(), 'plumb-links-'));
    links = await openLinks(await keyFile('ours', randomBytes(32)));
    strangers = await openLinks(await keyFile('theirs', randomBytes(32)));
  });
  after(async () => {
    links.close();
    strangers.close();
    await rm(folder, { recursive: true });
  });
  async function keyFile(name: string, bytes: Uint8Array): Promise<string> {
    const file = path.join(folder, name);
    await writeFile(file, bytes);
    return file;
  }
  const soon = (): Date => new Date(Date.now() + hour);

  test('a token says who calls, with which roles and for which session', async () => {
    const token = await links.token({ name: 'ann', roles: ['rate'], session: 's1', expiresAt: soon() });
    const caller = await links.verify(token);
    assert.deepEqual(caller, { name: 'ann', roles: new Set(['rate']), session: 's1' });
    const reader = await links.verify(await links.token({ name: 'bo', roles: ['read'], expiresAt: soon() }));
    assert.equal(reader?.session, undefined);
  });

  test('a token that has expired, was changed, is of another key or is none at all is nobody', async () => {
    const grant = { name: 'ann', roles: ['admin'], expiresAt: soon() } as const;
    const token = await links.token(grant);
    const [head = '', body = '', signature = ''] = token.split('.');
    const more = Buffer.from(
      JSON.stringify({ ...JSON.parse(Buffer.from(body, 'base64url').toString('utf8')), sub: 'eve' }),
    ).toString('base64url');
    const unsigned = Buffer.from('{"alg":"none"}').toString('base64url');
    for (const wrong of [
      await links.token({ ...grant, expiresAt: new Date(Date.now() - 1000) }),
      `${head}.${more}.${signature}`,
      `${unsigned}.${body}.`,
      await strangers.token(grant),
      'none',
      '',
    ]) {
      assert.equal(await links.verify(wrong), undefined, wrong);
    }
    assert.equal((await links.verify(token))?.name, 'ann');
  });

  test('the secret of tokens is not the key itself', async () => {
    const key = randomBytes(32);
    const other = await openLinks(await keyFile('direct', key));
    const token = await new SignJWT({ roles: ['admin'] })
      .setProtectedHeader({ alg: 'HS256' })
      .setIssuer('plumb-web')
      .setAudience('plumb-web')
      .setSubject('eve')
      .setExpirationTime(soon())
      .sign(key);
    assert.equal(await other.verify(token), undefined);
    other.close();
  });

  test('a role that nobody knows is no role', async () => {
    const roles = ['owner', 'read'] as never;
    const caller = await links.verify(await links.token({ name: 'ann', roles, expiresAt: soon() }));
    assert.deepEqual(caller?.roles, new Set(['read']));
  });

  test('a key that is too short is refused with what to do', async () => {
    await assert.rejects(openLinks(await keyFile('short', randomBytes(31))), {
      reason: 'CONFIGURATION_INVALID',
      message: /31 bytes.*openssl rand -hex 32/,
    });
  });

  describe('signed paths', () => {
    const at = (time: number): void => mock.timers.enable({ apis: ['Date'], now: time });
    const noon = Date.UTC(2026, 0, 2, 12);
    const holds = (signed: string, by: Links = links): boolean => {
      const { pathname, searchParams } = new URL(signed, 'http://plumb.invalid');
      return by.isSigned(pathname, searchParams);
    };
    after(() => mock.timers.reset());

    test('hold for 6 to 12 hours, and stay the same within 6 so that browsers keep what is behind them', () => {
      at(noon);
      const signed = links.signPath('/artifacts/a');
      assert.equal(links.signPath('/artifacts/a'), signed);
      assert.ok(holds(signed));
      mock.timers.setTime(noon + 6 * hour - 1);
      assert.equal(links.signPath('/artifacts/a'), signed);
      mock.timers.setTime(noon + 6 * hour);
      assert.notEqual(links.signPath('/artifacts/a'), signed);
      assert.ok(holds(signed));
      mock.timers.setTime(noon + 12 * hour - 1);
      assert.ok(holds(signed));
      mock.timers.setTime(noon + 12 * hour);
      assert.ok(!holds(signed), 'the hour is over');
      mock.timers.reset();
    });

    test('are of one path and one key, and nobody makes them hold longer', () => {
      at(noon);
      const signed = links.signPath('/artifacts/a');
      const until = String(noon / 1000 + 12 * 3600);
      assert.match(signed, new RegExp(`until=${until}&`));
      for (const wrong of [
        signed.replace('/artifacts/a', '/artifacts/b'),
        signed.replace(until, String(Number(until) + 3600)),
        signed.replace(until, '9'.repeat(13)),
        signed.replace(until, '-1'),
        signed.replace(/&signature=.*/, ''),
        signed.replace(/signature=..../, 'signature=AAAA'),
        signed.replace(/\?.*/, ''),
      ]) {
        assert.ok(!holds(wrong), wrong);
      }
      assert.ok(!holds(signed, strangers));
      mock.timers.reset();
    });
  });
});
