import assert from 'node:assert/strict';
import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, test } from 'node:test';
import { create } from '@bufbuild/protobuf';
import { clipMediaType, encodeClip, openFolderStore } from '@plumb/media';
import { ReportSchema, RunSchema, RunState, SampleSchema } from '@plumb/proto/plumb/loop/v1/loop_pb.js';
import type { Sample } from '@plumb/proto/plumb/loop/v1/loop_pb.js';
import { Category, Split } from '@plumb/proto/plumb/prompts/v1/prompt_pb.js';
import { renderClip } from '@plumb/toybox';
import { collectReport } from './collect-report.ts';
import { acceptanceOf } from './demo-result.ts';

const folder = await mkdtemp(join(tmpdir(), 'plumb report '));
after(() => rm(folder, { recursive: true, force: true }));

const clip = renderClip({ caption: 'the red ball falls to the ground', seed: 1, wrongness: null });
const { uri, sha256 } = await (
  await openFolderStore(folder)
).put(await encodeClip(clip), {
  mediaType: clipMediaType,
});
const versions = { beforeVersion: 'toybox@aaaaaaaaaaaa', afterVersion: 'toybox@bbbbbbbbbbbb' };

function sample(
  which: 'before' | 'after',
  sampleIndex: number,
  value: number | undefined,
  iteration = 1,
): Sample {
  return create(SampleSchema, {
    iteration,
    prompt: { id: 'toybox/FD/25', text: 'falls', category: Category.FALLING_DOWN, split: Split.HELDOUT },
    sampleIndex,
    seed: 7n,
    modelVersion: versions[`${which}Version`],
    video: {
      source: { case: 'uri', value: uri },
      sha256,
      mediaType: clipMediaType,
      width: clip.width,
      height: clip.height,
      frameCount: clip.frames,
      fps: clip.fps,
    },
    scores: [
      {
        reward: 'aif',
        reason: 'because',
        outcome:
          value === undefined
            ? { case: 'error', value: { code: 14, message: 'the judge was away' } }
            : { case: 'value', value },
      },
    ],
  });
}

const rate = { rate: 0.5, low: 0.4, high: 0.6, samples: 8 };
const report = create(ReportSchema, {
  runId: 'run-1',
  iterations: [
    {
      iteration: 1,
      ...versions,
      before: { FD: rate, overall: rate },
      after: { FD: rate, overall: rate },
      difference: { FD: { mean: 0, low: -0.1, high: 0.1, pairs: 4 } },
      pValue: { FD: 0.4 },
      winRate: { FD: rate },
      heldOut: {
        reward: 'clip_score',
        before: rate,
        after: rate,
        difference: { mean: 0, low: -0.1, high: 0.1, pairs: 4 },
        winRate: rate,
        pValue: 0.7,
      },
      decision: { promoted: true },
      job: {
        spec: { probe: { heldOutReward: 'clip_score', everySteps: 2 }, objective: { reward: 'aif' } },
        probes: [
          { step: 0, trained: 0.4, heldOut: 0.7 },
          { step: 2, error: { code: 14, message: 'the reward service was away' } },
          { step: 3, trained: 0.6, heldOut: 0.6, findings: ['the held-out judge fell'] },
        ],
      },
    },
    // Under way: it has no figures yet.
    { iteration: 2, beforeVersion: versions.afterVersion },
  ],
});
const run = create(RunSchema, {
  id: 'run-1',
  state: RunState.SUCCEEDED,
  spec: { evaluation: { reward: 'aif' }, optimisation: { steps: 3 }, seed: 9n },
  counts: { planned: 8n, scored: 7n, errors: 1n },
});
const samples = [
  sample('after', 1, 1),
  sample('before', 1, 0),
  sample('before', 0, 1),
  sample('after', 0, 1),
  sample('before', 2, 1),
  sample('after', 2, undefined),
  sample('before', 3, 0),
  // The promoted model, as the start of the next iteration.
  sample('after', 0, 0, 2),
];

test('clips are paired by prompt and sample, the first is fixed and the changed follow', async () => {
  const data = await collectReport(
    { run, report, samples },
    { artifactFolder: folder, command: './plumb demo', createdAt: new Date(0) },
  );
  const clips = data.clips['FD'];
  assert.ok(clips !== undefined);
  // Sample 3 has no partner, and so is no pair.
  assert.deepEqual([clips.pairs, clips.better, clips.worse], [3, 1, 1]);
  assert.deepEqual(
    clips.fixed.map(({ sampleIndex }) => sampleIndex),
    [0],
  );
  assert.deepEqual(
    clips.changed.map(({ before, after: later }) => [before.verdict, later.verdict, later.reason]),
    [
      ['rejected', 'accepted', 'because'],
      ['accepted', 'error', 'the judge was away'],
    ],
  );
  assert.match(clips.fixed[0]?.before.preview ?? '', /^data:image\/webp;base64,/);
  assert.deepEqual(data.counts, { samples: 8, judged: 7, errors: 1 });
});

test('significance, other rewards and the probes come along; a probe without scores is left out', async () => {
  const data = await collectReport(
    { run, report, samples: [] },
    { artifactFolder: folder, command: './plumb demo', createdAt: new Date(0) },
  );
  assert.equal(data.significance['FD']?.pValue, 0.4);
  assert.deepEqual(
    data.signals.map(({ reward, role, pValue }) => [reward, role, pValue]),
    [['clip_score', 'held out', 0.7]],
  );
  assert.deepEqual(
    data.training.probes.map(({ reward, role, points }) => [reward, role, points.map(({ step }) => step)]),
    [
      ['aif', 'trained on', [0, 3]],
      ['clip_score', 'held out', [0, 3]],
    ],
  );
  assert.deepEqual(data.training.probeFindings, ['the held-out judge fell']);
});

test('the result has rates, lows and highs and nothing else, overall first', () => {
  const acceptance = acceptanceOf(report);
  assert.deepEqual(Object.keys(acceptance.before), ['overall', 'FD']);
  assert.deepEqual(acceptance.before['FD'], { rate: 0.5, low: 0.4, high: 0.6 });
  assert.deepEqual(acceptance.difference, { FD: { mean: 0, low: -0.1, high: 0.1 } });
});
