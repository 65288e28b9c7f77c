import assert from 'node:assert/strict';
import { mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, test } from 'node:test';
import { startNatsServer } from '@plumb/kit/testing/nats-server';
import { connectBus } from '@plumb/kit/bus';
import { openClientCredentials } from '@plumb/kit/rpc';
import { checkArtifacts, checkBroker, checkDatabase, checkServices, clockFinding } from './checks.ts';
import type { Deployment } from './deployment.ts';
import { findDeployment } from './deployment.ts';
import { findingsText } from './findings-text.ts';

const folder = await mkdtemp(join(tmpdir(), 'plumb doctor '));
after(() => rm(folder, { recursive: true, force: true }));

const nowhere: Deployment = {
  where: 'a test',
  services: {},
  // Port 9 is that of the discard protocol, on which nobody listens.
  nats: { url: 'nats://127.0.0.1:9', access: {} },
  artifacts: undefined,
  databaseUrl: undefined,
  credentials: await openClientCredentials({}),
  kubernetes: undefined,
};

test('a broker that is away, one without streams, and one that has them', async () => {
  const [away] = await checkBroker(nowhere);
  assert.equal(away?.result, 'fail');
  assert.match(away.found, /no broker answers at nats:\/\/127\.0\.0\.1:9/);
  assert.match(away.fix ?? '', /start the broker/);

  const nats = await startNatsServer();
  try {
    const deployment = { ...nowhere, nats: { url: nats.url, access: {} } };
    const [broker, ...streams] = await checkBroker(deployment);
    assert.equal(broker?.result, 'ok', broker?.found);
    assert.match(broker.found, /^nats-server 2\.\d+/);
    assert.deepEqual([...new Set(streams.map(({ result }) => result))], ['warn']);

    const bus = await connectBus({ url: nats.url, name: 'test' });
    await bus.ensureStreams();
    await bus.close();
    const made = await checkBroker(deployment);
    assert.deepEqual([...new Set(made.map(({ result }) => result))], ['ok']);
    assert.ok(
      made.some(({ subject, found }) => subject === 'nats: PLUMB_TASKS' && found === '0 messages, 0% full'),
    );
  } finally {
    await nats.stop();
  }
});

test('an artifact store that can be written to, and one that cannot', async () => {
  const [good] = await checkArtifacts({ ...nowhere, artifacts: join(folder, 'artifacts') });
  assert.equal(good?.result, 'ok', good?.found);
  await writeFile(join(folder, 'file'), '');
  const [bad] = await checkArtifacts({ ...nowhere, artifacts: join(folder, 'file') });
  assert.equal(bad?.result, 'fail');
  assert.match(bad.fix ?? '', /PLUMB_ARTIFACTS/);
  assert.equal((await checkArtifacts(nowhere))[0]?.result, 'skip');
});

test('a database and a service that nobody answers for', async () => {
  const [database] = await checkDatabase({ ...nowhere, databaseUrl: 'postgres://nobody@127.0.0.1:9/none' });
  assert.equal(database?.result, 'fail');
  assert.match(database.fix ?? '', /PLUMB_DATABASE_URL/);
  const services = await checkServices({ ...nowhere, services: { judge: '127.0.0.1:9' } });
  const judge = services.find(({ subject }) => subject === 'judge');
  assert.equal(judge?.result, 'fail');
  assert.match(judge.fix ?? '', /127\.0\.0\.1:9 is its address/);
  assert.equal(services.find(({ subject }) => subject === 'loop')?.result, 'skip');
});

test('clocks may differ by two seconds and by what the question took', () => {
  assert.equal(clockFinding('clock', 10_000, 9_990, 10_010).result, 'ok');
  assert.equal(clockFinding('clock', 11_900, 9_990, 10_010).result, 'ok');
  const ahead = clockFinding('clock', 15_000, 9_990, 10_010);
  assert.equal(ahead.result, 'fail');
  assert.equal(ahead.found, '5000 ms ahead of ours');
  assert.equal(clockFinding('clock', 5_000, 9_990, 10_010).found, '5000 ms behind ours');
  // A question of ten seconds says nothing to the second.
  assert.equal(clockFinding('clock', 4_000, 0, 10_000).result, 'ok');
});

test('without a system and without settings there is nothing to look at, and the error says how to go on', async () => {
  await assert.rejects(
    findDeployment(join(folder, 'none'), {}),
    /nothing runs in .*none, and PLUMB_NATS_URL is not set/,
  );
  await assert.rejects(
    findDeployment(folder, { PLUMB_NATS_URL: 'nats://127.0.0.1:9', PLUMB_DATABASE_URL: 'pglite:here' }),
    /PLUMB_DATABASE_URL.*its loop alone/,
  );
});

test('findings are a line each, with the fix below', () => {
  const text = findingsText('here', [
    { subject: 'nats', result: 'ok', found: 'fine' },
    { subject: 'database', result: 'fail', found: 'away', fix: 'start it' },
  ]);
  assert.equal(
    text,
    'Looked at here.\n\nok    nats      fine\nFAIL  database  away\n                → start it\n\n1 failed, 0 to look at.',
  );
});
