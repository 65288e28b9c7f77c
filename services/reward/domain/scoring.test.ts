import assert from 'node:assert/strict';
import { test } from 'node:test';
import { create } from '@bufbuild/protobuf';
import { PlumbError } from '@plumb/kit/errors';
import type { Clip } from '@plumb/media';
import { VideoSchema } from '@plumb/proto/plumb/media/v1/video_pb.js';
import { PromptSchema } from '@plumb/proto/plumb/prompts/v1/prompt_pb.js';
import { pixelGuards } from './pixel-guards.ts';
import type { RewardScorer, ScoringItem } from './reward-scorer.ts';
import { createScoring } from './scoring.ts';

const clip: Clip = { frames: 2, width: 2, height: 2, fps: 8, data: new Uint8Array(24).fill(9) };

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
    signal: new AbortController().signal,
    deadline: undefined,
    reads: () => reads,
    ...changes,
  };
}

test('a second score of the same clip, prompt and reward comes from the cache', async () => {
  const scoring = createScoring(pixelGuards());
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
  const scoring = createScoring(pixelGuards());
  const broken = item({ clip: () => Promise.reject(new Error('cannot be read')) });
  const outcome = await scoring.score('motion_floor', broken, 'bulk');
  assert.ok('error' in outcome.result && outcome.result.error.code === 'INTERNAL');
  const again = await scoring.score('motion_floor', item(), 'bulk');
  assert.ok('score' in again.result && !again.cached);
});

test('a value that is no number is an error', async () => {
  const [guard] = pixelGuards();
  assert.ok(guard);
  const silly: RewardScorer = {
    ...guard,
    score: (items) => Promise.resolve(items.map(() => ({ score: { value: Number.NaN } }))),
  };
  const outcome = await createScoring([silly]).score('motion_floor', item(), 'bulk');
  assert.ok('error' in outcome.result && outcome.result.error.reason === 'REWARD_FAILED');
});

test('an unknown reward is named together with the known ones', async () => {
  await assert.rejects(createScoring(pixelGuards()).score('hpsv9', item(), 'bulk'), (error) => {
    assert.ok(error instanceof PlumbError);
    assert.match(error.message, /hpsv9.*motion_floor, object_persistence, colour_stability/);
    return error.reason === 'REWARD_UNKNOWN';
  });
});
