import assert from 'node:assert/strict';
import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { after, before, test } from 'node:test';
import { connectBus, messageCodec, streamNames, subjects } from '@plumb/kit/bus';
import type { Bus } from '@plumb/kit/bus';
import { fromStatus, PlumbError } from '@plumb/kit/errors';
import { createClient } from '@plumb/kit/rpc';
import type { RpcClient } from '@plumb/kit/rpc';
import { startNatsServer } from '@plumb/kit/testing/nats-server';
import type { TestNatsServer } from '@plumb/kit/testing/nats-server';
import { openFolderStore, readVideo } from '@plumb/media';
import type { ArtifactStore } from '@plumb/media';
import { GeneratorService } from '@plumb/proto/plumb/generator/v1/generator_pb.js';
import { ModelVersionSchema } from '@plumb/proto/plumb/models/v1/model_pb.js';
import type { ModelVersion } from '@plumb/proto/plumb/models/v1/model_pb.js';
import {
  GenerationTaskSchema,
  SampleFailedSchema,
  SampleGeneratedSchema,
} from '@plumb/proto/plumb/tasks/v1/tasks_pb.js';
import type { SampleFailed, SampleGenerated } from '@plumb/proto/plumb/tasks/v1/tasks_pb.js';
import { Arrivals } from './support/arrivals.ts';
import { childrenOf, startService } from './support/service-process.ts';
import type { ServiceProcess } from './support/service-process.ts';
import { smallCaptions, smallModel, storeModel } from './support/small-world.ts';

const sampler = { steps: 20, guidance: 2, shift: 1 };
const tasksPerRun = 40;

let folder: string;
let nats: TestNatsServer;
let artifacts: ArtifactStore;
let bus: Bus;
let model: ModelVersion;
let generator: ServiceProcess;
let client: RpcClient<typeof GeneratorService>;
const generated = new Arrivals<SampleGenerated>();
const failed = new Arrivals<SampleFailed>();

const start = (listen = '127.0.0.1:0'): Promise<ServiceProcess> =>
  startService('generator', {
    PLUMB_LISTEN: listen,
    PLUMB_NATS_URL: nats.url,
    PLUMB_ARTIFACTS: path.join(folder, 'artifacts'),
    PLUMB_BATCH_SIZE: '4',
    PLUMB_ACK_WAIT_MS: '2000',
    PLUMB_INTRA_OP_THREADS: '1',
  });

before(async () => {
  folder = await mkdtemp(path.join(tmpdir(), 'plumb-generator-'));
  nats = await startNatsServer();
  artifacts = await openFolderStore(path.join(folder, 'artifacts'));
  bus = await connectBus({ url: nats.url, name: 'test' });
  await bus.ensureStreams();
  model = await storeModel(artifacts, smallModel('generator'));
  const events = { stream: streamNames.events, maxInFlight: 200 };
  await bus.consume(
    {
      ...events,
      durable: 'test-generated',
      subject: subjects.sampleGenerated,
      schema: SampleGeneratedSchema,
    },
    (message) => {
      generated.add(message);
    },
  );
  await bus.consume(
    { ...events, durable: 'test-failed', subject: subjects.sampleFailed, schema: SampleFailedSchema },
    (message) => {
      failed.add(message);
    },
  );
  generator = await start();
  client = createClient(GeneratorService, generator.address, { waitForReady: true });
});

after(async () => {
  client.close();
  await generator.stop();
  await bus.close();
  await nats.stop();
  await rm(folder, { recursive: true, force: true });
});

async function publishRun(runId: string): Promise<void> {
  await Promise.all(Array.from({ length: tasksPerRun }, (_, index) => publishTask(runId, index)));
}

async function publishTask(
  runId: string,
  index: number,
  changes: { text?: string; model?: ModelVersion } = {},
): Promise<void> {
  const place = index % smallCaptions.length;
  const sampleId = `${runId}-${index}`;
  await bus.publish(
    subjects.taskGenerate,
    GenerationTaskSchema,
    {
      sampleId,
      runId,
      iteration: 1,
      prompt: { id: `small/${place}`, text: changes.text ?? smallCaptions[place] ?? '' },
      sampleIndex: index,
      seed: BigInt(index),
      model: changes.model ?? model,
      sampler,
    },
    { id: sampleId },
  );
}

/** Hash of every clip of a run by its index; fails when a sample came twice. */
function clipHashes(runId: string): Map<number, string> {
  const hashes = new Map<number, string>();
  for (const { sampleId, video } of generated.all.filter((sample) => sample.runId === runId)) {
    const index = Number(sampleId.slice(runId.length + 1));
    assert.ok(!hashes.has(index), `sample ${sampleId} came twice`);
    hashes.set(index, video?.sha256 ?? '');
  }
  return hashes;
}

const ofRun = (runId: string) => (sample: SampleGenerated) => sample.runId === runId;

test('bulk tasks become stored clips, each once', { timeout: 60_000 }, async () => {
  await publishRun('calm');
  await generated.reach(tasksPerRun, ofRun('calm'));
  assert.equal(clipHashes('calm').size, tasksPerRun);
  const [sample] = generated.all;
  assert.ok(sample?.video !== undefined && sample.preview !== undefined);
  assert.equal(sample.modelVersion, model.version);
  const clip = await readVideo(sample.video, artifacts);
  assert.deepEqual([clip.frames, clip.height, clip.width], [4, 8, 8]);
  assert.ok(new Set(clip.data).size > 10, 'the clip is a picture and not one colour');
  assert.ok((await artifacts.get(sample.preview.uri, sample.preview.sha256)).length > 0);
});

