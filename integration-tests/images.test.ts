/**
 * What the container files install, assembled in a folder and started from there by a user who may write nothing in it.
 * PLUMB_TEST_IMAGES names the images, for example generator,loop: it takes some minutes and asks the npm registry.
 */
import assert from 'node:assert/strict';
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { chmod, mkdir, mkdtemp, readdir, rm, stat } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, before, test } from 'node:test';
import { startNatsServer } from '@plumb/kit/testing/nats-server';
import type { TestNatsServer } from '@plumb/kit/testing/nats-server';
import { z } from 'zod';
import { assembleImage } from '../charts/src/assemble-image.ts';
import { stagesOf } from '../charts/src/container-files.ts';

const names = (process.env['PLUMB_TEST_IMAGES'] ?? '').split(',').filter((name) => name !== '');
const skip = names.length === 0 ? 'PLUMB_TEST_IMAGES names no image' : false;
const timeout = 1_800_000;
/** Nobody in particular, and not root: as in the images. */
const user = process.getuid?.() === 0 ? { uid: 1000, gid: 1000 } : {};

let folder: string;
let nats: TestNatsServer;

before(async () => {
  if (skip !== false) return;
  folder = await mkdtemp(join(tmpdir(), 'plumb-images-'));
  await chmod(folder, 0o755);
  nats = await startNatsServer();
});

after(async () => {
  if (skip !== false) return;
  await nats.stop();
  await rm(folder, { recursive: true, force: true });
});

async function bytesOf(path: string): Promise<number> {
  let bytes = 0;
  for (const entry of await readdir(path, { recursive: true, withFileTypes: true }))
    if (entry.isFile()) bytes += (await stat(join(entry.parentPath, entry.name))).size;
  return bytes;
}

/** Starts the program of an image. Gives what it printed when it is ready, or when it has ended. */
async function start(app: string, name: string, env: Readonly<Record<string, string>>) {
  const stages = await stagesOf(name);
  const words = stages.at(-1)?.instructions.findLast(({ keyword }) => keyword === 'CMD')?.words ?? [];
  const child = spawn(process.execPath, words.slice(1), { cwd: app, env, ...user });
  let log = '';
  child.stderr.setEncoding('utf8').on('data', (text: string) => {
    log += text;
  });
  const exited = once(child, 'exit');
  const ready = once(child.stdout.setEncoding('utf8'), 'data').then(([line]) => z.string().parse(line));
  const line = await Promise.race([ready, exited.then(() => '')]);
  if (line !== '') child.kill('SIGTERM');
  await exited;
  return { line, code: child.exitCode, log };
}

const addresses = {
  PLUMB_TRAINER_ADDRESS: '127.0.0.1:1',
  PLUMB_JUDGE_ADDRESS: '127.0.0.1:1',
  PLUMB_REWARD_ADDRESS: '127.0.0.1:1',
};

for (const name of names) {
  test(`${name}: starts from what its image has, and ends well`, { timeout }, async (t) => {
    const work = join(folder, name);
    const app = await assembleImage(name, work);
    t.diagnostic(`${name}: ${(await bytesOf(app)) / 2 ** 20} MiB in /app`);
    const own = join(work, 'own');
    await mkdir(own);
    await chmod(own, 0o777);
    const environment = {
      PATH: '/usr/bin:/bin',
      NODE_ENV: 'production',
      PLUMB_NATS_URL: nats.url,
      PLUMB_ARTIFACTS: own,
      PLUMB_DATABASE_URL: `pglite:${join(own, 'ledger')}`,
      PLUMB_JUDGES_FILE: join(app, 'services/judge/judges.toybox.yaml'),
      PLUMB_REFEREE_LISTEN: '127.0.0.1:0',
      ...addresses,
    };
    const { line, code, log } = await start(app, name, environment);
    assert.match(line, /"address":/, log);
    assert.equal(code, 0, log);
    if (name === 'referee') return;
    const refused = await start(app, name, { ...environment, PLUMB_NATS_URL: 'localhost' });
    assert.notEqual(refused.code, 0);
    assert.match(refused.log, /PLUMB_NATS_URL is 'localhost'.*nats:\/\//);
  });
}

test('images are assembled', { skip }, () => {
  assert.ok(names.length > 0);
});
