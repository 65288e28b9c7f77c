import assert from 'node:assert/strict';
import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, before, test } from 'node:test';
import { z } from 'zod';
import { plumb, startPlumb } from './support/command-line.ts';
import { parseResult, smallDemo } from './support/small-demo.ts';
import type { DemoResult } from './support/small-demo.ts';

const folder = await mkdtemp(join(tmpdir(), 'plumb kill '));
after(() => rm(folder, { recursive: true, force: true }));
const timeout = 600_000;

const statusSchema = z.object({
  components: z.array(z.object({ name: z.string(), pid: z.number().optional() })),
});

/** Each process, and the line of progress at which it has most to lose. */
const victims: readonly (readonly [name: string, moment: RegExp])[] = [
  ['generator', /^train prompts, generate.*: [1-9]\d*\//],
  ['reward', /^train prompts, .*: [1-9]\d*\//],
  ['judge', /^train prompts, .*: [1-9]\d*\//],
  ['referee', /^train prompts, .*: [1-9]\d*\//],
  ['nats-server', /^train prompts, .*: [1-9]\d*\//],
  ['trainer', /^train: [1-9]\d*\//],
  ['loop', /^held-out prompts, .*: [1-9]\d*\//],
];

let undisturbed: DemoResult;

before(
  async () => {
    const run = await plumb([...smallDemo, '--state', join(folder, 'undisturbed')], folder);
    assert.equal(run.code, 0, run.stderr);
    undisturbed = parseResult(run.stdout);
  },
  { timeout },
);

for (const [name, moment] of victims) {
  test(
    `SIGKILL to ${name}: it is started again, and no sample is lost or counted twice`,
    { timeout },
    async () => {
      const state = join(folder, name);
      const demo = startPlumb(
        [...smallDemo, '--state', state, '--report', join(folder, `${name}.html`)],
        folder,
      );
      await demo.said(moment);
      const status = await plumb(['status', '--json', '--state', state], folder);
      const victim = statusSchema
        .parse(JSON.parse(status.stdout))
        .components.find((component) => component.name === name);
      assert.ok(victim?.pid !== undefined, status.stdout);
      process.kill(victim.pid, 'SIGKILL');

      assert.equal(await demo.ended, 0, demo.stderr());
      assert.match(demo.stderr(), new RegExp(`${name} was ended by SIGKILL; starting it again`));
      const { samples, judged, errors, acceptance } = parseResult(demo.stdout());
      assert.deepEqual(
        { samples, judged, errors, acceptance },
        {
          samples: undisturbed.samples,
          judged: undisturbed.judged,
          errors: undisturbed.errors,
          acceptance: undisturbed.acceptance,
        },
      );
      await rm(state, { recursive: true });
    },
  );
}

test(
  'SIGKILL to the command line itself leaves no process, and the same command goes on',
  { timeout },
  async () => {
    const args = [...smallDemo, '--state', join(folder, 'killed')];
    const killed = startPlumb(args, folder);
    await killed.said(/^train prompts, .*: [1-9]\d*\//);
    killed.signal('SIGKILL');
    await killed.ended;
    const resumed = await plumb(args, folder);
    assert.equal(resumed.code, 0, resumed.stderr);
    const { samples, judged, errors, acceptance } = parseResult(resumed.stdout);
    assert.deepEqual(
      { samples, judged, errors, acceptance },
      {
        samples: undisturbed.samples,
        judged: undisturbed.judged,
        errors: undisturbed.errors,
        acceptance: undisturbed.acceptance,
      },
    );
  },
);
