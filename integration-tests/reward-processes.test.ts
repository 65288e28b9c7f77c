/** Rewards in processes of their own: one that dies, one that is exchanged, one that scores in the shadow. */

import assert from 'node:assert/strict';
import { mkdir, mkdtemp, readdir, readFile, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { test } from 'node:test';
import { setTimeout as delay } from 'node:timers/promises';
import { fromStatus } from '@plumb/kit/errors';
import { createClient } from '@plumb/kit/rpc';
import { startNatsServer } from '@plumb/kit/testing/nats-server';
import { ValueRange } from '@plumb/proto/plumb/media/v1/video_pb.js';
import { RewardHealth, RewardService } from '@plumb/proto/plumb/reward/v1/reward_pb.js';
import { startService } from './support/service-process.ts';

const flow = (version: string, movingAbove: number): string => `format: 1
name: flow
version: '${version}'
description: dense flow
kind: optical-flow
estimator: { method: farneback }
movingAbove: ${movingAbove}
`;

async function eventually(what: string, check: () => Promise<boolean>): Promise<void> {
  for (const start = performance.now(); !(await check()); await delay(20)) {
    assert.ok(performance.now() - start < 60_000, `${what}, within 60 s`);
  }
}

/** Process ids of a process's children that run a file. */
async function childrenOf(pid: number, file: string): Promise<number[]> {
  const found: number[] = [];
  for (const name of await readdir('/proc')) {
    if (!/^\d+$/.test(name)) continue;
    const [stat, command] = await Promise.all(
      ['stat', 'cmdline'].map((entry) => readFile(`/proc/${name}/${entry}`, 'utf8').catch(() => '')),
    );
    const parent = Number(stat?.slice(stat.lastIndexOf(')') + 2).split(' ')[1]);
    if (parent === pid && command?.includes(file) === true) found.push(Number(name));
  }
  return found;
}

test(
  'a reward dies, is exchanged and is shadowed, and no other call notices',
  { timeout: 300_000 },
  async (t) => {
    const folder = await mkdtemp(path.join(tmpdir(), 'plumb-reward-processes-'));
    const definitions = path.join(folder, 'rewards');
    await mkdir(path.join(definitions, 'candidates'), { recursive: true });
    await writeFile(path.join(definitions, 'flow.yaml'), flow('1', 0.5));
    await writeFile(
      path.join(definitions, 'motion.yaml'),
      "format: 1\nname: motion\nversion: '1'\ndescription: motion\nkind: motion-floor\n",
    );
    const nats = await startNatsServer();
    const service = await startService('reward', {
      PLUMB_NATS_URL: nats.url,
      PLUMB_ARTIFACTS: path.join(folder, 'artifacts'),
      PLUMB_SPAN_DIRECTORY: path.join(folder, 'spans'),
      PLUMB_JUDGE_ADDRESS: '127.0.0.1:1',
      PLUMB_REWARDS: definitions,
      // Only ReloadRewards looks at the folder while this runs.
      PLUMB_REWARDS_EVERY_SECONDS: '3600',
    });
    const client = createClient(RewardService, service.address, { defaultDeadlineMs: 60_000 });
    t.after(async () => {
      client.close();
      await service.stop();
      await nats.stop();
      await rm(folder, { recursive: true, force: true });
    });
    let count = 0;
    async function score() {
      count += 1;
      const data = Uint8Array.from({ length: 3 * 32 * 32 * 3 }, (_, at) => (at * (count + 3)) % 251);
      const shape = { width: 32, height: 32, frameCount: 3, fps: 8, valueRange: ValueRange.UINT8 };
      const video = { source: { case: 'inline' as const, value: data }, mediaType: 'video/raw', ...shape };
      const { items } = await client.score({
        rewards: ['flow', 'motion'],
        items: [{ id: 'a', prompt: { text: 'a ball' }, video }],
      });
      const [first, second] = items[0]?.outcomes ?? [];
      assert.ok(first && second);
      assert.equal(second.outcome.case, 'score', 'the other reward goes on');
      return first;
    }
    const healthy = async (): Promise<boolean> =>
      (await client.getReward({ name: 'flow' })).reward?.health === RewardHealth.SERVING;

    assert.equal((await score()).outcome.case, 'score');
    const [host] = await childrenOf(service.pid, 'host-process');
    assert.ok(host !== undefined);
    process.kill(host, 'SIGKILL');
    await eventually('the death is noticed', async () => !(await healthy()));
    const { outcome } = await score();
    if (outcome.case === 'error' && outcome.value.status !== undefined) {
      assert.equal(fromStatus(outcome.value.status).code, 'UNAVAILABLE');
    } else assert.ok(await healthy(), 'it scored only because it had been started again');
    await eventually('it is started again', healthy);
    assert.equal((await score()).outcome.case, 'score');

    // Exchanged under load: every call gets a score, of the former version or of the new one.
    const versions = new Set<string>();
    const exchanged = new AbortController();
    const calls = Promise.all(
      Array.from({ length: 4 }, async () => {
        do {
          const made = await score();
          assert.equal(made.outcome.case, 'score');
          versions.add(made.version);
        } while (!exchanged.signal.aborted);
      }),
    );
    await eventually('version 1 has scored', async () => Promise.resolve(versions.has('1')));
    await writeFile(path.join(definitions, 'flow.yaml'), flow('2', 1));
    const changes = await client.reloadRewards({});
    exchanged.abort();
    await calls;
    assert.deepEqual([changes.exchanged, Object.keys(changes.refused)], [['flow'], []]);
    assert.equal((await score()).version, '2');
    assert.ok(versions.has('1'));

    await writeFile(path.join(definitions, 'candidates/flow.yaml'), flow('3', 1));
    assert.deepEqual((await client.reloadRewards({})).added, ['candidates/flow']);
    for (let round = 0; round < 5; round += 1) assert.equal((await score()).version, '2');
    await eventually('the candidate has followed', async () => {
      const { report } = await client.getShadowReport({ name: 'flow' });
      return report?.compared === 5n;
    });
    const { report } = await client.getShadowReport({ name: 'flow' });
    assert.deepEqual([report?.version, report?.candidateVersion, report?.identical], ['2', '3', 5n]);
    assert.equal(report?.meanAbsoluteDifference, 0);

    // What cannot be read is refused, and what was there goes on.
    await writeFile(path.join(definitions, 'flow.yaml'), 'format: 2\n');
    await assert.rejects(client.reloadRewards({}), { code: 'INVALID_ARGUMENT' });
    assert.equal((await score()).version, '2');
  },
);
