import assert from 'node:assert/strict';
import { after, before, test } from 'node:test';
import { fileURLToPath } from 'node:url';
import { parseObjectiveSettings, type AlgorithmName } from '@plumb/objective';
import { openInThread, type Engine } from '@plumb/tensor-graph/engine';
import { importOnnx } from '@plumb/tensor-graph/onnx-import';
import { writeSafetensors } from '@plumb/tensor-graph/safetensors';
import { parseAdapterSettings } from './adapters.ts';
import { initialiseNetworkAdapters, networkAdapterTargets } from './network-adapters.ts';
import { discreteNoise, flowNoise, type NetworkDenoiser } from './network-denoiser.ts';
import { openNetworkTraining, type LatentExample, type NetworkTrainingOptions } from './network-training.ts';
import { parseOptimisationSettings } from './optimisation.ts';
import { decodePeftAdapters, encodePeftAdapters } from './peft-file.ts';
import { fillGaussian, randomGenerator } from './random.ts';
import { decodeTrainingState, encodeTrainingState } from './training-state-file.ts';

/** A random Wan transformer of 20,000 weights with external data, that PyTorch exported. */
const wan = fileURLToPath(new URL('../../../parity/cases/denoisers/wan.onnx', import.meta.url));
const latentSize = 4 * 2 * 4 * 4;
const textSize = 3 * 8;

let engine: Engine;
let denoiser: NetworkDenoiser;
before(async () => {
  engine = openInThread({ intraOpThreads: 1 });
  denoiser = {
    name: 'wan',
    network: await importOnnx(wan, { dimensions: { batch: 2 }, rootModule: 'model' }),
    inputs: { latents: 'hidden_states', timestep: 'timestep', text: 'encoder_hidden_states' },
    parameterisation: 'flow',
    noiseLevel: flowNoise(),
  };
});
after(() => engine.close());

const adapters = parseAdapterSettings({
  rank: 2,
  targets: ['blocks.*.to_q', 'blocks.*.to_v', '*.ffn.net.2'],
});
const emptyText = { embeddings: new Float32Array(textSize), mask: new Float32Array(3) };

function options(
  algorithm: AlgorithmName,
  more: { optimisation?: object; objective?: object } & Partial<
    Omit<NetworkTrainingOptions, 'optimisation' | 'objective'>
  > = {},
): NetworkTrainingOptions {
  const { optimisation, objective, ...rest } = more;
  return {
    denoiser,
    adapters,
    objective: parseObjectiveSettings({
      algorithm,
      ...(algorithm === 'dpo' || algorithm === 'kto' ? { beta: 10 } : {}),
      ...objective,
    }),
    optimisation: parseOptimisationSettings({
      steps: 8,
      batchSize: algorithm === 'kto' ? 2 : 4,
      learningRate: 0.02,
      emaDecay: 0.9,
      ...optimisation,
    }),
    emptyText,
    seed: 's',
    ...rest,
  };
}

function examples(algorithm: AlgorithmName, count: number): LatentExample[] {
  return Array.from({ length: count }, (_, row) => {
    const random = randomGenerator('latents', row);
    const draw = (size: number): Float32Array => fillGaussian(new Float32Array(size), random);
    const latents = draw(latentSize).map((value) => 0.1 * value + 1);
    const text = (): LatentExample['text'] => ({
      embeddings: draw(textSize),
      mask: Float32Array.of(1, 1, 0),
    });
    return {
      latents,
      text: text(),
      weight: 1,
      ...(algorithm === 'dpo' ? { rejected: latents.map((value) => -value) } : {}),
      ...(algorithm === 'kto' ? { accepted: row % 2 === 0, mismatchedText: text() } : {}),
    };
  });
}

for (const algorithm of ['sft', 'rwr', 'dpo', 'kto'] as const) {
  test(`${algorithm} lowers its loss on an imported denoiser, and moves it from its reference`, async () => {
    const batch = examples(algorithm, algorithm === 'kto' ? 2 : 4);
    const training = await openNetworkTraining(
      engine,
      options(algorithm, {
        optimisation: { steps: 30, captionDropout: 0, timesteps: { kind: 'window', low: 0.6, high: 0.6001 } },
        ...(algorithm === 'kto' ? { objective: { klEstimate: 'mismatched' } } : {}),
        anchorProbe: batch.slice(0, 2),
      }),
    );
    assert.ok((await training.anchorDistance()) < 1e-10);
    const losses: number[] = [];
    for (let step = 0; step < 30; step++) losses.push((await training.advance(batch)).loss);
    assert.ok((await training.anchorDistance()) > 1e-3);
    await training.close();
    const mean = (values: number[]): number => values.reduce((a, b) => a + b, 0) / values.length;
    assert.ok(
      mean(losses.slice(-5)) < mean(losses.slice(0, 5)),
      losses.map((loss) => loss.toFixed(3)).join(' '),
    );
  });
}

