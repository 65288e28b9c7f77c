/** The reward service as its callers see it: health of each reward, and clips that come slowly. */

import assert from 'node:assert/strict';
import { createHash } from 'node:crypto';
import { once } from 'node:events';
import { mkdir, mkdtemp, readFile, rm, writeFile } from 'node:fs/promises';
import type { ServerResponse } from 'node:http';
import { createServer } from 'node:https';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { after, before, test } from 'node:test';
import type { TestContext } from 'node:test';
import { setTimeout as delay } from 'node:timers/promises';
import { fromStatus } from '@plumb/kit/errors';
import type { PlumbError } from '@plumb/kit/errors';
import { createClient } from '@plumb/kit/rpc';
import { createAuthority } from '@plumb/kit/testing/certificates';
import { startNatsServer } from '@plumb/kit/testing/nats-server';
import type { TestNatsServer } from '@plumb/kit/testing/nats-server';
import { clipMediaType, encodeClip } from '@plumb/media';
import type { Clip } from '@plumb/media';
import { ValueRange } from '@plumb/proto/plumb/media/v1/video_pb.js';
import { RewardService } from '@plumb/proto/plumb/reward/v1/reward_pb.js';
import type { RewardOutcome } from '@plumb/proto/plumb/reward/v1/reward_pb.js';
import { motionFloor } from '@plumb/rewards';
import { healthAt } from './support/grpc-health.ts';
import { childrenOf, startService } from './support/service-process.ts';
import type { ServiceProcess } from './support/service-process.ts';

let nats: TestNatsServer;
let folder: string;

before(async () => {
  nats = await startNatsServer();
  folder = await mkdtemp(path.join(tmpdir(), 'plumb-reward-service-'));
});
after(async () => {
  await nats.stop();
  await rm(folder, { recursive: true, force: true });
});

async function startReward(
  t: TestContext,
  env: Readonly<Record<string, string>>,
): Promise<{ service: ServiceProcess; client: ReturnType<typeof clientOf> }> {
  const service = await startService('reward', {
    PLUMB_NATS_URL: nats.url,
    PLUMB_ARTIFACTS: path.join(folder, 'artifacts'),
    PLUMB_SPAN_DIRECTORY: path.join(folder, 'spans'),
    PLUMB_JUDGE_ADDRESS: '127.0.0.1:1',
    ...env,
  });
  const client = clientOf(service.address);
  t.after(async () => {
    client.close();
    await service.stop();
  });
  return { service, client };
}

const clientOf = (address: string) => createClient(RewardService, address, { defaultDeadlineMs: 120_000 });

/** A clip that no other number gives. */
function clipOf(number: number, frames = 3, side = 24): Clip {
  const data = Uint8Array.from(
    { length: frames * side * side * 3 },
    (_, at) => (at * (number + 7) + ((at * at) % (number + 11))) % 251,
  );
  return { frames, width: side, height: side, fps: 8, data };
}

function inline({ frames, width, height, fps, data }: Clip) {
  return {
    source: { case: 'inline' as const, value: data },
    mediaType: 'video/raw',
    width,
    height,
    frameCount: frames,
    fps,
    valueRange: ValueRange.UINT8,
  };
}

const prompt = { text: 'the red ball falls to the ground' };

function errorOf(outcome: RewardOutcome | undefined): PlumbError {
  assert.ok(outcome?.outcome.case === 'error' && outcome.outcome.value.status, 'it should have failed');
  return fromStatus(outcome.outcome.value.status);
}

async function eventually(what: string, limitMs: number, check: () => Promise<boolean>): Promise<void> {
  for (const start = performance.now(); !(await check()); await delay(20)) {
    assert.ok(performance.now() - start < limitMs, `${what}, within ${limitMs} ms`);
  }
}

