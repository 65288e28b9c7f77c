import assert from 'node:assert/strict';
import { after, before, test } from 'node:test';
import { PlumbError } from '@plumb/kit/errors';
import { parseObjectiveSettings, type AlgorithmName } from '@plumb/objective';
import { buildTrainingStep, Graph, toOnnx, type TrainingState } from '@plumb/tensor-graph';
import { openInThread, type Engine } from '@plumb/tensor-graph/engine';
import {
  adapterSpecs,
  adapterTargets,
  decodeAdapters,
  encodeAdapters,
  initialiseAdapters,
  mergeAdapters,
  modelHash,
  parseAdapterSettings,
  type AdapterSettings,
} from './adapters.ts';
import { clipShape, clipSize } from './config.ts';
import type { VideoModel } from './model-file.ts';
import { parseOptimisationSettings } from './optimisation.ts';
import { fillGaussian, randomGenerator } from './random.ts';
import { weightOf } from './sampling-graph.ts';
import { smallConfig, smallModel } from './testing-model.ts';
import { tokenise } from './tokeniser.ts';
import { openTraining, trainedAdapters, trainedModel } from './training.ts';
import type { TrainingExample } from './training-batch.ts';
import { policyWeights, trainingGraph } from './training-graph.ts';
import { decodeTrainingState, encodeTrainingState } from './training-state-file.ts';
import { denoise } from './video-dit.ts';

let engine: Engine;
before(() => {
  engine = openInThread({});
});
after(() => engine.close());

const adapters = parseAdapterSettings({ rank: 3, alpha: 6 });
const optimisation = parseOptimisationSettings({
  steps: 12,
  batchSize: 4,
  learningRate: 1e-2,
  emaDecay: 0.5,
});

function examples(algorithm: AlgorithmName): TrainingExample[] {
  return Array.from({ length: 4 }, (_, row) => {
    const clip = fillGaussian(new Float32Array(clipSize(smallConfig)), randomGenerator('clip', row)).map(
      (value) => 0.1 * value + 0.5,
    );
    return {
      clip,
      tokens: tokenise(smallConfig, 'the red ball'),
      weight: 1,
      ...(algorithm === 'dpo' ? { rejected: clip.map((value) => value - 1) } : {}),
      ...(algorithm === 'kto'
        ? { accepted: row % 2 === 0, mismatchedTokens: tokenise(smallConfig, 'the blue ball') }
        : {}),
    };
  });
}

/** The prediction for a fixed input, of a model or of a model with adapters on. */
async function predict(
  model: VideoModel,
  on?: { settings: AdapterSettings; values: ReadonlyMap<string, Float32Array> },
): Promise<Float32Array> {
  const graph = new Graph();
  const { weights } = policyWeights(graph, smallConfig, on?.settings);
  const shape = clipShape(smallConfig, 1);
  const noised = fillGaussian(new Float32Array(clipSize(smallConfig)), randomGenerator('noised'));
  const level = (value: number) => graph.constant(Float32Array.of(value), [1, 1, 1, 1, 1]);
  graph.output(
    'prediction',
    denoise(smallConfig, (name) => weightOf(weights, name), {
      noised: graph.constant(noised, shape),
      time: graph.constant(Float32Array.of(0.7), [1, 1]),
      tokens: graph.constant(tokenise(smallConfig, 'the red ball falls'), [1, smallConfig.caption.maxWords]),
      skip: level(0.5),
      in: level(1),
      out: level(1),
    }),
  );
  const initialisers = new Map([...model.parameters, ...(on?.values ?? [])]);
  await engine.load('prediction', toOnnx(graph, { initialisers }));
  const { prediction } = await engine.run('prediction', {});
  assert.ok(prediction?.data instanceof Float32Array);
  return prediction.data;
}

function farthest(a: Float32Array, b: Float32Array): number {
  return a.reduce((most, value, index) => Math.max(most, Math.abs(value - (b[index] ?? Number.NaN))), 0);
}

