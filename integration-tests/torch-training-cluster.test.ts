import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import { access, mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { after, before, describe, test } from 'node:test';
import { create } from '@bufbuild/protobuf';
import type { MessageInitShape } from '@bufbuild/protobuf';
import { decodeModel, decodePeftAdapters } from '@plumb/diffusion';
import { createClient } from '@plumb/kit/rpc';
import type { RpcClient } from '@plumb/kit/rpc';
import { startNatsServer } from '@plumb/kit/testing/nats-server';
import type { TestNatsServer } from '@plumb/kit/testing/nats-server';
import { openFolderStore } from '@plumb/media';
import type { ArtifactStore } from '@plumb/media';
import { readPipelineFolder, storePipeline } from '@plumb/pipelines';
import { ModelVersionSchema } from '@plumb/proto/plumb/models/v1/model_pb.js';
import type { ModelVersion } from '@plumb/proto/plumb/models/v1/model_pb.js';
import { JobState, TrainerService } from '@plumb/proto/plumb/trainer/v1/trainer_pb.js';
import type { Job, JobSpecSchema } from '@plumb/proto/plumb/trainer/v1/trainer_pb.js';
import { commonKinds, startKubernetesApi } from './support/kubernetes-api/api-server.ts';
import type { KubernetesApi } from './support/kubernetes-api/api-server.ts';
import { lives, startJobController } from './support/kubernetes-api/job-controller.ts';
import type { JobController } from './support/kubernetes-api/job-controller.ts';
import { startService } from './support/service-process.ts';
import type { ServiceProcess } from './support/service-process.ts';
import { storeLatentDataSet } from './support/small-latents.ts';
import { smallModel, storeDataSet, storeModel } from './support/small-world.ts';
import { missingTorch, pythonWithTorch, torchEnvironment } from './support/torch.ts';

const root = path.resolve(import.meta.dirname, '..');
const namespace = 'plumb';
const timeout = 300_000;
const steps = 60;

let folder: string;
let nats: TestNatsServer;
let artifacts: ArtifactStore;
let base: ModelVersion;
let dataSet: { uri: string; sha256: string };
let api: KubernetesApi;
let controller: JobController;
let trainer: ServiceProcess;
let client: RpcClient<typeof TrainerService>;

const shared = (): Record<string, string> => ({
  PLUMB_NATS_URL: nats.url,
  PLUMB_ARTIFACTS: path.join(folder, 'artifacts'),
  PLUMB_INTRA_OP_THREADS: '1',
});

async function restart(more: Record<string, string>): Promise<void> {
  await stop();
  isRunning = true;
  trainer = await startService('trainer', { ...shared(), ...more });
  client = createClient(TrainerService, trainer.address, { waitForReady: true });
}

let isRunning = false;
async function stop(): Promise<void> {
  if (!isRunning) return;
  isRunning = false;
  client.close();
  await trainer.stop();
}

async function train(
  idempotencyKey: string,
  change: Partial<MessageInitShape<typeof JobSpecSchema>> = {},
): Promise<{ losses: number[]; job: Job | undefined }> {
  const spec = {
    dataSet,
    base,
    objective: { algorithm: 'rwr', reward: 'aif' },
    optimisation: { steps, batchSize: 4, learningRate: 1e-3, emaDecay: 0.9, checkpointEverySteps: 20 },
    seed: 7n,
    runId: 'run-test',
    iteration: 1,
    ...change,
  } as MessageInitShape<typeof JobSpecSchema>;
  const id = (await client.createJob({ spec, idempotencyKey })).job?.id ?? '';
  const losses: number[] = [];
  let job: Job | undefined;
  for await (const { event } of client.watchJob({ id })) {
    if (event.case === 'job') job = event.value;
    else if (event.case === 'progress') losses[event.value.step - 1] = event.value.loss;
  }
  return { losses, job };
}

async function modelOf(job: Job | undefined): Promise<Float32Array> {
  assert.equal(job?.state, JobState.SUCCEEDED, JSON.stringify(job?.error?.message));
  const { uri = '', sha256 = '' } = job.checkpoint ?? {};
  const { parameters } = decodeModel(await artifacts.get(uri, sha256), 'the trained model');
  return parameters.get('blocks.0.mlp.0.weight') ?? new Float32Array();
}

describe('a TrainJob that runs trainers/torch', { skip: missingTorch ?? false, timeout }, () => {
  before(async () => {
    folder = await mkdtemp(path.join(tmpdir(), 'plumb-torch-cluster-'));
    nats = await startNatsServer();
    artifacts = await openFolderStore(path.join(folder, 'artifacts'));
    base = await storeModel(artifacts, smallModel('torch'));
    dataSet = await storeDataSet(artifacts, base, { samplesPerPrompt: 4 });
    api = await startKubernetesApi([
      ...commonKinds,
      {
        group: 'trainer.kubeflow.org',
        version: 'v1alpha1',
        plural: 'trainjobs',
        kind: 'TrainJob',
        status: true,
      },
    ]);
    await api.writeKubeconfig(path.join(folder, 'kubeconfig'));
    const command = `${pythonWithTorch} -m torch.distributed.run --standalone --nproc-per-node=2 -m plumb_torch --device cpu --parallel fsdp`;
    const environment = {
      ...shared(),
      ...torchEnvironment,
      PLUMB_TRAINING_COMMAND: command,
      PLUMB_TRAINING_FOLDER: path.join(folder, 'shared'),
      PLUMB_TRAINING_MODEL: path.join(folder, 'wan'),
    };
    await writeFile(
      path.join(folder, 'template.json'),
      JSON.stringify({
        spec: {
          containers: [
            {
              name: 'trainer',
              image: 'plumb/trainer-torch:test',
              command: [process.execPath, path.join(root, 'services/trainer/job.ts')],
              env: Object.entries(environment).map(([name, value]) => ({ name, value })),
            },
          ],
        },
      }),
    );
    controller = startJobController(api, { namespace, plural: 'trainjobs', lifeOf: () => lives.real });
  });
  after(async () => {
    await stop();
    await controller.stop();
    await api.stop();
    await nats.stop();
    await rm(folder, { recursive: true, force: true });
  });

  test('its points, its checkpoint and its errors are those of any job', { timeout }, async () => {
    await restart({ PLUMB_TRAINING_BACKEND: 'local' });
    const engine = await train('engine');
    await restart({
      PLUMB_TRAINING_BACKEND: 'kubeflow',
      PLUMB_KUBECONFIG: path.join(folder, 'kubeconfig'),
      PLUMB_TRAINING_POD_TEMPLATE: path.join(folder, 'template.json'),
    });
    const torch = await train('torch');
    const [expected, found] = [await modelOf(engine.job), await modelOf(torch.job)];
    assert.equal(torch.losses.length, steps);
    for (const [index, loss] of engine.losses.entries()) {
      const other = torch.losses[index] ?? Number.NaN;
      assert.ok(Math.abs(other - loss) <= 1e-3, `step ${index + 1}: ${other}, ${loss}`);
    }
    const largest = Math.max(...expected.map(Math.abs));
    for (const [index, value] of expected.entries()) {
      assert.ok(Math.abs((found[index] ?? Number.NaN) - value) <= 1e-3 * largest, `weight ${index}`);
    }
    const { uri = '', sha256 = '' } = torch.job?.manifest ?? {};
    const manifest = JSON.parse(Buffer.from(await artifacts.get(uri, sha256)).toString('utf8')) as object;
    assert.ok('trainedBy' in manifest);
    await access(path.join(folder, 'shared', torch.job?.id ?? '', 'output', 'progress.jsonl'));

    const optimisation = { steps, batchSize: 3, learningRate: 1e-3 };
    const uneven = await train('uneven', { optimisation });
    assert.equal(uneven.job?.state, JobState.FAILED);
    assert.match(uneven.job.error?.message ?? '', /optimisation\.batchSize 3 cannot be shared evenly/);
  });

  test('adapters on a pipeline of diffusers: the engine trains the same ones', { timeout }, async () => {
    const exporters = path.join(root, 'packages/pipelines/export');
    const program = `import sys; sys.path.insert(0, sys.argv[1]); from make_cases import wan; wan()[0].save_pretrained(sys.argv[2])`;
    execFileSync(pythonWithTorch, ['-B', '-c', program, exporters, path.join(folder, 'wan')], {
      stdio: 'pipe',
    });
    const pipeline = await readPipelineFolder(path.join(root, 'packages/pipelines/fixtures/wan'));
    const { uri, sha256, mediaType } = await storePipeline(pipeline, 'float32', artifacts);
    const model = create(ModelVersionSchema, {
      version: `wan-tiny@${sha256.slice(0, 12)}`,
      model: 'wan-tiny',
      weights: { uri, sha256, mediaType },
    });
    const change = {
      base: model,
      dataSet: await storeLatentDataSet(artifacts, model, { reward: 'aif', values: [0, 1] }),
      objective: { algorithm: 'dpo', reward: 'aif', balance: 'none', temperature: 20 },
      optimisation: {
        steps: 20,
        batchSize: 2,
        learningRate: 0.01,
        captionDropout: 0.2,
        checkpointEverySteps: 10,
      },
      adapters: { rank: 2, alpha: 4, targets: ['*.attn1.to_q', '*.attn2.to_k'] },
    };
    const torch = await train('torch on wan', change);
    await restart({ PLUMB_TRAINING_BACKEND: 'local' });
    const engine = await train('engine on wan', change);
    for (const { job } of [torch, engine]) {
      assert.equal(job?.state, JobState.SUCCEEDED, JSON.stringify(job?.error?.message));
    }
    assert.equal(torch.losses.length, 20);
    for (const [index, loss] of engine.losses.entries()) {
      const other = torch.losses[index] ?? Number.NaN;
      assert.ok(Math.abs(other - loss) <= 1e-3, `step ${index + 1}: ${other}, ${loss}`);
    }
    const adaptersOf = async ({ adapters }: Job) =>
      decodePeftAdapters(await artifacts.get(adapters?.uri ?? '', adapters?.sha256 ?? ''), 'adapters');
    assert.ok(torch.job !== undefined && engine.job !== undefined);
    const [found, expected] = [await adaptersOf(torch.job), await adaptersOf(engine.job)];
    assert.deepEqual(found.modules, expected.modules);
    for (const [name, values] of expected.parameters) {
      const largest = Math.max(...values.map(Math.abs));
      for (const [index, value] of values.entries()) {
        const other = found.parameters.get(name)?.[index] ?? Number.NaN;
        assert.ok(Math.abs(other - value) <= 1e-2 * largest, `${name} ${index}: ${other}, ${value}`);
      }
    }
  });
});