test(
  'SIGKILL of the generator in the middle: every sample once, with the clip of an undisturbed run',
  { timeout: 60_000 },
  async () => {
    await publishRun('killed');
    await generated.reach(6, ofRun('killed'));
    await generator.kill();
    const before = clipHashes('killed').size;
    generator = await start(generator.address);
    await generated.reach(tasksPerRun, ofRun('killed'));
    assert.ok(before < tasksPerRun, 'it was killed in the middle');
    assert.deepEqual(
      new Map([...clipHashes('killed')].toSorted(([a], [b]) => a - b)),
      new Map([...clipHashes('calm')].toSorted(([a], [b]) => a - b)),
    );
  },
);

test('a crash of the engine costs nothing but time', { timeout: 60_000 }, async () => {
  await publishRun('crashed');
  await generated.reach(6, ofRun('crashed'));
  const engines = await childrenOf(generator.pid);
  assert.ok(engines.length > 0, 'the engine is a process of its own');
  for (const pid of engines) process.kill(pid, 'SIGKILL');
  await generated.reach(tasksPerRun, ofRun('crashed'));
  const sorted = (runId: string) => [...clipHashes(runId)].toSorted(([a], [b]) => a - b);
  assert.deepEqual(sorted('crashed'), sorted('calm'));
});

test(
  'a call gives the clip that the bulk path gives, from the promoted model',
  { timeout: 60_000 },
  async () => {
    const registry = await bus.keyValue('plumb_models', messageCodec(ModelVersionSchema), { history: 10 });
    await registry.put('promoted.small', model);
    const request = {
      sampler,
      items: [3, 9].map((index) => ({
        id: String(index),
        prompt: { text: smallCaptions[index % smallCaptions.length] ?? '' },
        seed: BigInt(index),
      })),
    };
    const known = await arrives(async () => (await client.listModels({})).models.length === 1);
    assert.ok(known);
    const got = new Map<string, string>();
    for await (const { id, video, modelVersion } of client.generate(request)) {
      got.set(id, video?.sha256 ?? '');
      assert.equal(modelVersion, model.version);
    }
    const bulk = clipHashes('calm');
    assert.deepEqual([got.get('3'), got.get('9')], [bulk.get(3), bulk.get(9)]);
    assert.equal((await client.getModel({ version: 'small@promoted' })).model?.version, model.version);
  },
);

test('a word that the model does not know is named, on both paths', { timeout: 60_000 }, async () => {
  const request = { sampler, items: [{ id: 'a', prompt: { text: 'the purple ball' }, seed: 1n }] };
  await assert.rejects(
    async () => {
      for await (const _ of client.generate(request)) assert.fail('no clip was expected');
    },
    (error: unknown) =>
      error instanceof PlumbError &&
      error.code === 'INVALID_ARGUMENT' &&
      error.reason === 'PROMPT_UNKNOWN_WORD' &&
      error.message.includes('"purple"'),
  );
  await publishTask('unknown', 0, { text: 'the purple ball' });
  await failed.reach(1, ({ sampleId }) => sampleId === 'unknown-0');
  const failure = failed.all.find(({ sampleId }) => sampleId === 'unknown-0');
  assert.equal(failure?.stage, 'generate');
  assert.ok(failure.status !== undefined);
  assert.equal(fromStatus(failure.status).reason, 'PROMPT_UNKNOWN_WORD');
  // The event comes first, the dead letter right behind it.
  const isThere = async (): Promise<boolean> =>
    (await bus.deadLetters.list()).some(
      ({ id, reason }) => id === 'unknown-0' && reason === 'PROMPT_UNKNOWN_WORD',
    );
  assert.ok(await arrives(isThere));
});

test(
  'a model that gives values which are not finite, and weights that are damaged, are typed and terminal',
  { timeout: 60_000 },
  async () => {
    const broken = smallModel('generator');
    broken.parameters.get('head.out.bias')?.fill(3e38);
    await publishTask('broken', 0, { model: await storeModel(artifacts, broken) });
    const missing = 'f'.repeat(64);
    await publishTask('missing', 0, {
      model: {
        ...model,
        version: `small@${missing.slice(0, 12)}`,
        weights: { ...model.weights, uri: `artifact:sha256/${missing}`, sha256: missing },
      } as ModelVersion,
    });
    await failed.reach(1, ({ runId }) => runId === 'broken');
    await failed.reach(1, ({ runId }) => runId === 'missing');
    const reasonOf = (run: string): string => {
      const status = failed.all.find(({ runId }) => runId === run)?.status;
      return status === undefined ? '' : fromStatus(status).reason;
    };
    assert.equal(reasonOf('broken'), 'NUMERICS_NOT_FINITE');
    assert.equal(reasonOf('missing'), 'ARTIFACT_NOT_FOUND');
  },
);

test('a bad request names every bad field', { timeout: 60_000 }, async () => {
  await assert.rejects(
    async () => {
      for await (const _ of client.generate({ items: [{ id: '', prompt: { text: '' } }] }))
        assert.fail('no clip was expected');
    },
    (error: unknown) => {
      assert.ok(error instanceof PlumbError && error.code === 'INVALID_ARGUMENT');
      assert.deepEqual(
        error.fieldViolations?.map(({ field }) => field),
        ['sampler', 'items[0].id', 'items[0].prompt.text'],
      );
      return true;
    },
  );
});

/** Asks until the answer is yes; the test's timeout is the limit. */
async function arrives(question: () => Promise<boolean>): Promise<boolean> {
  while (!(await question())) await new Promise((resolve) => setImmediate(resolve));
  return true;
}
