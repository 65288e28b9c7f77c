/**
 * Clips a second through the sampler and its engine, as the generator service runs them (two batches under way, so that
 * one computes while the other is on its way), beside a bare ONNX Runtime loop over the same batches, model and steps. They
 * take turns, so that load on the machine meets both.
 */
import { readFile } from 'node:fs/promises';
import { availableParallelism } from 'node:os';
import { parseArgs } from 'node:util';
import {
  clipShape,
  clipSize,
  decodeModel,
  fillGaussian,
  openSampler,
  randomGenerator,
  samplerSteps,
  samplingGraph,
  tokenise,
} from '@plumb/diffusion';
import { openEngine } from '@plumb/tensor-graph/engine';
import * as ort from 'onnxruntime-node';
import { printBench } from '../print-bench.ts';
import { median } from '../training-comparison.ts';

const { values: options } = parseArgs({
  options: {
    json: { type: 'boolean', default: false },
    model: { type: 'string', default: 'models/toybox/model.safetensors' },
    caption: { type: 'string', default: 'red ball falls off the table' },
    batch: { type: 'string', default: '8' },
    /** PLUMB_BATCHES_UNDER_WAY of the service. */
    'under-way': { type: 'string', default: '2' },
    steps: { type: 'string', default: '20' },
    rounds: { type: 'string', default: '9' },
    threads: { type: 'string', default: String(availableParallelism()) },
  },
});
const [batch, underWay, steps, rounds, threads] = [
  options.batch,
  options['under-way'],
  options.steps,
  options.rounds,
  options.threads,
].map(Number) as [number, number, number, number, number];
const settings = { steps, guidance: 1.5, shift: 3.5 };
/** Guidance of 1.5 runs both passes, as in the demo. */
const GUIDED = true;
const WARM_UP = 2;

const model = decodeModel(await readFile(options.model), options.model);
const { config } = model;

/** Memory of a batch of clips and the runtime's view of it. */
interface Place {
  readonly data: Float32Array;
  readonly tensor: ort.Tensor;
}

/** The loop without anything around it: the same graph on fixed memory, two tensors that change places. */
async function openBareLoop(): Promise<{ sample(seed: bigint): Promise<void>; close(): Promise<void> }> {
  const session = await ort.InferenceSession.create(samplingGraph(model, batch, GUIDED), {
    executionProviders: ['cpu'],
    intraOpNumThreads: threads,
  });
  const shape = [...clipShape(config, batch)];
  const size = clipSize(config);
  const pair = [0, 1].map(() => {
    const data = new Float32Array(batch * size);
    return { data, tensor: new ort.Tensor('float32', data, shape) };
  }) as [Place, Place];
  const tokens = new Int32Array(batch * config.caption.maxWords);
  for (let row = 0; row < batch; row++) {
    tokens.set(tokenise(config, options.caption), row * config.caption.maxWords);
  }
  const scalars = {
    time: new Float32Array(1),
    skip: new Float32Array(1),
    in: new Float32Array(1),
    out: new Float32Array(1),
    keep: new Float32Array(1),
    move: new Float32Array(1),
    guidance: Float32Array.of(settings.guidance),
  };
  const feeds: Record<string, ort.Tensor> = {
    tokens: new ort.Tensor('int32', tokens, [batch, config.caption.maxWords]),
  };
  for (const [name, data] of Object.entries(scalars)) {
    feeds[name] = new ort.Tensor('float32', data, name === 'time' ? [1, 1] : [1, 1, 1, 1, 1]);
  }
  const schedule = samplerSteps(config, settings);
  return {
    async sample(seed) {
      let [from, to] = pair;
      for (let row = 0; row < batch; row++) {
        const noise = from.data.subarray(row * size, (row + 1) * size);
        fillGaussian(noise, randomGenerator('sample', seed + BigInt(row)));
      }
      for (const { time, skip, in: input, out, keep, move } of schedule) {
        scalars.time[0] = time;
        scalars.skip[0] = skip;
        scalars.in[0] = input;
        scalars.out[0] = out;
        scalars.keep[0] = keep;
        scalars.move[0] = move;
        await session.run({ ...feeds, x: from.tensor }, { next: to.tensor });
        [from, to] = [to, from];
      }
    },
    close: () => session.release(),
  };
}

const bare = await openBareLoop();
const engine = await openEngine({ intraOpThreads: threads });
const sampler = openSampler(engine, model, batch);
const requests = (seed: bigint): { caption: string; seed: bigint }[] =>
  Array.from({ length: batch }, (_, row) => ({ caption: options.caption, seed: seed + BigInt(row) }));
const seconds = async (work: () => Promise<unknown>): Promise<number> => {
  const start = performance.now();
  await work();
  return (performance.now() - start) / 1000;
};

try {
  const ours: number[] = [];
  const theirs: number[] = [];
  for (let round = 0; round < WARM_UP + rounds; round++) {
    const seeds = Array.from({ length: underWay }, (_, index) => BigInt((round * underWay + index) * batch));
    const turns = [
      async () =>
        ours.push(
          await seconds(() => Promise.all(seeds.map((seed) => sampler.sample(requests(seed), settings)))),
        ),
      async () =>
        theirs.push(
          await seconds(async () => {
            for (const seed of seeds) await bare.sample(seed);
          }),
        ),
    ];
    // Who begins changes, as the second finds the machine warm.
    for (const turn of round % 2 === 0 ? turns : turns.toReversed()) await turn();
  }
  const counted = (list: readonly number[]): readonly number[] => list.slice(WARM_UP);
  const ratios = counted(ours).map((time, round) => (counted(theirs)[round] ?? Number.NaN) / time);
  printBench(
    {
      bench: 'generator',
      ratios: { sampling_vs_bare: median(ratios) },
      figures: {
        batch,
        batches_under_way: underWay,
        steps,
        threads,
        clips_per_second: (underWay * batch) / median(counted(ours)),
        bare_clips_per_second: (underWay * batch) / median(counted(theirs)),
      },
    },
    options.json,
  );
} finally {
  await engine.close();
  await bare.close();
}
