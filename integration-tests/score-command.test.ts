/** `plumb score` and `plumb rewards` against a running reward service. */

import assert from 'node:assert/strict';
import { mkdir, mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { test } from 'node:test';
import { startNatsServer } from '@plumb/kit/testing/nats-server';
import { encodePreview } from '@plumb/media';
import type { Clip } from '@plumb/media';
import { colourStability, motionFloor } from '@plumb/rewards';
import { z } from 'zod';
import { plumb } from './support/command-line.ts';
import { startService } from './support/service-process.ts';

const scored = z.object({
  prompt: z.string(),
  clips: z.array(
    z.object({
      file: z.string(),
      scores: z.array(
        z.object({
          reward: z.string(),
          version: z.string(),
          value: z.number().optional(),
          error: z.object({ code: z.string(), message: z.string() }).optional(),
        }),
      ),
    }),
  ),
});

/** The last line of standard output, which holds the JSON. */
const lastLine = (text: string): unknown => JSON.parse(text.trimEnd().split('\n').at(-1) ?? '');

test('clips are scored, rewards are listed, compared and read anew', { timeout: 900_000 }, async (t) => {
  const folder = await mkdtemp(path.join(tmpdir(), 'plumb-score-'));
  const definitions = path.join(folder, 'rewards');
  await mkdir(path.join(definitions, 'candidates'), { recursive: true });
  const define = (file: string, kind: string, name: string, version: string): Promise<void> =>
    writeFile(
      path.join(definitions, file),
      `format: 1\nkind: ${kind}\nname: ${name}\nversion: '${version}'\ndescription: a test\n`,
    );
  await define('motion.yaml', 'motion-floor', 'motion', '1');
  await define('colour.yaml', 'colour-stability', 'colour', '1');
  const nats = await startNatsServer();
  const service = await startService('reward', {
    PLUMB_NATS_URL: nats.url,
    PLUMB_ARTIFACTS: path.join(folder, 'artifacts'),
    PLUMB_SPAN_DIRECTORY: path.join(folder, 'spans'),
    PLUMB_JUDGE_ADDRESS: '127.0.0.1:1',
    PLUMB_REWARDS: definitions,
    PLUMB_REWARDS_EVERY_SECONDS: '3600',
  });
  t.after(async () => {
    await service.stop();
    await nats.stop();
    await rm(folder, { recursive: true, force: true });
  });
  const at = ['--address', service.address];

  const data = Uint8Array.from({ length: 4 * 12 * 12 * 3 }, (_, index) => (index % 97) * 2);
  const clip: Clip = { frames: 4, width: 12, height: 12, fps: 8, data };
  await writeFile(path.join(folder, 'good.webp'), await encodePreview(clip, { scale: 1 }));
  await writeFile(path.join(folder, 'broken.webp'), Buffer.from('RIFF no picture'));

  const one = ['score', '--prompt', 'a ball', 'good.webp', ...at];
  const json = await plumb([...one, '--json'], folder);
  assert.equal(json.code, 0, json.stderr);
  const { prompt, clips } = scored.parse(lastLine(json.stdout));
  assert.deepEqual([prompt, clips.map(({ file }) => file)], ['a ball', ['good.webp']]);
  assert.deepEqual(Object.fromEntries(clips[0]?.scores.map(({ reward, value }) => [reward, value]) ?? []), {
    motion: motionFloor(clip).value,
    colour: colourStability(clip).value,
  });

  const both = ['score', '--prompt', 'a ball', 'good.webp', 'broken.webp', '--reward', 'motion', ...at];
  const table = await plumb(both, folder);
  assert.equal(table.code, 1, 'one clip could not be scored');
  assert.match(table.stdout, /clip +│ reward +│ +value/);
  assert.match(
    table.stdout,
    new RegExp(`good\\.webp +│ motion +│ +${motionFloor(clip).value.toPrecision(6)}`),
  );
  assert.match(table.stdout, /broken\.webp +│ motion +│ +error +│ DATA_LOSS/);
  const unknown = await plumb([...one, '--reward', 'hpsv9'], folder);
  assert.notEqual(unknown.code, 0);
  assert.match(unknown.stderr, /hpsv9.*colour, motion/);

  const list = await plumb(['rewards', 'list', ...at], folder);
  assert.equal(list.code, 0, list.stderr);
  assert.match(list.stdout, /motion +│ 1 .*serving/);

  await define('motion.yaml', 'motion-floor', 'motion', '2');
  await define('candidates/colour.yaml', 'colour-stability', 'colour', '5');
  const reload = await plumb(['rewards', 'reload', ...at], folder);
  assert.deepEqual(
    [reload.code, reload.stdout],
    [0, 'added      candidates/colour\nexchanged  motion\n'],
    reload.stderr,
  );
  const shadow = await plumb(['rewards', 'shadow', 'colour', '--json', ...at], folder);
  assert.equal(shadow.code, 0, shadow.stderr);
  const report = z
    .object({ version: z.string(), candidateVersion: z.string() })
    .parse(lastLine(shadow.stdout));
  assert.deepEqual([report.version, report.candidateVersion], ['1', '5']);
  const none = await plumb(['rewards', 'shadow', 'motion', ...at], folder);
  assert.notEqual(none.code, 0);
  assert.match(none.stderr, /'motion' has no candidate/);
});