for (const precision of ['float32', 'float16'] as const) {
  test(`a ${precision} job that goes on from a written state ends with the same bits as one that was never stopped`, async () => {
    const run = async (stopAt: number | undefined) => {
      const given = options('rwr', { optimisation: { precision } });
      let training = await openNetworkTraining(engine, given);
      while (training.step < 8) {
        if (training.step === stopAt) {
          const state = decodeTrainingState(encodeTrainingState(await training.state()), 'state');
          await training.close();
          training = await openNetworkTraining(engine, { ...given, state });
          stopAt = undefined;
        }
        await training.advance(examples('rwr', 4));
      }
      const state = await training.state();
      await training.close();
      return state;
    };
    assert.deepEqual(await run(5), await run(undefined));
  });
}

test('blocks that are recomputed have the same gradients; float16 ones are close', async () => {
  const momentsWith = async (optimisation: object) => {
    // B is 0 at first, and with it the gradient of A: one step moves both.
    const training = await openNetworkTraining(engine, options('dpo', { optimisation }));
    for (let step = 0; step < 2; step++) await training.advance(examples('dpo', 4));
    const { firstMoment } = await training.state();
    await training.close();
    return firstMoment;
  };
  const kept = await momentsWith({});
  for (const [optimisation, limit] of [
    [{ rematerialise: 'blocks' }, 1e-4],
    [{ precision: 'float16' }, 2e-2],
  ] as const) {
    const other = await momentsWith(optimisation);
    for (const [name, values] of Object.entries(kept)) {
      const largest = values.reduce((most, value) => Math.max(most, Math.abs(value)), 1e-7);
      for (const [index, value] of values.entries()) {
        const found = other[name]?.[index] ?? Number.NaN;
        assert.ok(Math.abs(found - value) <= limit * largest, `${name}[${index}]: ${found}, ${value}`);
      }
    }
  }
});

test('a job begins where another ended, by way of a file that other tools read', async () => {
  const first = await openNetworkTraining(engine, options('rwr'));
  for (let step = 0; step < 3; step++) await first.advance(examples('rwr', 4));
  const { parameters } = await first.state();
  await first.close();
  const targets = networkAdapterTargets(denoiser.network.linearLayers, adapters);
  const file = decodePeftAdapters(
    encodePeftAdapters(targets, adapters, new Map(Object.entries(parameters))),
    'file',
  );
  assert.deepEqual(Object.fromEntries(file.parameters), parameters);
  const probe = { anchorProbe: examples('rwr', 2), start: file.parameters };
  // Against the denoiser alone the policy has moved; against the same adapters it has not.
  const moved = await openNetworkTraining(engine, options('rwr', probe));
  assert.ok((await moved.anchorDistance()) > 1e-6);
  const still = await openNetworkTraining(engine, options('rwr', { ...probe, reference: file.parameters }));
  assert.ok((await still.anchorDistance()) < 1e-10);
  await Promise.all([moved.close(), still.close()]);
});

test('noise levels are those that denoisers were trained on', () => {
  assert.deepEqual(flowNoise()(0.25), { signal: 0.75, noise: 0.25, timestep: 250 });
  const discrete = discreteNoise([0.81, 0.36, 0.04]);
  assert.deepEqual(discrete(0.999).timestep, 2);
  const { signal, noise, timestep } = discrete(0.4);
  assert.ok(timestep === 1 && Math.abs(signal - 0.6) < 1e-12 && Math.abs(noise - 0.8) < 1e-12);
});

