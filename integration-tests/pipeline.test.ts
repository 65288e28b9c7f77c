import assert from 'node:assert/strict';
import { mkdtemp, readFile, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { after, before, test } from 'node:test';
import { create } from '@bufbuild/protobuf';
import { connectBus, messageCodec } from '@plumb/kit/bus';
import type { Bus } from '@plumb/kit/bus';
import { createClient } from '@plumb/kit/rpc';
import type { RpcClient } from '@plumb/kit/rpc';
import { startNatsServer } from '@plumb/kit/testing/nats-server';
import type { TestNatsServer } from '@plumb/kit/testing/nats-server';
import { openFolderStore, readVideo } from '@plumb/media';
import type { ArtifactStore } from '@plumb/media';
import { remoteModelMediaType } from '@plumb/media/model-media-types';
import { openPipeline, readPipelineFolder, storePipeline } from '@plumb/pipelines';
import { GeneratorService } from '@plumb/proto/plumb/generator/v1/generator_pb.js';
import type { GenerateResponse } from '@plumb/proto/plumb/generator/v1/generator_pb.js';
import { ModelVersionSchema } from '@plumb/proto/plumb/models/v1/model_pb.js';
import type { ModelVersion } from '@plumb/proto/plumb/models/v1/model_pb.js';
import { openInThread } from '@plumb/tensor-graph/engine';
import { readSafetensors } from '@plumb/tensor-graph/safetensors';
import { startPlumb } from './support/command-line.ts';
import { startService } from './support/service-process.ts';
import type { ServiceProcess } from './support/service-process.ts';

const fixtures = path.resolve(import.meta.dirname, '../packages/pipelines/fixtures');
const sampler = { steps: 3, guidance: 3, shift: 1 };
const prompts = ['a red ball rolls off the table', 'the blue block falls', 'the cup pushes the ball'];

let folder: string;
let nats: TestNatsServer;
let bus: Bus;
let artifacts: ArtifactStore;
let model: ModelVersion;
let generator: ServiceProcess;
let client: RpcClient<typeof GeneratorService>;

before(async () => {
  folder = await mkdtemp(path.join(tmpdir(), 'plumb-pipeline-'));
  nats = await startNatsServer();
  artifacts = await openFolderStore(path.join(folder, 'artifacts'));
  bus = await connectBus({ url: nats.url, name: 'test' });
  await bus.ensureStreams();
  const manifest = await storePipeline(
    await readPipelineFolder(path.join(fixtures, 'ltx')),
    'float32',
    artifacts,
  );
  model = create(ModelVersionSchema, {
    version: `ltx-tiny@${manifest.sha256.slice(0, 12)}`,
    model: 'ltx-tiny',
    weights: { uri: manifest.uri, sha256: manifest.sha256, mediaType: manifest.mediaType },
  });
  const registry = await bus.keyValue('plumb_models', messageCodec(ModelVersionSchema), { history: 10 });
  await registry.put('promoted.ltx-tiny', model);
  generator = await startService('generator', {
    PLUMB_LISTEN: '127.0.0.1:0',
    PLUMB_NATS_URL: nats.url,
    PLUMB_ARTIFACTS: path.join(folder, 'artifacts'),
    PLUMB_BATCH_SIZE: '2',
    PLUMB_INTRA_OP_THREADS: '1',
  });
  client = createClient(GeneratorService, generator.address, { waitForReady: true });
});

after(async () => {
  client.close();
  await generator.stop();
  await bus.close();
  await nats.stop();
  await rm(folder, { recursive: true, force: true });
});

test(
  'the generator serves a pipeline: clips and latents are those of the pipeline itself',
  { timeout: 120_000 },
  async () => {
    const answers = new Map<string, GenerateResponse>();
    const items = prompts.map((text, index) => ({
      id: String(index),
      prompt: { text },
      seed: BigInt(index),
    }));
    for await (const answer of client.generate({ sampler, items, storeLatents: true }))
      answers.set(answer.id, answer);

    const engine = openInThread({ intraOpThreads: 1 });
    const pipeline = openPipeline(engine, await readPipelineFolder(path.join(fixtures, 'ltx')), { batch: 2 });
    const expected = await pipeline.sampleEach(
      prompts.map((caption, index) => ({ caption, seed: BigInt(index) })),
      sampler,
    );
    await engine.close();
    for (const [index, clip] of expected.entries()) {
      assert.ok('data' in clip);
      const { video, latents, modelVersion } = answers.get(String(index)) ?? {};
      assert.ok(video !== undefined && latents !== undefined);
      assert.equal(modelVersion, model.version);
      assert.deepEqual([video.width, video.height, video.frameCount, video.fps], [64, 32, 9, 24]);
      assert.deepEqual((await readVideo(video, artifacts)).data, clip.data);
      const { tensors } = readSafetensors(await artifacts.get(latents.uri, latents.sha256));
      assert.deepEqual(tensors.get('latents')?.data, clip.latents?.data);
    }
  },
);

test(
  'plumb model import checks, samples and registers; what is broken is not registered',
  { timeout: 120_000 },
  async () => {
    const state = path.join(folder, 'state');
    const golden = path.join(folder, 'golden.webp');
    const args = [
      'model',
      'import',
      path.join(fixtures, 'cogvideox'),
      '--state',
      state,
      '--golden',
      golden,
      '--json',
    ];
    const imported = startPlumb(args, folder);
    assert.equal(await imported.ended, 0, imported.stderr());
    const report = JSON.parse(imported.stdout()) as Record<string, unknown>;
    assert.match(String(report['version']), /^cogvideox-tiny@[0-9a-f]{12}$/);
    assert.deepEqual(report['format'], { width: 32, height: 16, frames: 9, fps: 8 });
    assert.deepEqual(report['training'], { layers: 8, parametersPerRank: 512 });
    assert.equal((await readFile(golden)).toString('latin1', 8, 12), 'WEBP');

    const broken = startPlumb(['model', 'import', path.join(fixtures, 'none'), '--state', state], folder);
    assert.equal(await broken.ended, 1);
    assert.match(broken.stderr(), /none' does not exist/);
    const listed = startPlumb(['models', 'list', '--state', state, '--json'], folder);
    assert.equal(await listed.ended, 0, listed.stderr());
    const { models } = JSON.parse(listed.stdout()) as { models: { version: string }[] };
    assert.deepEqual(
      models.map(({ version }) => version),
      [report['version']],
    );
  },
);

test(
  'a remote model is imported, and a generator that does not know its endpoint says so',
  { timeout: 120_000 },
  async () => {
    const definition = path.join(folder, 'vendor.json');
    await writeFile(
      definition,
      JSON.stringify({
        format: 1,
        name: 'vendor',
        endpoint: 'vendor',
        model: 'video-1',
        width: 64,
        height: 32,
        frames: 96,
        fps: 24,
        seconds: '4',
      }),
    );
    const state = path.join(folder, 'state');
    const imported = startPlumb(['model', 'import', definition, '--state', state], folder);
    assert.equal(await imported.ended, 0, imported.stderr());
    assert.match(imported.stdout(), /vendor@[0-9a-f]{12} is registered/);

    const stored = await artifacts.put(await readFile(definition), { mediaType: remoteModelMediaType });
    const version = `vendor@${stored.sha256.slice(0, 12)}`;
    const registry = await bus.keyValue('plumb_models', messageCodec(ModelVersionSchema), { history: 10 });
    const { uri, sha256, mediaType } = stored;
    const promoted = { version, model: 'vendor', weights: { uri, sha256, mediaType } };
    await registry.put('promoted.vendor', create(ModelVersionSchema, promoted));
    const known = new Set<string>();
    const deadline = Date.now() + 60_000;
    while (!known.has(version) && Date.now() < deadline) {
      for (const found of (await client.listModels({})).models) known.add(found.version);
    }
    const items = [{ id: '0', prompt: { text: 'a red ball' }, seed: 1n }];
    const call = async (): Promise<void> => {
      for await (const { id } of client.generate({ modelVersion: version, sampler, items })) assert.fail(id);
    };
    await assert.rejects(call(), (error) => {
      assert.match(String(error), /endpoint 'vendor'.*PLUMB_REMOTE_ENDPOINTS/);
      return true;
    });
  },
);
