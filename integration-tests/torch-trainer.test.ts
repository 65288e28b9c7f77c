import assert from 'node:assert/strict';
import { execFileSync, spawn } from 'node:child_process';
import type { ChildProcess } from 'node:child_process';
import { once } from 'node:events';
import { cp, mkdtemp, readdir, readFile, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { createInterface } from 'node:readline';
import { after, before, describe, test } from 'node:test';
import { fromJsonString } from '@bufbuild/protobuf';
import { decodeModel, decodeTrainingState } from '@plumb/diffusion';
import { TrainingProgressSchema } from '@plumb/proto/plumb/trainer/v1/trainer_pb.js';
import type { TrainingProgress } from '@plumb/proto/plumb/trainer/v1/trainer_pb.js';
import { committedCases, readCases } from '../parity/case-files.ts';
import { missingTorch, pythonWithTorch, torchEnvironment } from './support/torch.ts';

const root = path.resolve(import.meta.dirname, '..');
const inputs = path.join(root, 'parity/cases/trainers');
/** Largest difference of a loss from the ONNX engine's, whose agreement with the committed losses parity.test.ts holds. */
const limit = 1e-3;
const timeout = 300_000;
/** Steps enough that a signal arrives before the last of them. */
const long = { steps: 120, batchSize: 8, learningRate: 1e-3, emaDecay: 0.9 };

const environment = { ...process.env, ...torchEnvironment };

interface CaseIndex {
  readonly cases: readonly {
    readonly name: string;
    readonly kind: string;
    readonly job?: Readonly<Record<string, unknown>>;
    readonly reward?: string;
    readonly seed?: string;
  }[];
}

let folder: string;

before(async () => {
  folder = await mkdtemp(path.join(tmpdir(), 'plumb-torch-'));
});
after(() => rm(folder, { recursive: true, force: true }));

/** Writes the job of a parity case as the trainer reads it; gives the path. */
async function jobFile(name: string, changes: Readonly<Record<string, unknown>> = {}): Promise<string> {
  const index = JSON.parse(await readFile(path.join(root, 'parity/cases/index.json'), 'utf8')) as CaseIndex;
  const one = index.cases.find((each) => each.kind === 'trainers' && each.name === name);
  assert.ok(one !== undefined, `parity has a case ${name}`);
  const file = path.join(folder, `${name.replaceAll(/\W+/g, '-')}.json`);
  const job = {
    kind: 'plumb.torch-job',
    version: 1,
    jobId: name,
    dataSet: { path: path.join(inputs, 'data-set.json') },
    base: { version: 'parity', path: path.join(inputs, 'model.safetensors') },
    reward: one.reward,
    seed: one.seed,
    checkpointEverySteps: 4,
    ...one.job,
    ...changes,
  };
  await writeFile(file, JSON.stringify(job));
  return file;
}

const programArguments = (job: string, output: string): string[] => {
  const artifacts = path.join(inputs, 'artifacts');
  return ['--job', job, '--output', output, '--artifacts', artifacts, '--device', 'cpu'];
};

/** Starts torchrun on this machine. */
function torchrun(
  job: string,
  output: string,
  options: { readonly processes: number; readonly parallel?: 'ddp' | 'fsdp'; readonly restarts?: number },
): ChildProcess {
  const { processes, parallel = 'ddp', restarts = 0 } = options;
  return spawn(
    pythonWithTorch,
    [
      '-m',
      'torch.distributed.run',
      '--standalone',
      `--nproc-per-node=${processes}`,
      `--max-restarts=${restarts}`,
      '--monitor-interval=0.1',
      '-m',
      'plumb_torch',
      ...programArguments(job, output),
      '--parallel',
      parallel,
    ],
    { env: environment, stdio: ['ignore', 'pipe', 'pipe'] },
  );
}

async function finish(child: ChildProcess): Promise<{ code: number | null; output: string; errors: string }> {
  const parts = { output: '', errors: '' };
  child.stdout?.on('data', (chunk: Buffer) => (parts.output += chunk.toString()));
  child.stderr?.on('data', (chunk: Buffer) => (parts.errors += chunk.toString()));
  const [code] = (await once(child, 'close')) as [number | null];
  return { code, ...parts };
}

async function train(...options: Parameters<typeof torchrun>): Promise<void> {
  const { code, errors } = await finish(torchrun(...options));
  assert.equal(code, 0, errors);
}

async function pointsOf(output: string): Promise<TrainingProgress[]> {
  const text = await readFile(path.join(output, 'progress.jsonl'), 'utf8');
  return text
    .trim()
    .split('\n')
    .map((line) => fromJsonString(TrainingProgressSchema, line));
}

/** What the ONNX engine's agreement was measured on. */
async function committedLosses(name: string): Promise<number[]> {
  const files = await readCases(committedCases);
  return Array.from(files.tensor('trainers', name, 'loss').data as Float32Array);
}

function assertClose(points: readonly TrainingProgress[], expected: readonly number[]): void {
  assert.deepEqual(
    points.map(({ step }) => step),
    expected.map((_, index) => index + 1),
  );
  for (const [index, loss] of expected.entries()) {
    const found = points[index]?.loss ?? Number.NaN;
    assert.ok(Math.abs(found - loss) <= limit, `step ${index + 1}: ${found}, ${loss}`);
  }
}

describe('trainers/torch', { skip: missingTorch ?? false, timeout }, () => {
  for (const [name, parallel] of [
    ['job, rwr, klAnchor', 'ddp'],
    ['job, dpo, sftAnchor', 'fsdp'],
    ['job, kto', 'ddp'],
    ['job, adapters', 'fsdp'],
  ] as const) {
    test(`two processes (${parallel}) train as the ONNX engine: ${name}`, { timeout }, async () => {
      const output = path.join(folder, `two ${name}`);
      await train(await jobFile(name), output, { processes: 2, parallel });
      assertClose(await pointsOf(output), await committedLosses(name));
      const trained = decodeModel(
        await readFile(path.join(output, 'model.safetensors')),
        'the trained model',
      );
      const base = decodeModel(await readFile(path.join(inputs, 'model.safetensors')), 'the base');
      assert.deepEqual([...trained.parameters.keys()], [...base.parameters.keys()]);
      assert.notDeepEqual(
        trained.parameters.get('blocks.0.mlp.0.weight'),
        base.parameters.get('blocks.0.mlp.0.weight'),
      );
      const states = await readdir(path.join(output, 'state'));
      const bytes = await readFile(path.join(output, 'state', states.toSorted().at(-1) ?? ''));
      assert.equal(decodeTrainingState(bytes, 'the checkpoint').step, 20);
    });
  }

  test(
    'a process that is killed in the middle costs nothing: the job ends with the same bits',
    { timeout },
    async () => {
      const job = await jobFile('job, dpo, sftAnchor', { optimisation: long, checkpointEverySteps: 20 });
      const [calm, killed] = [path.join(folder, 'calm'), path.join(folder, 'killed')];
      await train(job, calm, { processes: 2 });

      const child = torchrun(job, killed, { processes: 2, restarts: 1 });
      const steps: number[] = [];
      let victim: number | undefined;
      assert.ok(child.stdout !== null && child.pid !== undefined);
      const launcher = child.pid;
      createInterface({ input: child.stdout }).on('line', (line) => {
        const { step } = JSON.parse(line) as { step: number };
        steps.push(step);
        if (step !== 50 || victim !== undefined) return;
        victim = workersOf(launcher).at(-1);
        if (victim !== undefined) process.kill(victim, 'SIGKILL');
      });
      let errors = '';
      child.stderr?.on('data', (chunk: Buffer) => (errors += chunk.toString()));
      const [code] = (await once(child, 'close')) as [number | null];
      assert.equal(code, 0, errors);
      assert.ok(victim !== undefined, 'a worker was found and killed');
      // Checkpoints are taken every 20 steps: the second life begins after the 40th or a later one.
      const again = steps.findIndex((step, index) => index > 0 && step <= (steps[index - 1] ?? 0));
      assert.ok(again > 0 && (steps[again] ?? 0) % 20 === 1 && (steps[again] ?? 0) >= 41, steps.join(' '));
      for (const file of ['model.safetensors', 'manifest.json']) {
        assert.deepEqual(
          await readFile(path.join(killed, file)),
          await readFile(path.join(calm, file)),
          `${file} has the same bytes`,
        );
      }
      const curve = (points: TrainingProgress[]) =>
        points.map(({ step, loss, gradientNorm }) => [step, loss, gradientNorm]);
      assert.deepEqual(curve(await pointsOf(killed)), curve(await pointsOf(calm)));
    },
  );

  test('SIGTERM leaves a checkpoint, and the same command goes on from it', { timeout }, async () => {
    const job = await jobFile('job, sft', { optimisation: long, checkpointEverySteps: 1000 });
    const [calm, stopped] = [path.join(folder, 'sft'), path.join(folder, 'stopped')];
    await train(job, calm, { processes: 1 });
    const child = torchrun(job, stopped, { processes: 1 });
    assert.ok(child.stdout !== null && child.pid !== undefined);
    const [worker] = await Promise.all([
      new Promise<number | undefined>((resolve) => {
        createInterface({ input: child.stdout as NodeJS.ReadableStream }).once('line', () => {
          const found = workersOf(child.pid ?? 0).at(-1);
          if (found !== undefined) process.kill(found, 'SIGTERM');
          resolve(found);
        });
      }),
      once(child, 'close'),
    ]);
    assert.ok(worker !== undefined, 'a worker was found and stopped');
    assert.equal((await readdir(path.join(stopped, 'state'))).length, 1);
    await assert.rejects(readFile(path.join(stopped, 'manifest.json')));
    await train(job, stopped, { processes: 1 });
    assert.deepEqual(
      await readFile(path.join(stopped, 'model.safetensors')),
      await readFile(path.join(calm, 'model.safetensors')),
    );
  });

  test('bad jobs end at once, naming the field', { timeout }, async () => {
    const damaged = path.join(folder, 'damaged');
    await cp(inputs, damaged, { recursive: true });
    await writeFile(path.join(damaged, 'model.safetensors'), 'no model');
    for (const [changes, message] of [
      [{ objective: { algorithm: 'ppo' } }, /objective\.algorithm: is 'ppo'; use one of sft, filtered-sft/],
      [
        { reward: 'taste' },
        /reward: no sample of the data set has a score of 'taste'; its rewards are judge/,
      ],
      [
        { adapters: { rank: 2, targets: ['nothing'] } },
        /adapters\.targets\[0\]: .*nothing.* matches no matrix/,
      ],
      [{ speed: 1 }, /job\.speed: is unknown/],
      [
        { base: { version: 'damaged', path: path.join(damaged, 'model.safetensors') } },
        /the weights of damaged: .*model\.safetensors is not a safetensors file/,
      ],
    ] as const) {
      const job = await jobFile('job, sft', changes);
      const child = spawn(
        pythonWithTorch,
        ['-m', 'plumb_torch', ...programArguments(job, await mkdtemp(path.join(folder, 'bad-')))],
        { env: environment },
      );
      const { code, errors } = await finish(child);
      assert.equal(code, 65, errors);
      assert.match(errors, message);
    }
  });
});

/** Processes that a launcher has started, by id. */
function workersOf(launcher: number): number[] {
  const listed = execFileSync('ps', ['-o', 'pid=,args=', '--ppid', String(launcher)], { encoding: 'utf8' });
  return listed
    .split('\n')
    .filter((line) => line.includes('plumb_torch'))
    .map((line) => Number.parseInt(line, 10));
}
