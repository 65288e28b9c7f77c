import assert from 'node:assert/strict';
import { test } from 'node:test';
import { create } from '@bufbuild/protobuf';
import { PlumbError } from '@plumb/kit/errors';
import type { Clip } from '@plumb/media';
import { VideoSchema } from '@plumb/proto/plumb/media/v1/video_pb.js';
import { PromptSchema } from '@plumb/proto/plumb/prompts/v1/prompt_pb.js';
import { colourStability, motionFloor } from '@plumb/rewards';
import { scoreEach } from './reward-scorer.ts';
import type { RewardScorer, ScoreValue, ScoringItem } from './reward-scorer.ts';
import { createScoring } from './scoring.ts';

const clip: Clip = { frames: 2, width: 2, height: 2, fps: 8, data: new Uint8Array(24).fill(9) };

function reward(
  name: string,
  measure: (clip: Clip) => ScoreValue | Promise<ScoreValue>,
  version = '1',
): RewardScorer {
  return {
    info: {
      name,
      description: name,
      version,
      definitionHash: version,
      kind: 'guard',
      weightsHash: `hash of ${version}`,
      minimum: 0,
      maximum: 1,
      higherIsBetter: true,
      framesSampled: 0,
      fpsExpected: 0,
    },
    batching: { largestBatch: 4, largestDelayMs: 1, concurrentBatches: 1, largestQueue: 100 },
    cacheable: true,
    state: () => ({ serving: true }),
    score: (items) => scoreEach(items, async (one) => measure(await one.clip())),
  };
}

const guards = (): RewardScorer[] => [
  reward('motion_floor', motionFloor),
  reward('colour_stability', colourStability),
];

function item(changes: Partial<ScoringItem> = {}): ScoringItem & { reads: () => number } {
  let reads = 0;
  return {
    video: create(VideoSchema, { width: 2, height: 2, frameCount: 2, fps: 8 }),
    prompt: create(PromptSchema, { text: 'a ball' }),
    clipHash: 'a'.repeat(64),
    runId: '',
    clip: () => {
      reads += 1;
      return Promise.resolve(clip);
    },
    clipBytes: 24,
    signal: new AbortController().signal,
    deadline: undefined,
    reads: () => reads,
    ...changes,
  };
}

test('a second score of the same clip, prompt and reward comes from the cache', async () => {
  const scoring = createScoring(guards());
  const first = item();
  const [one, two] = [
    await scoring.score('motion_floor', first, 'bulk'),
    await scoring.score('motion_floor', first, 'interactive'),
  ];
  assert.deepEqual(one.result, two.result);
  assert.deepEqual([one.cached, two.cached, first.reads()], [false, true, 1]);
  const others: Partial<ScoringItem>[] = [
    { clipHash: 'b'.repeat(64) },
    { prompt: create(PromptSchema, { text: 'another ball' }) },
    { video: create(VideoSchema, { width: 1, height: 4, frameCount: 2, fps: 8 }) },
  ];
  for (const change of others) {
    assert.equal((await scoring.score('motion_floor', item(change), 'bulk')).cached, false);
  }
  assert.equal((await scoring.score('colour_stability', first, 'bulk')).cached, false);
});

test('a failure is an error and never a value, and is not kept', async () => {
  const scoring = createScoring(guards());
  const broken = item({ clip: () => Promise.reject(new Error('cannot be read')) });
  const outcome = await scoring.score('motion_floor', broken, 'bulk');
  assert.ok('error' in outcome.result && outcome.result.error.code === 'INTERNAL');
  const again = await scoring.score('motion_floor', item(), 'bulk');
  assert.ok('score' in again.result && !again.cached);
});

test('a value that is no number is an error', async () => {
  const silly = reward('motion_floor', () => ({ value: Number.NaN }));
  const outcome = await createScoring([silly]).score('motion_floor', item(), 'bulk');
  assert.ok('error' in outcome.result && outcome.result.error.reason === 'REWARD_FAILED');
});

