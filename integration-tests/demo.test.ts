import assert from 'node:assert/strict';
import { mkdtemp, readdir, readFile, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, test } from 'node:test';
import { plumb, startPlumb } from './support/command-line.ts';
import { parseResult, smallDemo, smallDemoSamples } from './support/small-demo.ts';

// A path with a space, as people have them.
const folder = await mkdtemp(join(tmpdir(), 'plumb demo '));
after(() => rm(folder, { recursive: true, force: true }));
const state = join(folder, '.plumb');
const demo = [...smallDemo, '--state', state];
const timeout = 600_000;

test(
  'a demo that is interrupted goes on where it stopped and ends with every sample judged once',
  { timeout },
  async () => {
    const interrupted = startPlumb(demo, folder);
    await interrupted.said(/^train prompts, .*: [1-9]\d*\/30/);
    const busy = await plumb(demo, folder);
    assert.equal(busy.code, 1);
    assert.match(busy.stderr, new RegExp(`is in use by process ${interrupted.pid} \\(plumb demo\\)`));
    interrupted.signal('SIGINT');
    assert.equal(await interrupted.ended, 130);
    assert.equal(interrupted.stdout(), '');
    assert.match(interrupted.stderr(), /goes on from here/);
    assert.equal((await plumb(['status', '--state', state], folder)).code, 3);

    const finished = await plumb(demo, folder);
    assert.equal(finished.code, 0, finished.stderr);
    const result = parseResult(finished.stdout);
    assert.deepEqual(
      { samples: result.samples, judged: result.judged, errors: result.errors },
      { samples: smallDemoSamples, judged: smallDemoSamples, errors: 0 },
    );
    for (const of of Object.values(result.acceptance)) assert.equal(Object.keys(of).length, 6);

    const page = await readFile(result.report, 'utf8');
    // Two clips for each of 5 held-out prompts, those of one sample, and whatever changed besides.
    assert.ok((page.match(/<img src="data:image\/webp;base64,/g) ?? []).length >= 10);
    assert.doesNotMatch(page, /<script|https?:\/\/(?!www\.w3\.org)/);
    // Nothing half-written is left in the folder.
    assert.deepEqual((await readdir(folder)).toSorted(), ['.plumb', 'report.html']);
  },
);

test(
  'the same command finds the finished run, and a fresh start draws the same clips',
  { timeout },
  async () => {
    const again = parseResult((await plumb(demo, folder)).stdout);
    const fresh = await plumb([...demo, '--fresh', '--control'], folder);
    assert.equal(fresh.code, 0, fresh.stderr);
    const result = parseResult(fresh.stdout);
    assert.deepEqual(result.acceptance.before, again.acceptance.before);
    assert.deepEqual(result.acceptance.after, again.acceptance.after);
    // The control trains on the same samples and so starts from the same acceptance.
    assert.deepEqual(result.control?.acceptance.before, result.acceptance.before);
    assert.equal(result.control?.errors, 0);
  },
);
