/**
 * The other side of the loop's queues, with stub work: takes generation and scoring tasks and answers at once, or after the
 * time that it is told; serves a trainer. One process, so that its processor time is that of both services' messaging.
 *
 * Prints its trainer's address as one line of JSON, and ends when its standard input does.
 */
import { createHash } from 'node:crypto';
import { setTimeout as sleep } from 'node:timers/promises';
import { create } from '@bufbuild/protobuf';
import { timestampNow } from '@bufbuild/protobuf/wkt';
import { connectBus, streamNames, subjects } from '@plumb/kit/bus';
import { notFound } from '@plumb/kit/errors';
import { addService, createServer } from '@plumb/kit/rpc';
import { openFolderStore } from '@plumb/media';
import { VideoSchema } from '@plumb/proto/plumb/media/v1/video_pb.js';
import {
  GenerationTaskSchema,
  SampleGeneratedSchema,
  SampleScoredSchema,
  ScoringTaskSchema,
} from '@plumb/proto/plumb/tasks/v1/tasks_pb.js';
import { JobSchema, JobState, TrainerService } from '@plumb/proto/plumb/trainer/v1/trainer_pb.js';
import type { Job } from '@plumb/proto/plumb/trainer/v1/trainer_pb.js';

const [natsUrl = '', artifacts = '', clipMs = '0', scoreMs = '0', trainMs = '0'] = process.argv.slice(2);
const store = await openFolderStore(artifacts);
const bus = await connectBus({ url: natsUrl, name: 'stub-workers' });
await bus.ensureStreams();

const clip = await store.put(Buffer.from('a clip'), { mediaType: 'image/png' });
const video = create(VideoSchema, {
  source: { case: 'uri', value: clip.uri },
  sha256: clip.sha256,
  mediaType: 'image/png',
  width: 24,
  height: 24,
  frameCount: 8,
  fps: 8,
  valueRange: 1,
});

/** One clip after the other, as on one accelerator. */
let lane: Promise<unknown> = Promise.resolve();
async function makeClip(): Promise<void> {
  if (Number(clipMs) === 0) return;
  const turn = lane.then(() => sleep(Number(clipMs)));
  lane = turn;
  await turn;
}

const base = { stream: streamNames.tasks, maxInFlight: 64 } as const;
const generating = await bus.consume(
  { ...base, durable: 'generator', subject: subjects.taskGenerate, schema: GenerationTaskSchema },
  async ({ sampleId, runId, iteration, model }, { id }) => {
    await makeClip();
    const event = {
      sampleId,
      runId,
      iteration,
      video,
      modelVersion: model?.version ?? '',
      generateTime: timestampNow(),
    };
    await bus.publish(subjects.sampleGenerated, SampleGeneratedSchema, event, {
      id: `${id}.generated`,
    });
  },
);
const scoring = await bus.consume(
  { ...base, durable: 'reward', subject: subjects.taskScore, schema: ScoringTaskSchema },
  async ({ sampleId, runId, iteration, rewards }, { id }) => {
    if (Number(scoreMs) > 0) await sleep(Number(scoreMs));
    const accepted = Number.parseInt(sampleId.slice(0, 2), 16) < 128;
    const outcomes = rewards.map((reward) => ({
      reward,
      version: '1',
      weightsHash: 'stub',
      outcome: {
        case: 'score' as const,
        value: { value: Number(accepted), failureMode: accepted ? '' : 'other', checks: { picture: true } },
      },
    }));
    const event = { sampleId, runId, iteration, outcomes, scoreTime: timestampNow() };
    await bus.publish(subjects.sampleScored, SampleScoredSchema, event, { id: `scored.${id}` });
  },
);

const jobs = new Map<string, Job>();
const server = createServer({});
addService(server, TrainerService, {
  async createJob({ spec, idempotencyKey }) {
    const known = jobs.get(idempotencyKey);
    if (known !== undefined) return { job: known };
    const weights = await store.put(Buffer.from(`weights ${idempotencyKey}`), {
      mediaType: 'application/octet-stream',
    });
    const job = create(JobSchema, {
      id: `job-${createHash('sha256').update(idempotencyKey).digest('hex').slice(0, 12)}`,
      ...(spec === undefined ? {} : { spec }),
      state: JobState.RUNNING,
      checkpoint: { uri: weights.uri, sha256: weights.sha256 },
    });
    jobs.set(idempotencyKey, job);
    return { job };
  },
  async *watchJob({ id }) {
    const job = [...jobs.values()].find((known) => known.id === id);
    if (job === undefined) throw notFound('job', id);
    yield { event: { case: 'job', value: job } };
    await sleep(Number(trainMs));
    job.state = JobState.SUCCEEDED;
    job.endTime = timestampNow();
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
process.stdout.write(`${JSON.stringify({ address })}\n`);

for await (const _ of process.stdin);
await Promise.all([generating.stop(), scoring.stop()]);
await server.stop();
await bus.close();