test('an unknown reward is named together with the known ones', async () => {
  await assert.rejects(createScoring(guards()).score('hpsv9', item(), 'bulk'), (error) => {
    assert.ok(error instanceof PlumbError);
    assert.match(error.message, /hpsv9.*motion_floor, colour_stability/);
    return error.reason === 'REWARD_UNKNOWN';
  });
});

/** A reward that waits for the test before it gives a value. */
function waiting(value: number, version: string) {
  const gate = Promise.withResolvers<undefined>();
  const begun = Promise.withResolvers<undefined>();
  const scorer = reward(
    'r',
    async () => {
      begun.resolve(undefined);
      await gate.promise;
      return { value };
    },
    version,
  );
  return { scorer, begun: begun.promise, open: () => gate.resolve(undefined) };
}

test('a reward is exchanged while a batch runs: no call notices, and every value says what made it', async () => {
  const former = waiting(1, '1');
  const scoring = createScoring([former.scorer]);
  const running = scoring.score('r', item(), 'interactive');
  await former.begun;
  const queued = scoring.score('r', item({ clipHash: 'b'.repeat(64) }), 'interactive');
  const exchanged = scoring.install(reward('r', () => ({ value: 2 }), '2'));
  assert.equal(scoring.reward('r').info.version, '2');
  // The former one may not be closed yet: it has a batch.
  assert.equal(await Promise.race([exchanged, Promise.resolve('still running')]), 'still running');
  former.open();
  const [one, two] = await Promise.all([running, queued]);
  await exchanged;
  assert.deepEqual(
    [one, two].map(({ version, weightsHash, result }) => [version, weightsHash, result]),
    [
      ['1', 'hash of 1', { score: { value: 1, version: '1', weightsHash: 'hash of 1' } }],
      ['2', 'hash of 2', { score: { value: 2, version: '2', weightsHash: 'hash of 2' } }],
    ],
  );
  // What version 1 said is not what version 2 would say.
  assert.equal((await scoring.score('r', item(), 'bulk')).cached, false);
});

test('a reward that is taken away finishes what it was given', async () => {
  const slow = waiting(1, '1');
  const scoring = createScoring([slow.scorer]);
  const running = scoring.score('r', item(), 'bulk');
  await slow.begun;
  const gone = scoring.remove('r');
  await assert.rejects(scoring.score('r', item(), 'bulk'), { reason: 'REWARD_UNKNOWN' });
  slow.open();
  assert.ok('score' in (await running).result);
  await gone;
});

test('a candidate scores in the shadow: callers see the reward alone, the report sees both', async () => {
  let count = 0;
  const values = [0.1, 0.4, 0.2, 0.9];
  const scoring = createScoring([reward('r', () => ({ value: values[count % 4] ?? 0 }))]);
  assert.equal(scoring.shadowReport('r'), undefined);
  let followed = 0;
  const all = Promise.withResolvers<undefined>();
  const candidate = reward(
    'r',
    () => {
      followed += 1;
      if (followed === 4) all.resolve(undefined);
      if (followed === 3) throw new Error('the candidate cannot');
      return { value: (values[followed - 1] ?? 0) + 0.5 };
    },
    '2',
  );
  scoring.shadow(candidate);
  for (; count < 4; count += 1) {
    const outcome = await scoring.score('r', item({ clipHash: String(count) }), 'interactive');
    assert.ok('score' in outcome.result && outcome.result.score.value === values[count]);
    assert.equal(outcome.version, '1');
  }
  await all.promise;
  // The last value is on its way through the candidate's batcher: its end is waited for.
  const before = scoring.shadowReport('r');
  await scoring.endShadow('r');
  assert.equal(scoring.shadowReport('r'), undefined);
  assert.ok(before);
  assert.equal(before.candidate.version, '2');
});
