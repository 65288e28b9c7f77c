import assert from 'node:assert/strict';
import { readFileSync } from 'node:fs';
import { test } from 'node:test';
import { parseDiffusersJson } from '../diffusers-json.ts';
import { readScheduler } from './read-scheduler.ts';

/** What diffusers did, step by step; export/make_cases.py makes it. */
interface Case {
  readonly config: Record<string, unknown>;
  readonly steps: number;
  readonly mu?: number;
  readonly initial: readonly number[];
  readonly timesteps: readonly number[];
  readonly predictions: readonly (readonly number[])[];
  readonly samples: readonly (readonly number[])[];
  readonly noises: readonly (readonly number[] | null)[];
}

const cases = parseDiffusersJson(
  readFileSync(new URL('../../fixtures/schedulers.json', import.meta.url), 'utf8'),
) as Record<string, Case>;

for (const [name, expected] of Object.entries(cases)) {
  test(`${name} takes the steps that diffusers takes`, () => {
    const { config, steps, mu, initial, timesteps, predictions, samples, noises } = expected;
    const run = readScheduler(config, 'scheduler_config.json').start(steps, mu === undefined ? {} : { mu });
    assert.equal(run.timesteps.length, timesteps.length);
    for (const [index, t] of run.timesteps.entries()) {
      assert.ok(
        Math.abs(t - (timesteps[index] ?? 0)) <= 1e-3,
        `timestep ${index} is ${t}, not ${timesteps[index]}`,
      );
    }
    let sample = Float32Array.from(initial);
    for (const [index, prediction] of predictions.entries()) {
      sample = Float32Array.from(
        run.step(index, Float32Array.from(prediction), sample, () => {
          const noise = noises[index];
          assert.ok(noise, `step ${index} draws noise that diffusers does not draw`);
          return Float32Array.from(noise);
        }),
      );
      const wanted = samples[index] ?? [];
      const size = Math.hypot(...wanted);
      const off = Math.hypot(...wanted.map((value, i) => value - (sample[i] ?? NaN)));
      assert.ok(off <= 2e-4 * size, `after step ${index} the relative error is ${off / size}`);
    }
  });
}

test('what is not supported is named with its file and field', () => {
  const file = 'model/scheduler/scheduler_config.json';
  const refusal = (config: unknown): string => {
    try {
      readScheduler(config, file);
    } catch (error) {
      assert.equal((error as { code?: string }).code, 'INVALID_ARGUMENT');
      return String(error);
    }
    return assert.fail('it was accepted');
  };
  assert.match(refusal({}), /_class_name.*missing.*model\/scheduler/);
  assert.match(
    refusal({ _class_name: 'HeunDiscreteScheduler' }),
    /HeunDiscreteScheduler.*model\/scheduler.*DDIM/,
  );
  assert.match(
    refusal({ _class_name: 'DDIMScheduler', thresholding: true }),
    /thresholding.*true.*model\/scheduler/,
  );
  assert.match(
    refusal({ _class_name: 'DDIMScheduler', beta_schedule: 'laplace' }),
    /beta_schedule.*model\/scheduler/,
  );
  assert.match(
    refusal({ _class_name: 'UniPCMultistepScheduler', use_karras_sigmas: true }),
    /use_karras_sigmas/,
  );
});

test('a shift where there is no flow is refused, and so are more steps than were trained', () => {
  const scheduler = readScheduler({ _class_name: 'DDIMScheduler' }, 'f');
  assert.throws(() => scheduler.start(10, { shift: 3 }), /sampler\.shift/);
  assert.throws(() => scheduler.start(1001), /sampler\.steps/);
});
