import { createHash } from 'node:crypto';
import { setTimeout as sleep } from 'node:timers/promises';
import { create } from '@bufbuild/protobuf';
import { timestampNow } from '@bufbuild/protobuf/wkt';
import { connectBus, streamNames, subjects } from '@plumb/kit/bus';
import { notFound, PlumbError, toStatus, unavailable } from '@plumb/kit/errors';
import { addService, createServer } from '@plumb/kit/rpc';
import { encodeClip, openFolderStore } from '@plumb/media';
import { VideoSchema } from '@plumb/proto/plumb/media/v1/video_pb.js';
import { Split } from '@plumb/proto/plumb/prompts/v1/prompt_pb.js';
import {
  GenerationTaskSchema,
  SampleFailedSchema,
  SampleGeneratedSchema,
  SampleScoredSchema,
  ScoringTaskSchema,
} from '@plumb/proto/plumb/tasks/v1/tasks_pb.js';
import type { GenerationTask, ScoringTask } from '@plumb/proto/plumb/tasks/v1/tasks_pb.js';
import { JobSchema, JobState, TrainerService } from '@plumb/proto/plumb/trainer/v1/trainer_pb.js';
import type { Job } from '@plumb/proto/plumb/trainer/v1/trainer_pb.js';

/** How the other side of the protocol behaves; may be changed while it runs. */
export interface PeerBehaviour {
  /** Generation tasks that are taken and never answered, as by a stream that lost them. */
  loseTasks: number;
  /** Answers scoring tasks with an error. */
  failScores: boolean;
  /** Training jobs that end in failure before one succeeds. */
  failJobs: number;
  /** Called after a clip was announced, with how many there were so far. */
  onGenerated: (count: number) => void;
  /** Called when a step of a job was announced. */
  onStep: (step: number) => void;
  /** Milliseconds that a clip takes. */
  clipMs: number;
  /** Training waits for it after each step. */
  trainingHeld: Promise<void>;
}

export interface ProtocolPeers {
  readonly behaviour: PeerBehaviour;
  readonly trainerAddress: string;
  /** Times that each sample was generated. */
  readonly generated: ReadonlyMap<string, number>;
  /** Jobs that were made, by idempotency key. */
  readonly jobs: ReadonlyMap<string, Job>;
  stop(): Promise<void>;
}

const shape = { frames: 2, height: 4, width: 4, fps: 4 };
const hash = (...parts: readonly (string | Uint8Array)[]): Buffer => {
  const digest = createHash('sha256');
  for (const part of parts) digest.update(part);
  return digest.digest();
};

/**
 * The other side of the loop's protocol: takes generation and scoring tasks from the broker and answers with events, and
 * serves TrainerService. Clips are real and depend on model, prompt and seed alone; verdicts depend on the clip; the
 * candidate that it "trains" is accepted more often. It stands for no service's code: it speaks their contracts.
 */
