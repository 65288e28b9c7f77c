import assert from 'node:assert/strict';
import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { test } from 'node:test';
import { setTimeout as delay } from 'node:timers/promises';
import { connectBus, streamNames, subjects } from '@plumb/kit/bus';
import { startNatsServer } from '@plumb/kit/testing/nats-server';
import { UInt32ValueSchema } from '@bufbuild/protobuf/wkt';
import { z } from 'zod';
import { plumb } from './support/command-line.ts';
import { startService } from './support/service-process.ts';

const listSchema = z.object({
  deadLetters: z.array(
    z.object({ sequence: z.string(), subject: z.string(), reason: z.string(), consumer: z.string() }),
  ),
});

test('messages that were given up: listed, shown, replayed', { timeout: 240_000 }, async (t) => {
  const folder = await mkdtemp(join(tmpdir(), 'plumb-dead-'));
  const nats = await startNatsServer();
  const bus = await connectBus({ url: nats.url, name: 'dead-letters-test' });
  await bus.ensureStreams();
  const loop = await startService('loop', {
    PLUMB_NATS_URL: nats.url,
    PLUMB_ARTIFACTS: join(folder, 'artifacts'),
    PLUMB_DATABASE_URL: 'pglite:memory',
    PLUMB_TRAINER_ADDRESS: '127.0.0.1:1',
  });
  t.after(async () => {
    await loop.stop();
    await bus.close();
    await nats.stop();
    await rm(folder, { recursive: true, force: true });
  });
  const ask = async (...args: readonly string[]) =>
    await plumb(['dead-letters', ...args, '--address', loop.address], folder);
  const list = async () => {
    const { code, stdout, stderr } = await ask('list', '--json');
    assert.equal(code, 0, stderr);
    return listSchema.parse(JSON.parse(stdout)).deadLetters;
  };
  assert.equal((await ask('list')).stdout, 'There is no dead letter.\n');

  // A number where the text of an id is expected cannot be read, however often it is tried.
  await bus.publish(subjects.sampleScored, UInt32ValueSchema, { value: 100 }, { id: 'odd' });
  while ((await bus.deadLetters.count()) < 1) await delay(50);
  const [letter] = await list();
  assert.ok(letter !== undefined);
  assert.deepEqual([letter.subject, letter.consumer], [subjects.sampleScored, 'loop-scored']);

  const shown = await ask('show', letter.sequence);
  assert.match(shown.stdout, new RegExp(`dead letter ${letter.sequence} of ${subjects.sampleScored}`));
  assert.match(shown.stdout, new RegExp(letter.reason));
  const missing = await ask('show', '999');
  assert.equal(missing.code, 1);
  assert.match(missing.stderr, /dead letter '?999/);
  assert.match((await ask('replay')).stderr, /--run <id>, or --all/);

  // Its cause is not put right: it is taken away, tried, and given up again under another number.
  const replayed = await ask('replay', letter.sequence);
  assert.equal(replayed.stdout, '1 message was published again.\n', replayed.stderr);
  let again = await list();
  while (again.length === 0) again = await list();
  assert.notEqual(again[0]?.sequence, letter.sequence);
  assert.equal(await bus.deadLetters.count(), 1);
  assert.equal((await bus.queueDepth(streamNames.events, 'loop-scored')).waiting, 0);
});
