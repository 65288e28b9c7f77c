import assert from 'node:assert/strict';
import { mkdtemp, readFile, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { after, before, test } from 'node:test';
import { decodePeftAdapters } from '@plumb/diffusion';
import { openFolderStore } from '@plumb/media';
import { dataSetManifestSchema } from '@plumb/objective';
import { readSafetensors } from '@plumb/tensor-graph/safetensors';
import { z } from 'zod';
import { plumb } from './support/command-line.ts';

const timeout = 1_200_000;
const repository = path.resolve(import.meta.dirname, '..');
const fixture = path.join(repository, 'packages/pipelines/fixtures/wan');

let folder: string;
let state: string;
let version: string;

before(
  async () => {
    folder = await mkdtemp(path.join(tmpdir(), 'plumb-pipeline-run-'));
    state = path.join(folder, 'state');
    const golden = path.join(folder, 'golden.webp');
    const imported = await plumb(
      ['model', 'import', fixture, '--state', state, '--golden', golden, '--json'],
      folder,
    );
    assert.equal(imported.code, 0, imported.stderr);
    version = z.object({ version: z.string() }).parse(JSON.parse(imported.stdout)).version;
  },
  { timeout },
);
after(() => rm(folder, { recursive: true, force: true }));

/** The referee judges square clips of the toybox; these are 32x16, and metric rewards see every clip. */
const spec = (iterations: number): string => `
name: pipeline
model: ${version}
prompts: { set: ${JSON.stringify(path.join(repository, 'prompts/toybox.json'))}, trainPerCategory: 1, heldoutPerCategory: 1 }
samplesPerPrompt: 2
rewards: [optical_flow]
judge: motion_floor
objective: { balance: none }
optimisation: { steps: 4, batchSize: 2, warmupSteps: 0, learningRate: 0.01, checkpointEverySteps: 2 }
adapters: { rank: 2 }
iterations: ${iterations}
evaluation: { samplesPerPrompt: 1, guards: [colour_stability] }
gate: [{ rule: smallest-gain, gain: -1, lowerBound: -1 }]
`;

const named = z.object({ version: z.string(), sha256: z.string() });
const manifestSchema = z.object({
  spec: z.object({
    sampler: z.record(z.string(), z.number()),
    optimisation: z.object({ rematerialise: z.string() }),
    evaluation: z.object({ sampler: z.record(z.string(), z.number()) }),
  }),
  iterations: z.array(
    z.object({
      before: named,
      after: named,
      dataSet: z.string(),
      promoted: z.boolean(),
      counts: z.record(z.string(), z.object({ samples: z.number(), errors: z.number() })),
    }),
  ),
});

test(
  'a run with a latent pipeline: sampled as it recommends, trained on its latents, evaluated, promoted, trained on',
  { timeout },
  async () => {
    await writeFile(path.join(folder, 'spec.yaml'), spec(2));
    const ended = await plumb(['run', 'create', 'spec.yaml', '--state', state, '--json'], folder);
    assert.equal(ended.code, 0, ended.stderr);
    const { id } = z.object({ id: z.string() }).parse(JSON.parse(ended.stdout));
    const written = await plumb(['run', 'manifest', id, '--state', state], folder);
    assert.equal(written.code, 0, written.stderr);
    const manifest = manifestSchema.parse(JSON.parse(await readFile(path.join(folder, 'run.json'), 'utf8')));

    // What the spec leaves out is the pipeline's own and not the toybox's.
    const recommended = { steps: 4, guidance: 4, shift: 1 };
    assert.deepEqual(manifest.spec.sampler, recommended);
    assert.deepEqual(manifest.spec.evaluation.sampler, recommended);
    assert.equal(manifest.spec.optimisation.rematerialise, 'blocks');

    const [first, second] = manifest.iterations;
    assert.ok(first !== undefined && second !== undefined);
    assert.equal(first.before.version, version);
    for (const { promoted, counts } of [first, second]) {
      assert.ok(promoted);
      for (const [group, samples] of Object.entries({ train: 10, before: 5, after: 5 })) {
        assert.deepEqual([counts[group]?.samples, counts[group]?.errors], [samples, 0], group);
      }
    }
    assert.deepEqual(second.before, first.after);
    assert.notEqual(second.after.sha256, first.after.sha256);

    const artifacts = await openFolderStore(path.join(state, 'artifacts'));
    const read = (sha256: string) => artifacts.get(`artifact:sha256/${sha256}`, sha256);
    const dataSet = dataSetManifestSchema.parse(
      JSON.parse(Buffer.from(await read(first.dataSet)).toString('utf8')),
    );
    assert.equal(dataSet.samples.length, 10);
    for (const { latents } of dataSet.samples) {
      assert.ok(latents !== undefined);
      const { tensors } = readSafetensors(await artifacts.get(latents.uri, latents.sha256));
      assert.deepEqual(tensors.get('latents')?.shape, [4, 2, 2, 4]);
    }

    const report = await plumb(['run', 'report', id, '--state', state], folder);
    assert.equal(report.code, 0, report.stderr);
    const shown = await plumb(['models', 'show', second.after.version, '--state', state], folder);
    assert.match(shown.stdout, /pipeline with adapters[^]*rank 2, alpha 2, on 16 layers/);
    const exported = await plumb(
      ['models', 'export', second.after.version, '--state', state, '--output', folder],
      folder,
    );
    assert.equal(exported.code, 0, exported.stderr);
    const file = await readFile(exported.stdout.trim());
    const adapters = decodePeftAdapters(file, 'the export');
    assert.equal(adapters.modules.length, 16);
    const after = adapters.parameters.get('blocks.0.attn1.to_q.lora_B.weight');
    assert.ok(after?.some((value) => value !== 0));
  },
);