export async function startPeers(options: {
  readonly natsUrl: string;
  readonly artifacts: string;
}): Promise<ProtocolPeers> {
  const behaviour: PeerBehaviour = {
    loseTasks: 0,
    failScores: false,
    failJobs: 0,
    onGenerated: () => undefined,
    onStep: () => undefined,
    clipMs: 0,
    trainingHeld: Promise.resolve(),
  };
  const store = await openFolderStore(options.artifacts);
  const bus = await connectBus({ url: options.natsUrl, name: 'peers' });
  await bus.ensureStreams();
  const generated = new Map<string, number>();

  async function generate(task: GenerationTask, id: string): Promise<void> {
    if (behaviour.loseTasks > 0) {
      behaviour.loseTasks -= 1;
      return;
    }
    await sleep(behaviour.clipMs);
    const weights = task.model?.weights?.sha256 ?? '';
    const pixels = hash(weights, task.prompt?.text ?? '', task.seed.toString());
    const data = Uint8Array.from({ length: 96 }, (_, index) => pixels[index % 32] ?? 0);
    // The first pixel tells the scorer below which model it was.
    data[0] = weights.startsWith('a') ? 0 : 255;
    const bytes = await encodeClip({ ...shape, data });
    const stored = await store.put(bytes, { mediaType: 'image/png' });
    generated.set(task.sampleId, (generated.get(task.sampleId) ?? 0) + 1);
    const video = create(VideoSchema, {
      source: { case: 'uri', value: stored.uri },
      sha256: stored.sha256,
      mediaType: 'image/png',
      width: shape.width,
      height: shape.height,
      frameCount: shape.frames,
      fps: shape.fps,
      valueRange: 1,
    });
    await bus.publish(
      subjects.sampleGenerated,
      SampleGeneratedSchema,
      {
        sampleId: task.sampleId,
        runId: task.runId,
        iteration: task.iteration,
        video,
        modelVersion: task.model?.version ?? '',
        generateTime: timestampNow(),
      },
      { id: `${id}.generated` },
    );
    behaviour.onGenerated(generated.size);
  }

  async function score(task: ScoringTask, id: string): Promise<void> {
    const identity = { sampleId: task.sampleId, runId: task.runId, iteration: task.iteration };
    if (behaviour.failScores) {
      const status = toStatus(unavailable('the judge does not answer', { reason: 'JUDGE_UNAVAILABLE' }));
      await bus.publish(
        subjects.sampleFailed,
        SampleFailedSchema,
        { ...identity, stage: 'score', status },
        { id: `failed.${id}` },
      );
      return;
    }
    const clip = await store.get(task.video?.source.value as string, task.video?.sha256 ?? '');
    const verdict = hash(clip, task.prompt?.text ?? '')[0] ?? 0;
    const trained = task.prompt?.split === Split.HELDOUT && isTrained.has(task.sampleId);
    const value = verdict < (trained ? 240 : 110) ? 1 : 0;
    await bus.publish(
      subjects.sampleScored,
      SampleScoredSchema,
      {
        ...identity,
        scoreTime: timestampNow(),
        outcomes: task.rewards.map((reward) => ({
          reward,
          version: '1',
          weightsHash: 'peer',
          outcome: {
            case: 'score' as const,
            value: {
              value,
              reason: 'by hash',
              failureMode: value === 1 ? '' : 'other',
              checks: { picture: true },
            },
          },
        })),
      },
      { id: `scored.${id}` },
    );
  }

  /** Weights that follow from run and data set, whose hash does not begin with the `a` that marks the base model's. */
  async function putTrainedWeights(runId: string, dataSet: string) {
    for (let salt = 0; ; salt += 1) {
      const weights = await store.put(hash(runId, dataSet, String(salt)), {
        mediaType: 'application/octet-stream',
      });
      if (!weights.sha256.startsWith('a')) return weights;
    }
  }

  /** Samples of a model that training has made. */
  const isTrained = new Set<string>();
  const base = { stream: streamNames.tasks, maxInFlight: 8 } as const;
  const generating = await bus.consume(
    { ...base, durable: 'generator', subject: subjects.taskGenerate, schema: GenerationTaskSchema },
    async (task, { id }) => {
      if (!(task.model?.weights?.sha256 ?? '').startsWith('a')) isTrained.add(task.sampleId);
      await generate(task, id);
    },
  );
  const scoring = await bus.consume(
    { ...base, durable: 'reward', subject: subjects.taskScore, schema: ScoringTaskSchema },
    async (task, { id }) => await score(task, id),
  );

  const jobs = new Map<string, Job>();
  const server = createServer({});
  addService(server, TrainerService, {
    async createJob({ spec, idempotencyKey }) {
      const known = jobs.get(idempotencyKey);
      if (known !== undefined) return { job: known };
      const weights = await putTrainedWeights(
        idempotencyKey.split('.')[0] ?? '',
        spec?.dataSet?.sha256 ?? '',
      );
      const failed = behaviour.failJobs > 0;
      if (failed) behaviour.failJobs -= 1;
      const job = create(JobSchema, {
        id: `job-${hash(idempotencyKey).toString('hex').slice(0, 12)}`,
        ...(spec === undefined ? {} : { spec }),
        state: failed ? JobState.FAILED : JobState.SUCCEEDED,
        endTime: timestampNow(),
        dataSetSummary: { samples: 1, used: 1 },
        ...(failed
          ? {
              error: toStatus(
                new PlumbError({
                  code: 'INTERNAL',
                  reason: 'ENGINE_FAILED',
                  message: 'the engine ran out of memory',
                }),
              ),
            }
          : { checkpoint: { uri: weights.uri, sha256: weights.sha256, sizeBytes: BigInt(weights.size) } }),
      });
      jobs.set(idempotencyKey, job);
      return { job: { ...job, state: JobState.PENDING } };
    },
    async *watchJob({ id, afterStep }) {
      const job = [...jobs.values()].find((known) => known.id === id);
      if (job === undefined) throw notFound('job', id);
      yield { event: { case: 'job', value: { ...job, state: JobState.RUNNING } } };
      const total = job.spec?.optimisation?.steps ?? 0;
      for (let step = afterStep + 1; step <= total; step += 1) {
        yield { event: { case: 'progress', value: { jobId: id, step, totalSteps: total, loss: 1 / step } } };
        behaviour.onStep(step);
        await behaviour.trainingHeld;
        await sleep(1);
      }
      yield { event: { case: 'job', value: job } };
    },
    getJob: ({ id }) => {
      const job = [...jobs.values()].find((known) => known.id === id);
      if (job === undefined) throw notFound('job', id);
      return { job };
    },
    cancelJob: ({ id }) => ({ job: { id, state: JobState.CANCELLED } }),
    listJobs: () => ({ jobs: [...jobs.values()] }),
  });
  const { address } = await server.listen();

  return {
    behaviour,
    trainerAddress: address,
    generated,
    jobs,
    async stop() {
      await Promise.all([generating.stop(), scoring.stop()]);
      await server.stop();
      await bus.close();
    },
  };
}
