import assert from 'node:assert/strict';
import { after, before, test } from 'node:test';
import { parseObjectiveSettings } from '@plumb/objective';
import { openInThread, type Engine } from '@plumb/tensor-graph/engine';
import { parseAdapterSettings } from './adapters.ts';
import { clipSize } from './config.ts';
import { parseOptimisationSettings } from './optimisation.ts';
import { fillGaussian, randomGenerator } from './random.ts';
import { smallConfig, smallModel } from './testing-model.ts';
import { tokenise } from './tokeniser.ts';
import { openTraining, type TrainingOptions } from './training.ts';
import type { TrainingExample } from './training-batch.ts';

let engine: Engine;
before(() => {
  engine = openInThread({});
});
after(() => engine.close());

const examples: readonly TrainingExample[] = Array.from({ length: 4 }, (_, row) => ({
  clip: fillGaussian(new Float32Array(clipSize(smallConfig)), randomGenerator('clip', row)),
  tokens: tokenise(smallConfig, 'the red ball'),
  weight: 1,
}));
const options: TrainingOptions = {
  model: smallModel('probe'),
  objective: parseObjectiveSettings({ algorithm: 'rwr' }),
  optimisation: parseOptimisationSettings({ steps: 4, batchSize: 4, learningRate: 1e-2 }),
  anchorProbe: examples.slice(0, 3),
  seed: 's',
};

for (const adapters of [undefined, parseAdapterSettings({ rank: 2 })]) {
  const what = adapters === undefined ? 'all weights' : 'adapters';
  test(`training ${what}, the distance begins at 0, grows, and measuring it changes nothing`, async () => {
    const given = { ...options, ...(adapters === undefined ? {} : { adapters }) };
    const measured = await openTraining(engine, given);
    const distances = [await measured.anchorDistance()];
    for (let step = 0; step < 4; step++) {
      await measured.advance(examples);
      distances.push(await measured.anchorDistance());
    }
    assert.equal(distances[distances.length - 1], await measured.anchorDistance());
    const state = await measured.state();
    await measured.close();
    assert.ok((distances[0] ?? 1) < 1e-10, String(distances[0]));
    assert.ok((distances[1] ?? 0) > 0 && (distances[4] ?? 0) > (distances[1] ?? 0), distances.join(' '));

    const plain = await openTraining(engine, given);
    for (let step = 0; step < 4; step++) await plain.advance(examples);
    assert.deepEqual(await plain.state(), state);
    await plain.close();
  });
}

test('the probe agrees with the distance of a loss that runs the reference', async () => {
  // One time only, so that the probe and the step see the same one; the noise differs, hence the tolerance.
  const timesteps = { kind: 'window', low: 0.7, high: 0.7001 } as const;
  const training = await openTraining(engine, {
    ...options,
    reference: smallModel('other'),
    objective: parseObjectiveSettings({ algorithm: 'rwr', klAnchor: 1 }),
    optimisation: { ...options.optimisation, timesteps, captionDropout: 0 },
    anchorProbe: examples,
  });
  const probed = await training.anchorDistance();
  const { anchor_distance: own = 0 } = await training.advance(examples);
  await training.close();
  assert.ok(Math.abs(probed / own - 1) < 0.2, `${probed} and ${own}`);
});

test('without a probe there is nothing to ask', async () => {
  const { anchorProbe: _, ...rest } = options;
  const training = await openTraining(engine, rest);
  assert.throws(() => training.anchorDistance(), /no anchor probe/);
  await training.close();
});