test('health is that of each reward: a wrong golden clip, a refused exchange, a host that stands still', async (t) => {
  const definitions = path.join(folder, 'rewards');
  await mkdir(definitions);
  const golden = clipOf(1);
  const bytes = await encodeClip(golden);
  await writeFile(path.join(definitions, 'golden.png'), bytes);
  const guard = (name: string, version: string, value: number): Promise<void> =>
    writeFile(
      path.join(definitions, `${name}.yaml`),
      `format: 1
kind: motion-floor
name: ${name}
version: '${version}'
description: test
golden:
  - clip: { file: golden.png, sha256: ${createHash('sha256').update(bytes).digest('hex')}, frames: 3, width: 24, height: 24, fps: 8 }
    prompt: x
    value: ${value}
    tolerance: 1e-9
`,
    );
  const right = motionFloor(golden).value;
  await guard('motion', '1', right);
  await guard('broken', '1', right + 0.25);
  await writeFile(
    path.join(definitions, 'flow.yaml'),
    "format: 1\nname: flow\nversion: '1'\ndescription: test\nkind: optical-flow\nestimator: { method: farneback }\n",
  );
  const { service, client } = await startReward(t, {
    PLUMB_REWARDS: definitions,
    PLUMB_REWARDS_EVERY_SECONDS: '3600',
  });
  const checks = healthAt(service.address);
  t.after(() => checks.close());
  const health = (reward: string): Promise<string> => checks.of(`plumb.reward.v1.RewardService/${reward}`);
  const score = async (rewards: string[], number: number): Promise<RewardOutcome[]> => {
    const { items } = await client.score({
      rewards,
      items: [{ id: 'a', prompt, video: inline(clipOf(number)) }],
    });
    return items[0]?.outcomes ?? [];
  };

  assert.deepEqual(await Promise.all(['motion', 'broken', 'flow'].map(health)), [
    'SERVING',
    'NOT_SERVING',
    'SERVING',
  ]);
  assert.equal(await checks.of('plumb.reward.v1.RewardService'), 'SERVING');
  assert.match(
    (await client.getReward({ name: 'broken' })).reward?.healthReason ?? '',
    /golden clip golden\.png/,
  );
  const [motion, broken] = await score(['motion', 'broken'], 2);
  assert.equal(motion?.outcome.case, 'score');
  assert.equal(errorOf(broken).code, 'UNAVAILABLE');

  // A new version whose golden clip has another value does not take the place of the old one.
  await guard('motion', '2', right + 0.25);
  const { exchanged, refused } = await client.reloadRewards({});
  assert.deepEqual([exchanged, Object.keys(refused)], [[], ['motion']]);
  assert.ok(refused['motion'] !== undefined);
  assert.equal(fromStatus(refused['motion']).reason, 'REWARD_GOLDEN_MISMATCH');
  assert.equal((await score(['motion'], 3))[0]?.version, '1');
  assert.equal(await health('motion'), 'SERVING');
  await guard('motion', '3', right);
  assert.deepEqual((await client.reloadRewards({})).exchanged, ['motion']);

  // A host that stands still: noticed, ended, started again; nobody else is held up.
  assert.equal((await score(['flow'], 4))[0]?.outcome.case, 'score');
  const commands = await Promise.all(
    (await childrenOf(service.pid)).map(async (pid) => ({
      pid,
      command: await readFile(`/proc/${pid}/cmdline`, 'utf8').catch(() => ''),
    })),
  );
  const host = commands.find(({ command }) => command.includes('host-process'));
  assert.ok(host !== undefined);
  process.kill(host.pid, 'SIGSTOP');
  const [stuck] = await Promise.all([
    score(['flow'], 5),
    eventually('it is noticed', 5000, async () => (await health('flow')) === 'NOT_SERVING'),
    score(['motion'], 5).then(([outcome]) => assert.equal(outcome?.outcome.case, 'score')),
  ]);
  assert.deepEqual([errorOf(stuck[0]).code, errorOf(stuck[0]).retryable], ['UNAVAILABLE', true]);
  await eventually('it is back', 60_000, async () => (await health('flow')) === 'SERVING');
  assert.equal((await score(['flow'], 5))[0]?.outcome.case, 'score');
});

test('clips that come slowly hold nobody up, and end with their callers', async (t) => {
  const authority = await createAuthority('plumb test');
  const { certificate, key } = await authority.issue([{ type: 'dns', value: 'localhost' }]);
  await writeFile(path.join(folder, 'ca.pem'), authority.certificate);
  const asked: ServerResponse[] = [];
  let closed = 0;
  const server = createServer({ cert: certificate, key }, (_request, response) => {
    asked.push(response);
    response.on('close', () => {
      closed += 1;
    });
  }).listen(0, 'localhost');
  await once(server, 'listening');
  t.after(() => {
    server.closeAllConnections();
    server.close();
  });
  const bound = server.address();
  assert.ok(bound !== null && typeof bound === 'object');
  const prefix = `https://localhost:${bound.port}/clips/`;
  const { client } = await startReward(t, {
    PLUMB_CLIP_PREFIXES: prefix,
    NODE_EXTRA_CA_CERTS: path.join(folder, 'ca.pem'),
    PLUMB_INTRA_OP_THREADS: '1',
  });
  const clips = await Promise.all([70, 71, 72].map((number) => encodeClip(clipOf(number))));
  const slow = clips.map((bytes, index) => ({
    id: `slow ${index}`,
    prompt,
    video: {
      ...inline(clipOf(70 + index)),
      source: { case: 'uri' as const, value: `${prefix}${index}.png` },
      sha256: createHash('sha256').update(bytes).digest('hex'),
      mediaType: clipMediaType,
    },
  }));
  const rewards = ['motion_floor', 'optical_flow'];

  let ended = false;
  const waiting = client.score({ rewards, items: slow.slice(0, 2) }).finally(() => {
    ended = true;
  });
  await eventually('both are being fetched', 30_000, async () => Promise.resolve(asked.length === 2));
  // More calls than there are places in batches: not one of them waits for the slow two.
  for (let round = 0; round < 4; round += 1) {
    const calls = Array.from({ length: 10 }, (_, index) =>
      client.score({
        rewards,
        items: [{ id: 'a', prompt, video: inline(clipOf(100 + 10 * round + index)) }],
      }),
    );
    for (const { items } of await Promise.all(calls)) {
      assert.ok(items[0]?.outcomes.every(({ outcome }) => outcome.case === 'score'));
    }
  }
  assert.equal(ended, false);
  for (const [index, response] of asked.entries()) response.end(clips[index]);
  const { items } = await waiting;
  assert.ok(items.every(({ outcomes }) => outcomes.every(({ outcome }) => outcome.case === 'score')));

  // Nobody waits any more: the connection is closed, by the deadline and long before the time limit of a fetch.
  const before = closed;
  await assert.rejects(client.score({ rewards, items: slow.slice(2) }, { deadlineMs: 1000 }), {
    code: 'DEADLINE_EXCEEDED',
  });
  await eventually('the fetch is given up', 10_000, async () => Promise.resolve(closed === before + 1));
});