test('what does not fit the denoiser is refused with its field', async () => {
  const cases: [Parameters<typeof options>[1] & { algorithm?: AlgorithmName }, RegExp][] = [
    [
      { adapters: parseAdapterSettings({ rank: 2, targets: ['*.to_x'] }) },
      /adapters\.targets\[0\]: "\*\.to_x" matches no linear layer; they are called, for example, .*proj_out/,
    ],
    [
      { adapters: parseAdapterSettings({ rank: 25, targets: ['*.to_q'] }) },
      /adapters\.rank: is 25, but blocks\.0\.attn1\.to_q \[24, 24\] has rank 24 at most/,
    ],
    [{ optimisation: { batchSize: 3 } }, /optimisation\.batchSize: is 3, which is no multiple of the 2 rows/],
    [
      { algorithm: 'kto', optimisation: { batchSize: 4 } },
      /optimisation\.batchSize: is 4, but kto estimates its reference point from one pass/,
    ],
    [
      { denoiser: { ...denoiser, inputs: { ...denoiser.inputs, text: 'prompt' } } },
      /denoiser\.inputs\.text: is prompt, but wan has the inputs hidden_states/,
    ],
    [
      { denoiser: { ...denoiser, inputs: { ...denoiser.inputs, text: 'hidden_states' } } },
      /denoiser\.inputs\.text: hidden_states is \[2, 4, 2, 4, 4\]; it must be \[2, tokens, width\]/,
    ],
  ];
  for (const [{ algorithm = 'rwr', ...more }, message] of cases) {
    await assert.rejects(openNetworkTraining(engine, options(algorithm, more)), {
      code: 'INVALID_ARGUMENT',
      message,
    });
  }
  const { emptyText: _, ...without } = options('rwr');
  await assert.rejects(
    openNetworkTraining(engine, without),
    /optimisation\.captionDropout: is 0\.1, but there is no embedding/,
  );
});

test('adapter files that cannot be used are refused with what is wrong', () => {
  const matrix = (rows: number, columns: number, value = 0.5) => ({
    dtype: 'float32' as const,
    shape: [rows, columns],
    data: new Float32Array(rows * columns).fill(value),
  });
  const pair = { 'transformer.a.lora_A.weight': matrix(2, 4), 'transformer.a.lora_B.weight': matrix(3, 2) };
  const file = (tensors: object, metadata: Record<string, string> = {}): Uint8Array =>
    writeSafetensors(new Map(Object.entries(tensors)), metadata);
  const cases: [Uint8Array, RegExp][] = [
    [file({}), /f has no adapters/],
    [file({ 'a.weight': matrix(2, 2) }), /a\.weight is no LoRA adapter of a linear layer/],
    [file({ 'a.lora_A.weight': matrix(2, 4) }), /a has lora_A of rank 2 and lora_B of rank undefined/],
    [
      file({ ...pair, 'b.lora_A.weight': matrix(1, 4), 'b.lora_B.weight': matrix(4, 1) }),
      /adapters of ranks 1, 2/,
    ],
    [file({ ...pair, 'a.lora_B.weight': matrix(3, 2, Number.NaN) }), /has values that are not finite/],
    [
      file({ ...pair, 'c.lora_A.weight': { ...matrix(1, 4), shape: [4] } }),
      /is \[4\]; adapters of linear layers are matrices/,
    ],
    [file(pair, { lora_adapter_metadata: '{' }), /lora_adapter_metadata is not JSON/],
    [file(pair, { lora_adapter_metadata: '{"transformer.use_dora": true}' }), /has DoRA/],
    [
      file(pair, { lora_adapter_metadata: '{"transformer.alpha_pattern": {"a": 3}}' }),
      /has an alpha_pattern/,
    ],
  ];
  for (const [bytes, message] of cases)
    assert.throws(() => decodePeftAdapters(bytes, 'f'), { code: 'DATA_LOSS', message });
});

test('adapters of other tools are read: names, half precision and alphas', () => {
  const half = (shape: number[], dtype: 'float16' | 'bfloat16', bits: number) => ({
    dtype,
    shape,
    data: new Uint16Array(shape.reduce((a, b) => a * b, 1)).fill(bits),
  });
  const file = writeSafetensors(
    new Map(
      Object.entries({
        // -1.5 in binary16, and in the upper half of a float32.
        'base_model.model.a.lora_A.default.weight': half([2, 3], 'float16', 0xbe00),
        'base_model.model.a.lora_B.default.weight': half([4, 2], 'bfloat16', 0xbfc0),
        'diffusion_model.a.alpha': { dtype: 'float32' as const, shape: [], data: Float32Array.of(8) },
      }),
    ),
  );
  const { rank, alpha, modules, parameters } = decodePeftAdapters(file, 'f');
  assert.deepEqual([rank, alpha, modules], [2, 8, ['a']]);
  for (const values of parameters.values()) assert.ok(values.every((value) => value === -1.5));
  assert.deepEqual([...parameters.keys()].toSorted(), ['a.lora_A.weight', 'a.lora_B.weight']);
});

test('fresh adapters change nothing and follow from the seed', () => {
  const targets = networkAdapterTargets(denoiser.network.linearLayers, adapters);
  const [one, two] = [initialiseNetworkAdapters(targets, 'a'), initialiseNetworkAdapters(targets, 'a')];
  assert.deepEqual(one, two);
  assert.notDeepEqual(one, initialiseNetworkAdapters(targets, 'b'));
  for (const [name, values] of one)
    assert.equal(
      values.every((value) => value === 0),
      name.includes('lora_B'),
    );
});