/** Adapters that have learned something. */
function trainedValues(settings: AdapterSettings): Map<string, Float32Array> {
  return new Map(
    adapterSpecs(smallConfig, settings).map(({ name, shape }) => [
      name,
      fillGaussian(new Float32Array(shape.reduce((a, b) => a * b, 1)), randomGenerator('trained', name)).map(
        (value) => 0.2 * value,
      ),
    ]),
  );
}

test('fresh adapters change nothing: B is zero', async () => {
  const model = smallModel('base');
  const values = initialiseAdapters(smallConfig, adapters, 's');
  assert.deepEqual(await predict(model, { settings: adapters, values }), await predict(model));
  for (const { a, b } of adapterTargets(smallConfig, adapters)) {
    assert.ok(values.get(a.name)?.every((value) => value !== 0));
    assert.ok(values.get(b.name)?.every((value) => value === 0));
  }
});

test('the merged model predicts what base and adapters predict', async () => {
  const model = smallModel('base');
  const values = trainedValues(adapters);
  const merged = mergeAdapters(model, { settings: adapters, base: modelHash(model), parameters: values });
  const on = await predict(model, { settings: adapters, values });
  assert.ok(farthest(on, await predict(merged)) < 1e-5);
  assert.ok(farthest(on, await predict(model)) > 1e-2, 'these adapters change nothing');
});

test('by default attention and MLP matrices of every block are adapted, and nothing else', () => {
  const names = adapterTargets(smallConfig, parseAdapterSettings({ rank: 1 })).map(({ matrix }) => matrix);
  assert.deepEqual(
    names,
    [0, 1].flatMap((block) =>
      ['attention.qkv', 'attention.out', 'mlp.0', 'mlp.1'].map((name) => `blocks.${block}.${name}.weight`),
    ),
  );
});

for (const algorithm of ['rwr', 'dpo', 'kto'] as const) {
  test(`${algorithm} lowers its loss by adapters alone; the base is not touched`, async () => {
    const model = smallModel('base');
    const untouched = modelHash(model);
    const objective = parseObjectiveSettings({ algorithm, ...(algorithm === 'rwr' ? {} : { beta: 10 }) });
    const training = await openTraining(engine, { model, objective, optimisation, adapters, seed: 's' });
    const losses: number[] = [];
    for (let step = 0; step < optimisation.steps; step++) {
      losses.push((await training.advance(examples(algorithm))).loss);
    }
    const state = await training.state();
    await training.close();
    const mean = (values: number[]): number => values.reduce((a, b) => a + b, 0) / values.length;
    assert.ok(mean(losses.slice(-3)) < mean(losses.slice(0, 3)), losses.join(' '));
    // The policy begins as the reference, whose adapters are off.
    if (algorithm === 'dpo') assert.ok(Math.abs((losses[0] ?? 0) - Math.LN2) < 1e-4);
    assert.deepEqual(
      Object.keys(state.parameters),
      adapterSpecs(smallConfig, adapters).map(({ name }) => name),
    );
    assert.equal(modelHash(model), untouched);
    const merged = trainedModel(model, optimisation, state, adapters);
    const changed = [...merged.parameters].filter(
      ([name, values]) => farthest(values, model.parameters.get(name) ?? new Float32Array()) > 0,
    );
    assert.deepEqual(
      changed.map(([name]) => name),
      adapterTargets(smallConfig, adapters).map(({ matrix }) => matrix),
    );
  });
}

test('policy and reference share one copy of the frozen weights', () => {
  const model = smallModel('base');
  for (const algorithm of ['dpo', 'kto'] as const) {
    const { graph, loss, trainable } = trainingGraph(smallConfig, parseObjectiveSettings({ algorithm }), 4, {
      settings: adapters,
      referenceIsBase: true,
    });
    const program = buildTrainingStep({ graph, loss, parameters: trainable, frozen: model.parameters });
    const bytes = Buffer.from(program.gradientModel);
    for (const [name, values] of model.parameters) {
      const pattern = Buffer.from(values.buffer, values.byteOffset, values.byteLength);
      const first = bytes.indexOf(pattern);
      assert.ok(first >= 0, `${name} is not in the model`);
      assert.equal(bytes.indexOf(pattern, first + 1), -1, `${name} is there twice`);
    }
  }
});

