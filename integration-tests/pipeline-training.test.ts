import assert from 'node:assert/strict';
import { cp, mkdtemp, readFile, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { after, before, test } from 'node:test';
import { create, fromBinary, toBinary } from '@bufbuild/protobuf';
import type { MessageInitShape } from '@bufbuild/protobuf';
import { fromStatus } from '@plumb/kit/errors';
import { createClient } from '@plumb/kit/rpc';
import type { RpcClient } from '@plumb/kit/rpc';
import { startNatsServer } from '@plumb/kit/testing/nats-server';
import type { TestNatsServer } from '@plumb/kit/testing/nats-server';
import { openFolderStore } from '@plumb/media';
import type { ArtifactStore, StoredArtifact } from '@plumb/media';
import { adaptedPipelineMediaType, remoteModelMediaType } from '@plumb/media/model-media-types';
import { readPipelineFolder, storePipeline } from '@plumb/pipelines';
import { ModelProtoSchema, NodeProtoSchema } from '@plumb/proto/onnx/onnx_pb.js';
import { ModelVersionSchema } from '@plumb/proto/plumb/models/v1/model_pb.js';
import type { ModelVersion } from '@plumb/proto/plumb/models/v1/model_pb.js';
import { JobState, TrainerService } from '@plumb/proto/plumb/trainer/v1/trainer_pb.js';
import type { Job, JobSpecSchema } from '@plumb/proto/plumb/trainer/v1/trainer_pb.js';
import { plumb } from './support/command-line.ts';
import { storeLatentDataSet } from './support/small-latents.ts';
import { startService } from './support/service-process.ts';
import type { ServiceProcess } from './support/service-process.ts';

const timeout = 600_000;
const fixture = path.resolve(import.meta.dirname, '../packages/pipelines/fixtures/wan');
const steps = 6;

let folder: string;
let nats: TestNatsServer;
let artifacts: ArtifactStore;
let base: ModelVersion;
let dataSet: StoredArtifact;
let trainer: ServiceProcess;
let client: RpcClient<typeof TrainerService>;
let calm: Job | undefined;

const start = (listen = '127.0.0.1:0'): Promise<ServiceProcess> =>
  startService('trainer', {
    PLUMB_LISTEN: listen,
    PLUMB_NATS_URL: nats.url,
    PLUMB_ARTIFACTS: path.join(folder, 'artifacts'),
    PLUMB_INTRA_OP_THREADS: '1',
  });

function versionOf({ uri, sha256, mediaType }: StoredArtifact): ModelVersion {
  const version = `wan-tiny@${sha256.slice(0, 12)}`;
  return create(ModelVersionSchema, { version, model: 'wan-tiny', weights: { uri, sha256, mediaType } });
}

before(async () => {
  folder = await mkdtemp(path.join(tmpdir(), 'plumb-pipeline-training-'));
  nats = await startNatsServer();
  artifacts = await openFolderStore(path.join(folder, 'artifacts'));
  base = versionOf(await storePipeline(await readPipelineFolder(fixture), 'float32', artifacts));
  dataSet = await storeLatentDataSet(artifacts, base, { reward: 'flow', values: [0.2, 0.9] });
  trainer = await start();
  client = createClient(TrainerService, trainer.address, { waitForReady: true, defaultDeadlineMs: timeout });
});

after(async () => {
  client.close();
  await trainer.stop();
  await nats.stop();
  await rm(folder, { recursive: true, force: true });
});

type SpecInit = Exclude<MessageInitShape<typeof JobSpecSchema>, { $typeName: string }>;

function specOf(changes: SpecInit = {}): SpecInit {
  return {
    dataSet: { uri: dataSet.uri, sha256: dataSet.sha256 },
    base,
    objective: { algorithm: 'rwr', reward: 'flow', balance: 'none' },
    optimisation: {
      steps,
      batchSize: 2,
      learningRate: 0.01,
      captionDropout: 0.2,
      emaDecay: 0.5,
      checkpointEverySteps: 2,
      rematerialise: 'blocks',
    },
    adapters: { rank: 2, targets: ['*.attn1.to_q', '*.attn2.to_k'] },
    seed: 5n,
    ...changes,
  };
}

const createJob = async (idempotencyKey: string, spec = specOf()): Promise<string> =>
  (await client.createJob({ spec, idempotencyKey })).job?.id ?? '';

async function follow(id: string, untilStep = Infinity): Promise<Job | undefined> {
  let job: Job | undefined;
  for await (const { event } of client.watchJob({ id, afterStep: 0 })) {
    if (event.case === 'job') job = event.value;
    if (event.case === 'progress' && event.value.step >= untilStep) break;
  }
  return job;
}

const messageOf = (job: Job | undefined): string =>
  job?.error === undefined ? '' : fromStatus(job.error).message;

test(
  'a job trains adapters on latents; its checkpoint refers to the pipeline and to them',
  { timeout },
  async () => {
    calm = await follow(await createJob('calm'));
    assert.equal(calm?.state, JobState.SUCCEEDED, messageOf(calm));
    assert.equal(calm.checkpoint?.mediaType, adaptedPipelineMediaType);
    const { uri, sha256 } = calm.checkpoint;
    const manifest: unknown = JSON.parse(Buffer.from(await artifacts.get(uri, sha256)).toString('utf8'));
    assert.deepEqual(manifest, {
      format: 1,
      base: { uri: base.weights?.uri, sha256: base.weights?.sha256 },
      adapters: { uri: calm.adapters?.uri, sha256: calm.adapters?.sha256 },
    });
  },
);

test('SIGKILL in the middle: the job goes on and ends bit for bit the same', { timeout }, async () => {
  const id = await createJob('killed');
  await follow(id, 3);
  const { address } = trainer;
  await trainer.kill();
  trainer = await start(address);
  const job = await follow(id);
  assert.equal(job?.state, JobState.SUCCEEDED, messageOf(job));
  assert.equal(job.checkpoint?.sha256, calm?.checkpoint?.sha256);
});

test('training goes on from adapters, against the pipeline without them', { timeout }, async () => {
  const { uri = '', sha256 = '', mediaType = '' } = calm?.checkpoint ?? {};
  const adapted = versionOf({ uri, sha256, mediaType, size: 0 });
  const objective = { algorithm: 'dpo', reward: 'flow', balance: 'none', temperature: 10 };
  const job = await follow(await createJob('on', specOf({ base: adapted, reference: base, objective })));
  assert.equal(job?.state, JobState.SUCCEEDED, messageOf(job));
  assert.notEqual(job.checkpoint?.sha256, sha256);
  const other = await follow(await createJob('rank', specOf({ base: adapted, adapters: { rank: 1 } })));
  assert.match(messageOf(other), /spec\.adapters\.rank: is 1, but wan-tiny@[0-9a-f]+ has adapters of rank 2/);
});

test(
  'a base that cannot be trained is refused with the field, and nothing is written',
  { timeout },
  async () => {
    const { adapters: _, ...whole } = specOf();
    await assert.rejects(client.createJob({ spec: whole, idempotencyKey: 'whole' }), {
      message: /spec\.adapters: is missing; wan-tiny@[0-9a-f]+ is a pipeline/,
    });
    const remote = versionOf({
      uri: base.weights?.uri ?? '',
      sha256: base.weights?.sha256 ?? '',
      mediaType: remoteModelMediaType,
      size: 0,
    });
    await assert.rejects(client.createJob({ spec: specOf({ base: remote }), idempotencyKey: 'remote' }), {
      message: /spec\.base\.weights\.media_type: says that wan-tiny@[0-9a-f]+ is a remote model/,
    });

    const rounded = path.join(folder, 'rounded');
    await cp(fixture, rounded, { recursive: true });
    await rm(path.join(rounded, 'SHA256SUMS'));
    const graphFile = path.join(rounded, 'transformer/model.onnx');
    const model = fromBinary(ModelProtoSchema, await readFile(graphFile));
    const output = model.graph?.output[0]?.name ?? '';
    const last = model.graph?.node.find((node) => node.output.includes(output));
    assert.ok(last !== undefined && model.graph !== undefined);
    last.output = ['before_round'];
    model.graph.node.push(
      create(NodeProtoSchema, {
        opType: 'Round',
        name: '/head/Round',
        input: ['before_round'],
        output: [output],
      }),
    );
    await writeFile(graphFile, toBinary(ModelProtoSchema, model));
    const untrainable = versionOf(
      await storePipeline(await readPipelineFolder(rounded), 'float32', artifacts),
    );
    const job = await follow(await createJob('rounded', specOf({ base: untrainable })));
    assert.equal(job?.state, JobState.FAILED);
    assert.match(
      messageOf(job),
      /spec\.base: wan-tiny@[0-9a-f]+ cannot be trained: operator Round \(node .*\/head\/Round.*\) has no gradient/,
    );
    assert.equal(job.checkpoint, undefined);
    // Whoever imports it hears so before anything is sampled for training.
    const state = path.join(folder, 'state');
    const imported = await plumb(['model', 'import', rounded, '--state', state], folder);
    assert.equal(imported.code, 0, imported.stderr);
    assert.match(
      imported.stdout,
      /Training: not possible: operator Round \(node .*\/head\/Round.*\) has no gradient/,
    );
    const targets = ['*.to_z'];
    const none = await follow(await createJob('none', specOf({ adapters: { rank: 2, targets } })));
    assert.match(messageOf(none), /spec\.adapters\.targets\[0\]: "\*\.to_z" matches no linear layer/);
  },
);
