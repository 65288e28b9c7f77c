import assert from 'node:assert/strict';
import { test } from 'node:test';
import { PlumbError } from '@plumb/kit/errors';
import { clipSeconds, trainingSeconds, wan13 } from '@plumb/pipelines/cost-model';
import { measured } from './measured.ts';
import { planIteration } from './plan-iteration.ts';
import type { PlanInput } from './plan-iteration.ts';
import { planText } from './plan-text.ts';

const input: PlanInput = {
  model: 'mine',
  prompts: 100,
  samplesPerPrompt: 36,
  heldOutPrompts: 20,
  heldOutSamples: 9,
  card: 'H100',
  generators: 4,
  samplingSteps: 50,
  frames: undefined,
  secondsPerClip: 8,
  trainingSteps: 360,
  batchSize: 32,
  loraRank: 32,
  secondsPerStep: 10,
  judge: {
    latency: 2,
    votes: 3,
    inputTokens: 1000,
    outputTokens: 100,
    inputPrice: 2,
    outputPrice: 10,
    concurrency: 63,
    requestsPerMinute: undefined,
  },
  cardPrice: 3,
};

test('the sums of an iteration, done by hand', () => {
  const plan = planIteration(input);
  // 100 x 36 training clips; 20 x 9 held-out clips from each of two models.
  assert.deepEqual(plan.clips, { training: 3600, heldOut: 360, all: 3960 });
  // Four generators with a clip every 8 s each: 0.5 a second, so 7,920 s.
  assert.equal(plan.generation.clipsPerSecond, 0.5);
  assert.equal(plan.generation.hours, 2.2);
  assert.equal(plan.generation.cardHours, 8.8);
  // 3,960 clips with 3 verdicts each; 63 calls in flight of 2 s are 31.5 a second, 25 verdicts at 1.26 calls each.
  assert.equal(plan.judging.verdicts, 11_880);
  assert.equal(plan.judging.verdictsPerSecond, 25);
  assert.ok(Math.abs(plan.judging.hours - 11_880 / 25 / 3600) < 1e-12);
  // 0.5 clips a second x 3 verdicts x 1.26 calls x 2 s.
  assert.equal(plan.judging.concurrencyToKeepPace, 4);
  // 11.88 million tokens in at 2, 1.188 million out at 10.
  assert.ok(Math.abs(plan.cost.judge - 35.64) < 1e-9);
  assert.equal(plan.training.hours, 1);
  // 9.8 card-hours at 3.
  assert.ok(Math.abs(plan.cost.cards - 29.4) < 1e-9);
  // Judging is faster than sampling and hides behind it.
  assert.ok(Math.abs(plan.hours.overlapped - 3.2) < 1e-12);
  assert.ok(Math.abs(plan.hours.inSequence - (3.2 + plan.judging.hours)) < 1e-12);
});

test('an endpoint that allows little decides how long it takes', () => {
  const plan = planIteration({ ...input, judge: { ...input.judge, requestsPerMinute: 37.8 } });
  // 0.63 requests a second are half a verdict a second: 23,760 s.
  assert.ok(Math.abs(plan.judging.hours - 6.6) < 1e-9);
  assert.ok(Math.abs(plan.hours.overlapped - 7.6) < 1e-9);
  assert.ok(Math.abs(plan.judging.requestsPerSecond - 0.63) < 1e-12);
});

test('models that were not measured take the computed figures of their card, the built-in model the measured ones', () => {
  const computed = { ...input, model: 'wan-2.1-1.3b', secondsPerClip: undefined, secondsPerStep: undefined };
  const plan = planIteration(computed);
  const speed = 989e12 * 0.4;
  const clip = { width: 832, height: 480, frames: 81 };
  assert.equal(plan.card, 'H100 80 GB');
  assert.equal(plan.generation.secondsPerClip, clipSeconds(wan13, clip, { steps: 50, passes: 2 }, speed));
  assert.equal(plan.training.secondsPerStep, 32 * trainingSeconds(wan13, clip, speed));
  assert.match(planText(computed, plan), /computed from its architecture, not measured/);

  const toybox = planIteration({ ...computed, model: 'toybox', samplingSteps: 20 });
  assert.equal(toybox.generation.secondsPerClip, 1 / measured.toyboxClipsPerSecond.value);
  assert.equal(toybox.training.secondsPerStep, measured.toyboxStepSeconds.value);
});

test('half of the clips need half of the time, tokens and money', () => {
  const [whole, half] = [
    planIteration({ ...input, heldOutPrompts: 20 }),
    planIteration({ ...input, prompts: 50, heldOutPrompts: 10 }),
  ];
  for (const of of [
    (plan: typeof whole) => plan.generation.hours,
    (plan: typeof whole) => plan.judging.inputTokens,
    (plan: typeof whole) => plan.cost.judge,
  ])
    assert.ok(Math.abs(of(whole) / of(half) - 2) < 1e-9);
});

test('what cannot be is refused with the flag and the fix', () => {
  const refusal = (change: Partial<PlanInput>): PlumbError => {
    try {
      planIteration({ ...input, ...change });
    } catch (error) {
      assert.ok(error instanceof PlumbError && error.code === 'INVALID_ARGUMENT');
      return error;
    }
    assert.fail('it was accepted');
  };
  assert.deepEqual(
    refusal({ prompts: 0, samplesPerPrompt: Number.NaN, cardPrice: -1 }).fieldViolations?.map(
      ({ field }) => field,
    ),
    ['--prompts', '--samples-per-prompt', '--card-price'],
  );
  const unknown = refusal({ model: 'sora', secondsPerClip: undefined });
  assert.match(unknown.message, /--model: 'sora' is unknown; use toybox, wan-2\.1-1\.3b/);
  const computed = { model: 'wan-2.1-14b', secondsPerClip: undefined, secondsPerStep: undefined };
  assert.match(
    refusal({ ...computed, card: 'V100' }).message,
    /--card: 'V100' is unknown; use one of RTX 4090, L40S/,
  );
  assert.match(
    refusal({ ...computed, card: 'RTX 4090' }).message,
    /too small to sample a clip of Wan 2\.1 14B/,
  );
});