test('a reference that is not the base keeps weights of its own', async () => {
  const options = {
    model: smallModel('base'),
    objective: parseObjectiveSettings({ algorithm: 'dpo', beta: 10 }),
    optimisation,
    adapters,
    seed: 's',
  };
  const training = await openTraining(engine, { ...options, reference: smallModel('other') });
  const { anchor_distance: distance = 0 } = await training.advance(examples('dpo'));
  await training.close();
  assert.ok(distance > 1e-3, `the anchor distance is ${distance}, as if the reference were the base`);
});

test('a job that goes on from a written state ends with the same bits as one that was never stopped', async () => {
  const model = smallModel('base');
  const objective = parseObjectiveSettings({ algorithm: 'rwr' });
  const run = async (stopAt: number | undefined): Promise<TrainingState> => {
    const options = { model, objective, optimisation, adapters, seed: 's' };
    let training = await openTraining(engine, options);
    while (training.step < optimisation.steps) {
      if (training.step === stopAt) {
        const state = decodeTrainingState(encodeTrainingState(await training.state()), 'state');
        await training.close();
        training = await openTraining(engine, { ...options, state });
        stopAt = undefined;
      }
      await training.advance(examples('rwr'));
    }
    const state = await training.state();
    await training.close();
    return state;
  };
  const whole = await run(undefined);
  assert.deepEqual(await run(5), whole);
  const file = encodeAdapters(smallConfig, trainedAdapters(model, optimisation, whole, adapters));
  assert.deepEqual(
    mergeAdapters(model, decodeAdapters(file, 'file')),
    trainedModel(model, optimisation, whole, adapters),
  );
});

test('an adapters file says what it is; a damaged one and another base are refused', () => {
  const model = smallModel('base');
  const made = { settings: adapters, base: modelHash(model), parameters: trainedValues(adapters) };
  const bytes = encodeAdapters(smallConfig, made);
  assert.deepEqual(decodeAdapters(bytes, 'file'), made);
  assert.throws(() => decodeAdapters(bytes.subarray(0, -4), 'file'), isError('DATA_LOSS'));
  assert.throws(() => mergeAdapters(smallModel('other'), made), isError('FAILED_PRECONDITION'));
  const [missing] = made.parameters.keys();
  const fewer = new Map([...made.parameters].filter(([name]) => name !== missing));
  assert.throws(
    () => mergeAdapters(model, { ...made, parameters: fewer }),
    isError('INVALID_ARGUMENT', `adapters.parameters.${missing}`),
  );
});

test('settings that make no adapters are refused with the field', () => {
  assert.throws(() => parseAdapterSettings({ rank: 0 }), isError('INVALID_ARGUMENT', 'adapters.rank'));
  assert.throws(
    () => parseAdapterSettings({ rank: 2, alpha: -1, targets: [] }),
    isError('INVALID_ARGUMENT', 'adapters.alpha', 'adapters.targets'),
  );
  assert.throws(
    () => adapterTargets(smallConfig, parseAdapterSettings({ rank: 17 })),
    isError('INVALID_ARGUMENT', 'adapters.rank'),
  );
  assert.throws(
    () => adapterTargets(smallConfig, parseAdapterSettings({ rank: 3, targets: ['blocks.*'] })),
    isError('INVALID_ARGUMENT', 'adapters.rank'),
  );
  assert.throws(
    () =>
      adapterTargets(
        smallConfig,
        parseAdapterSettings({ rank: 2, targets: ['blocks.*.mlp.*', 'nowhere.*'] }),
      ),
    isError('INVALID_ARGUMENT', 'adapters.targets[1]'),
  );
});

function isError(code: string, ...fields: string[]): (error: unknown) => boolean {
  return (error) => {
    assert.ok(error instanceof PlumbError, String(error));
    assert.equal(error.code, code);
    if (fields.length > 0)
      assert.deepEqual(
        error.fieldViolations?.map(({ field }) => field),
        fields,
      );
    return true;
  };
}
