import assert from 'node:assert/strict';
import { test } from 'node:test';
import { create } from '@bufbuild/protobuf';
import { JobSchema, JobState, TrainingProgressSchema } from '@plumb/proto/plumb/trainer/v1/trainer_pb.js';
import { JobFeed } from './job-feed.ts';
import type { JobEvent } from './job-feed.ts';

const job = (state: JobState) => create(JobSchema, { id: 'j', state });
const point = (step: number) => create(TrainingProgressSchema, { step });
const shown = (event: JobEvent | undefined): unknown =>
  event?.case === 'progress'
    ? event.value.step
    : event === undefined
      ? undefined
      : JobState[event.value.state];
const signal = new AbortController().signal;

test('a watcher sees the state, the past after its step, and what comes', async () => {
  const feed = new JobFeed(job(JobState.RUNNING), [point(1), point(2), point(3)]);
  const events = feed.watch(1, signal);
  const take = async (): Promise<unknown> => shown((await events.next()).value ?? undefined);
  assert.deepEqual([await take(), await take(), await take()], ['RUNNING', 2, 3]);
  const next = take();
  feed.add(point(4));
  assert.equal(await next, 4);
  feed.add(point(5));
  feed.setJob(job(JobState.SUCCEEDED));
  assert.deepEqual([await take(), await take(), await take()], [5, 'SUCCEEDED', undefined]);
});

test('a job that has ended gives its points and then itself', async () => {
  const seen: unknown[] = [];
  for await (const event of new JobFeed(job(JobState.FAILED), [point(1), point(2)]).watch(0, signal))
    seen.push(shown(event));
  assert.deepEqual(seen, [1, 2, 'FAILED']);
});

test('points that are made again after a rewind are seen once', async () => {
  const feed = new JobFeed(job(JobState.RUNNING), [point(1), point(2), point(3)]);
  const events = feed.watch(0, signal);
  const take = async (): Promise<unknown> => shown((await events.next()).value ?? undefined);
  assert.deepEqual([await take(), await take(), await take(), await take()], ['RUNNING', 1, 2, 3]);
  feed.rewind(1);
  for (const step of [2, 3, 4]) feed.add(point(step));
  assert.equal(await take(), 4);
});

test('a watcher that leaves ends its stream', async () => {
  const controller = new AbortController();
  const events = new JobFeed(job(JobState.PENDING)).watch(0, controller.signal);
  assert.equal(shown((await events.next()).value ?? undefined), 'PENDING');
  const next = events.next();
  controller.abort();
  assert.equal((await next).done, true);
});
