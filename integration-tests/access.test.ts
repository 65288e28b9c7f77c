/** Judge and reward with TLS and tokens on an address that is not loopback alone: real processes. */
import assert from 'node:assert/strict';
import { createHash } from 'node:crypto';
import { mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { after, before, test } from 'node:test';
import { setTimeout as delay } from 'node:timers/promises';
import { connectReward } from '@plumb/client';
import { createAuthority, writeFiles } from '@plumb/kit/testing/certificates';
import { startNatsServer } from '@plumb/kit/testing/nats-server';
import type { TestNatsServer } from '@plumb/kit/testing/nats-server';
import { RewardHealth } from '@plumb/proto/plumb/reward/v1/reward_pb.js';
import { startService } from './support/service-process.ts';

const tokens = {
  'reward.token': 'reward-service-token-of-a-test-0123456789',
  'reader.token': 'reader-token-of-a-test-0123456789abcdefgh',
};
let folder: string;
let nats: TestNatsServer;

before(async () => {
  folder = await mkdtemp(path.join(tmpdir(), 'plumb-access-'));
  nats = await startNatsServer();
});

after(async () => {
  await nats.stop();
  await rm(folder, { recursive: true, force: true });
});

test('a service calls another with its token over TLS; no token is in a log', async (t) => {
  const sha256 = (text: string): string => createHash('sha256').update(text).digest('hex');
  const authority = await createAuthority('platform');
  const issued = await authority.issue([{ type: 'dns', value: 'localhost' }]);
  const files = await writeFiles(folder, {
    ...tokens,
    'tls.crt': issued.certificate,
    'tls.key': issued.key,
    'ca.crt': authority.certificate,
    'callers.yaml': `callers:
  - { name: reward, roles: [score], tokenSha256: ${sha256(tokens['reward.token'])} }
  - { name: reader, roles: [read], tokenSha256: ${sha256(tokens['reader.token'])} }
`,
  });
  const environment = {
    PLUMB_NATS_URL: nats.url,
    PLUMB_ARTIFACTS: path.join(folder, 'artifacts'),
    PLUMB_LISTEN: '0.0.0.0:0',
    PLUMB_TLS_CERT: files['tls.crt'],
    PLUMB_TLS_KEY: files['tls.key'],
    PLUMB_TLS_CA: files['ca.crt'],
    PLUMB_AUTH_CALLERS_FILE: files['callers.yaml'],
    PLUMB_SPAN_DIRECTORY: path.join(folder, 'spans'),
    PLUMB_LOG_LEVEL: 'debug',
  };
  const local = (address: string): string => address.replace('0.0.0.0', 'localhost');
  const judge = await startService('judge', {
    ...environment,
    PLUMB_JUDGES_FILE: path.resolve(import.meta.dirname, '../services/judge/judges.toybox.yaml'),
  });
  t.after(() => judge.stop());
  const reward = await startService('reward', {
    ...environment,
    PLUMB_JUDGE_ADDRESS: local(judge.address),
    PLUMB_AUTH_TOKEN_FILE: files['reward.token'],
  });
  t.after(() => reward.stop());

  const address = local(reward.address);
  const ca = files['ca.crt'];
  const reader = await connectReward({ address, ca, tokenFile: files['reader.token'], retry: { limit: 0 } });
  const stranger = await connectReward({ address, ca, retry: { limit: 0 } });
  t.after(() => {
    reader.close();
    stranger.close();
  });
  await assert.rejects(stranger.listRewards(), { code: 'UNAUTHENTICATED' });
  await assert.rejects(reader.score({}), { code: 'PERMISSION_DENIED' });
  // aif serves as soon as the judge has told the reward service, by its token, what it is.
  for (const endMs = Date.now() + 60_000; ; await delay(50)) {
    const { health } = await reader.getReward('aif');
    if (health === RewardHealth.SERVING) break;
    assert.ok(Date.now() < endMs, reward.log());
  }
  // Access that is taken away is gone without a restart.
  await writeFile(
    files['callers.yaml'],
    `callers:\n  - { name: nobody, roles: [read], certificate: nobody }\n`,
  );
  for (const endMs = Date.now() + 60_000; ; await delay(50)) {
    const refused = await reader.listRewards().then(
      () => false,
      () => true,
    );
    if (refused) break;
    assert.ok(Date.now() < endMs);
  }
  await assert.rejects(reader.listRewards(), { code: 'UNAUTHENTICATED' });
  for (const log of [judge.log(), reward.log()]) {
    for (const token of Object.values(tokens)) assert.ok(!log.includes(token));
    assert.ok(!log.includes('PRIVATE KEY'));
  }
});
