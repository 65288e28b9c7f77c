import assert from 'node:assert/strict';
import { test } from 'node:test';
import type { DataSetManifest } from '@plumb/objective';
import { labelledSamples } from './labelled-samples.ts';

const sha256 = 'a'.repeat(64);
const video = {
  uri: `artifact:sha256/${sha256}`,
  sha256,
  mediaType: 'image/png',
  width: 4,
  height: 4,
  frameCount: 2,
  fps: 4,
};
const origin = { promptId: 'p', prompt: 'a ball falls', category: 'FD', seed: '1', video };

const manifest: DataSetManifest = {
  kind: 'plumb.data-set',
  version: 1,
  runId: 'run-1',
  iteration: 1,
  model: { version: 'toy@1', sha256 },
  promptSetHash: sha256,
  sampler: { steps: 1, guidance: 1, shift: 1 },
  rewards: [],
  humanLabels: { reward: 'aif', samples: 2, changed: 1 },
  samples: [
    {
      ...origin,
      sampleId: 'rejected by people',
      scores: { aif: { value: 1 }, flow: { value: 0.3 } },
      human: { accept: false, accepting: 0, rejecting: 2 },
    },
    {
      ...origin,
      sampleId: 'accepted by people',
      scores: { aif: { value: 1 }, flow: { value: 0.4 } },
      human: { accept: true, accepting: 1, rejecting: 0 },
    },
    { ...origin, sampleId: 'seen by nobody', scores: { aif: { value: 0.5 }, flow: { value: 0.5 } } },
  ],
  excluded: [],
};

test("people's verdicts stand in place of the reward that they were asked about, and of no other", () => {
  const rewards = (reward: string): (number | undefined)[] =>
    labelledSamples(manifest, reward).map((sample) => ('reward' in sample ? sample.reward : undefined));
  assert.deepEqual(rewards('aif'), [0, 1, 0.5]);
  assert.deepEqual(rewards('flow'), [0.3, 0.4, 0.5]);
});
