import assert from 'node:assert/strict';
import { mkdtemp, readFile, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { test } from 'node:test';
import { PlumbError } from '@plumb/kit/errors';
import { encodeClip } from '@plumb/media';
import type { Clip } from '@plumb/media';
import { createHash } from 'node:crypto';
import { stringify } from 'yaml';
import { openReward } from './open-reward.ts';
import { motionFloor } from './pixel-guards.ts';
import { readRewardDefinition, readRewardDefinitions } from './read-definitions.ts';

const clip: Clip = {
  frames: 4,
  width: 6,
  height: 6,
  fps: 8,
  data: Uint8Array.from({ length: 4 * 6 * 6 * 3 }, (_, at) => (at * 37) % 256),
};
const right = motionFloor(clip).value;

/** A folder with the definition of a guard and its golden clip. */
async function folderWith(
  changes: Readonly<Record<string, unknown>> = {},
  recorded = right,
): Promise<string> {
  const folder = await mkdtemp(join(tmpdir(), 'plumb-rewards-'));
  const bytes = await encodeClip(clip);
  await writeFile(join(folder, 'golden.png'), bytes);
  const sha256 = createHash('sha256').update(bytes).digest('hex');
  const { frames, width, height, fps } = clip;
  await writeFile(
    join(folder, 'motion.yaml'),
    stringify({
      format: 1,
      kind: 'motion-floor',
      name: 'motion_floor',
      version: '1',
      description: 'test',
      golden: [
        {
          clip: { file: 'golden.png', sha256, frames, width, height, fps },
          prompt: 'x',
          value: recorded,
          tolerance: 1e-9,
        },
      ],
      ...changes,
    }),
  );
  return folder;
}

async function errorOf(promise: Promise<unknown>): Promise<PlumbError> {
  try {
    await promise;
  } catch (error) {
    return PlumbError.from(error);
  }
  throw new assert.AssertionError({ message: 'it succeeded' });
}

for (const form of ['worker', 'process'] as const) {
  test(`a reward in a ${form} scores, and ends when it is closed`, async (t) => {
    const folder = await folderWith();
    t.after(() => rm(folder, { recursive: true }));
    const reward = await openReward(await readRewardDefinition(join(folder, 'motion.yaml')), { form });
    const [first, second] = await Promise.all([
      reward.score([{ clip, prompt: 'x' }]),
      reward.score([
        { clip, prompt: 'y' },
        { clip, prompt: 'z' },
      ]),
    ]);
    assert.deepEqual(
      [...first, ...second].map((one) => ('score' in one ? one.score.value : one.error)),
      [right, right, right],
    );
    await reward.close();
    assert.equal(await reward.ended, undefined);
    assert.equal((await errorOf(reward.score([]))).reason, 'SHUTTING_DOWN');
  });
}

test('a reward whose process is killed says so, to those who wait and those who come', async (t) => {
  const folder = await folderWith();
  t.after(() => rm(folder, { recursive: true }));
  const children = async (): Promise<number[]> =>
    (await readFile(`/proc/self/task/${process.pid}/children`, 'utf8')).trim().split(' ').map(Number);
  const before = new Set(await children());
  const reward = await openReward(await readRewardDefinition(join(folder, 'motion.yaml')));
  const host = (await children()).find((pid) => !before.has(pid));
  assert.ok(host !== undefined);
  process.kill(host, 'SIGSTOP');
  const waiting = errorOf(reward.score([{ clip, prompt: 'x' }]));
  process.kill(host, 'SIGKILL');
  assert.equal((await waiting).reason, 'ENGINE_FAILED');
  assert.match((await reward.ended)?.message ?? '', /killed by SIGKILL/);
  assert.equal((await errorOf(reward.score([]))).code, 'UNAVAILABLE');
  await reward.close();
});

test('a golden clip with another value is refused, with both values', async (t) => {
  const folder = await folderWith({}, right + 0.01);
  t.after(() => rm(folder, { recursive: true }));
  const error = await errorOf(
    openReward(await readRewardDefinition(join(folder, 'motion.yaml')), { form: 'worker' }),
  );
  assert.equal(error.reason, 'REWARD_GOLDEN_MISMATCH');
  assert.ok(
    error.message.includes(String(right)) && error.message.includes(String(right + 0.01)),
    error.message,
  );
});

test('a golden clip whose file has changed is refused', async (t) => {
  const folder = await folderWith();
  t.after(() => rm(folder, { recursive: true }));
  await writeFile(join(folder, 'golden.png'), await encodeClip({ ...clip, data: clip.data.toReversed() }));
  const error = await errorOf(
    openReward(await readRewardDefinition(join(folder, 'motion.yaml')), { form: 'worker' }),
  );
  assert.equal(error.code, 'DATA_LOSS');
});

test('definitions that are wrong are refused with the field, and so are two of one name', async (t) => {
  const folder = await folderWith({ range: { minimum: 2, maximum: 1 }, versoin: '1' });
  t.after(() => rm(folder, { recursive: true }));
  const error = await errorOf(readRewardDefinitions(folder));
  assert.equal(error.reason, 'CONFIGURATION_INVALID');
  assert.match(error.message, /range.*minimum must be below maximum/s);
  assert.match(error.message, /versoin/);
  const twice = await folderWith();
  t.after(() => rm(twice, { recursive: true }));
  await writeFile(
    join(twice, 'again.yaml'),
    stringify((await readRewardDefinition(join(twice, 'motion.yaml'))).definition),
  );
  assert.equal((await errorOf(readRewardDefinitions(twice))).code, 'ALREADY_EXISTS');
});

test('a verdict is not scored here', async (t) => {
  const folder = await folderWith({ kind: 'ai-feedback', golden: [], version: undefined });
  t.after(() => rm(folder, { recursive: true }));
  const error = await errorOf(openReward(await readRewardDefinition(join(folder, 'motion.yaml'))));
  assert.equal(error.code, 'FAILED_PRECONDITION');
});

test(
  'a host that gives no answer is ended, and what it held may be tried again',
  { timeout: 60_000 },
  async (t) => {
    const folder = await folderWith();
    t.after(() => rm(folder, { recursive: true }));
    const located = await readRewardDefinition(join(folder, 'motion.yaml'));
    const before = new Set(await childProcesses());
    const reward = await openReward(located, { form: 'process' });
    const host = (await childProcesses()).find((pid) => !before.has(pid));
    assert.ok(host !== undefined);
    process.kill(host, 'SIGSTOP');
    const error = await errorOf(reward.score([{ clip, prompt: 'x' }]));
    assert.deepEqual([error.code, error.reason, error.retryable], ['UNAVAILABLE', 'ENGINE_FAILED', true]);
    assert.match(error.message, /gave no answer and did nothing/);
    assert.equal(await reward.ended, error);
  },
);

test('a host that is idle and stands still is noticed too', { timeout: 60_000 }, async (t) => {
  const folder = await folderWith();
  t.after(() => rm(folder, { recursive: true }));
  const located = await readRewardDefinition(join(folder, 'motion.yaml'));
  const before = new Set(await childProcesses());
  const reward = await openReward(located, { form: 'process' });
  const host = (await childProcesses()).find((pid) => !before.has(pid));
  assert.ok(host !== undefined);
  process.kill(host, 'SIGSTOP');
  // The watchdog alone keeps no process alive.
  const keep = setInterval(() => undefined, 1000);
  assert.equal((await reward.ended)?.code, 'UNAVAILABLE');
  clearInterval(keep);
});

for (const form of ['worker', 'process'] as const) {
  test(`a ${form} that does not get ready in time is ended`, async (t) => {
    const folder = await folderWith();
    t.after(() => rm(folder, { recursive: true }));
    const located = await readRewardDefinition(join(folder, 'motion.yaml'));
    const error = await errorOf(openReward(located, { form, loadWithinMs: 1 }));
    assert.deepEqual([error.code, error.reason], ['UNAVAILABLE', 'ENGINE_FAILED']);
    assert.match(error.message, /was not ready within 1 ms/);
  });
}

/** Process ids of this process's children that have not ended. */
async function childProcesses(): Promise<number[]> {
  const text = await readFile(`/proc/${process.pid}/task/${process.pid}/children`, 'utf8');
  const states = text
    .split(' ')
    .filter(Boolean)
    .map(Number)
    .map(async (pid) => {
      const stat = await readFile(`/proc/${pid}/stat`, 'utf8').catch(() => '');
      return /\) [^ZX] /.test(stat) ? [pid] : [];
    });
  return (await Promise.all(states)).flat();
}
