/**
 * Makes models/toybox-clip from nothing: `node packages/toybox-clip/bin/train.ts [--output folder] [--steps-divisor n]`.
 * With `--weights models/toybox-clip/weights.safetensors` nothing is trained: they are exported and measured again.
 */

import { createHash } from 'node:crypto';
import { mkdir, readFile, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { parseArgs } from 'node:util';
import { readSafetensors, writeSafetensors } from '@plumb/tensor-graph/safetensors';
import { openEngine } from '@plumb/tensor-graph/engine';
import { measureDirection, measurePreference, measureRetrieval, openEmbedder } from '../src/evaluate.ts';
import { textOnnx, visionOnnx } from '../src/export.ts';
import { modelCard } from '../src/model-card.ts';
import { tokenizerJson } from '../src/tokenizer.ts';
import { textSpecs, visionSpecs } from '../src/towers.ts';
import type { WeightSpec } from '../src/towers.ts';
import { initialWeights, trainContrastive, trainPreference } from '../src/train.ts';
import type { OnStep, StageSettings, WeightValues } from '../src/train.ts';

const { values: options } = parseArgs({
  options: {
    output: {
      type: 'string',
      default: fileURLToPath(new URL('../../../models/toybox-clip', import.meta.url)),
    },
    /** Divides the steps of every stage, to try the command out. */
    'steps-divisor': { type: 'string', default: '1' },
    weights: { type: 'string' },
  },
});
const divisor = Number(options['steps-divisor']);
if (!(divisor >= 1))
  throw new TypeError(`--steps-divisor is ${options['steps-divisor']}; give a number of 1 or more`);

const seed = 'plumb';
/** Scale of cosines in the preference loss, and of the values of pickscore. */
const steepness = 20;
const stages = {
  contrastive: { steps: Math.ceil(450 / divisor), batch: 64, learningRate: 1e-3 },
  pickscore: { steps: Math.ceil(300 / divisor), batch: 32, learningRate: 5e-4 },
  hpsv2: { steps: Math.ceil(120 / divisor), batch: 32, learningRate: 2e-3 },
} satisfies Record<string, StageSettings>;
const heldOut = { clipsPerCaption: 8, pairs: 600 } as const;

function report(stage: string): OnStep {
  return (step, metrics) => {
    if (step % 50 !== 0) return;
    const shown = Object.entries(metrics).map(([name, value]) => `${name} ${value.toPrecision(4)}`);
    process.stderr.write(`${stage} ${step}: ${shown.join(', ')}\n`);
  };
}

async function evaluate(values: WeightValues) {
  const embedder = await openEmbedder(values);
  const retrieval = await measureRetrieval(embedder, heldOut.clipsPerCaption);
  const preference = await measurePreference(embedder, heldOut.pairs);
  const direction = await measureDirection(embedder, heldOut.clipsPerCaption);
  await embedder.close();
  return { retrieval, preference, direction };
}

function tensors(prefix: string, specs: readonly WeightSpec[], values: WeightValues) {
  return specs.map(({ name, shape }) => {
    const tensor = { dtype: 'float32' as const, shape: [...shape], data: weight(values, name) };
    return [`${prefix}${name}`, tensor] as const;
  });
}

const count = (specs: readonly WeightSpec[]): number =>
  specs.reduce((total, { shape }) => total + shape.reduce((size, extent) => size * extent, 1), 0);

const vision = visionSpecs.map(({ name }) => name);
const projection = visionSpecs.filter(({ name }) => name.startsWith('vision.projection'));

/** What the three rewards run on. */
interface Trained {
  readonly clip: WeightValues;
  readonly pickscore: WeightValues;
  readonly hpsv2: WeightValues;
  readonly minutes: number;
}

async function train(): Promise<Trained> {
  const started = performance.now();
  const engine = await openEngine({ intraOpThreads: 1 });
  const clip = await trainContrastive(
    engine,
    initialWeights(seed),
    stages.contrastive,
    seed,
    report('contrastive'),
  );
  const preference = (name: 'pickscore' | 'hpsv2', trained: readonly string[]): Promise<WeightValues> =>
    trainPreference(engine, clip, trained, steepness, stages[name], `${seed} ${name}`, report(name));
  const pickscore = await preference('pickscore', vision);
  const hpsv2 = await preference(
    'hpsv2',
    projection.map(({ name }) => name),
  );
  await engine.close();
  return { clip, pickscore, hpsv2, minutes: Math.max(1, Math.round((performance.now() - started) / 60_000)) };
}

/** The weights of an earlier training. */
async function readTrained(path: string): Promise<Trained> {
  const { tensors, metadata } = readSafetensors(await readFile(path));
  const found = new Map<string, Float32Array>();
  for (const [name, { data }] of tensors) if (data instanceof Float32Array) found.set(name, data);
  const clip = new Map([...visionSpecs, ...textSpecs].map(({ name }) => [name, weight(found, name)]));
  const changed = (prefix: string, names: readonly string[]): WeightValues =>
    new Map([...clip, ...names.map((name) => [name, weight(found, `${prefix}/${name}`)] as const)]);
  return {
    clip,
    pickscore: changed('pickscore', vision),
    hpsv2: changed(
      'hpsv2',
      projection.map(({ name }) => name),
    ),
    minutes: Number(metadata['plumb.minutes'] ?? 0),
  };
}

function weight(values: WeightValues, name: string): Float32Array {
  const found = values.get(name);
  if (found === undefined) throw new TypeError(`there are no weights for ${name}`);
  return found;
}

const { clip, pickscore, hpsv2, minutes } =
  options.weights === undefined ? await train() : await readTrained(options.weights);

const [base, picked, human] = [await evaluate(clip), await evaluate(pickscore), await evaluate(hpsv2)];
const results = {
  retrieval: base.retrieval,
  direction: base.direction,
  preference: { clip_score: base.preference, pickscore: picked.preference, hpsv2: human.preference },
  pairs: heldOut.pairs,
};
const files: Record<string, Uint8Array> = {
  'vision.onnx': visionOnnx(clip),
  'text.onnx': textOnnx(clip),
  'pickscore-vision.onnx': visionOnnx(pickscore),
  'hpsv2-vision.onnx': visionOnnx(hpsv2),
  'tokenizer.json': Buffer.from(tokenizerJson()),
  'weights.safetensors': writeSafetensors(
    new Map([
      ...tensors('', [...visionSpecs, ...textSpecs], clip),
      ...tensors('pickscore/', visionSpecs, pickscore),
      ...tensors('hpsv2/', projection, hpsv2),
    ]),
    { 'plumb.model': 'toybox-clip', 'plumb.minutes': String(minutes) },
  ),
  'MODEL_CARD.md': Buffer.from(
    modelCard({
      seed,
      weights: { vision: count(visionSpecs), text: count(textSpecs) },
      stages,
      minutes,
      ...results,
    }),
  ),
};
const manifest = {
  kind: 'plumb.toybox-clip',
  version: 1,
  seed,
  steepness,
  stages,
  results,
  files: Object.fromEntries(
    Object.entries(files).map(([name, bytes]) => [
      name,
      { sha256: createHash('sha256').update(bytes).digest('hex'), bytes: bytes.length },
    ]),
  ),
};
await mkdir(options.output, { recursive: true });
for (const [name, bytes] of Object.entries(files)) await writeFile(join(options.output, name), bytes);
await writeFile(join(options.output, 'manifest.json'), `${JSON.stringify(manifest, undefined, 2)}\n`);
process.stdout.write(`${JSON.stringify({ output: options.output, minutes, ...results })}\n`);
