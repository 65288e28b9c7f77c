/** Makes models/toybox-clip from nothing: `node packages/toybox-clip/bin/train.ts [--output folder] [--steps-divisor n]`. */

import { createHash } from 'node:crypto';
import { mkdir, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { parseArgs } from 'node:util';
import { writeSafetensors } from '@plumb/tensor-graph/safetensors';
import { openEngine } from '@plumb/tensor-graph/engine';
import { measurePreference, measureRetrieval, openEmbedder } from '../src/evaluate.ts';
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
  await embedder.close();
  return { retrieval, preference };
}

function tensors(prefix: string, specs: readonly WeightSpec[], values: WeightValues) {
  return specs.map(({ name, shape }) => {
    const data = values.get(name);
    if (data === undefined) throw new TypeError(`no weights for ${name}`);
    return [`${prefix}${name}`, { dtype: 'float32' as const, shape: [...shape], data }] as const;
  });
}

const count = (specs: readonly WeightSpec[]): number =>
  specs.reduce((total, { shape }) => total + shape.reduce((size, extent) => size * extent, 1), 0);

const started = performance.now();
const vision = visionSpecs.map(({ name }) => name);
const projection = visionSpecs.filter(({ name }) => name.startsWith('vision.projection'));
const engine = await openEngine({ intraOpThreads: 1 });
const clip = await trainContrastive(
  engine,
  initialWeights(seed),
  stages.contrastive,
  seed,
  report('contrastive'),
);
const pickscore = await trainPreference(
  engine,
  clip,
  vision,
  steepness,
  stages.pickscore,
  `${seed} pickscore`,
  report('pickscore'),
);
const hpsv2 = await trainPreference(
  engine,
  clip,
  projection.map(({ name }) => name),
  steepness,
  stages.hpsv2,
  `${seed} hpsv2`,
  report('hpsv2'),
);
await engine.close();
const minutes = Math.max(1, Math.round((performance.now() - started) / 60_000));

const [base, picked, human] = [await evaluate(clip), await evaluate(pickscore), await evaluate(hpsv2)];
const results = {
  retrieval: base.retrieval,
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
    { 'plumb.model': 'toybox-clip' },
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
