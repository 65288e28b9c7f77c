import assert from 'node:assert/strict';
import { test } from 'node:test';
import { create } from '@bufbuild/protobuf';
import type { Bus } from '@plumb/kit/bus';
import { connectBus, subjects } from '@plumb/kit/bus';
import { logger } from '@plumb/kit/telemetry';
import { startNatsServer } from '@plumb/kit/testing/nats-server';
import { TrainingProgressSchema } from '@plumb/proto/plumb/trainer/v1/trainer_pb.js';
import type { TrainingProgress } from '@plumb/proto/plumb/trainer/v1/trainer_pb.js';
import { progressEvents } from './progress-events.ts';

const point = (step: number, probed = false): TrainingProgress =>
  create(TrainingProgressSchema, {
    jobId: 'job-1',
    step,
    totalSteps: 50,
    loss: 0.5,
    ...(probed ? { probes: [{ step, clips: 4 }] } : {}),
  });

test('a point a second, every probe and the last point reach the bus', { timeout: 60_000 }, async () => {
  const nats = await startNatsServer();
  const bus: Bus = await connectBus({ url: nats.url, name: 'progress test' });
  try {
    await bus.ensureStreams();
    const seen: number[] = [];
    const all = Promise.withResolvers<undefined>();
    const consumption = await bus.consume(
      {
        stream: 'PLUMB_EVENTS',
        durable: 'progress-test',
        subject: subjects.trainingProgress,
        schema: TrainingProgressSchema,
        maxInFlight: 1,
      },
      (message) => {
        seen.push(message.step);
        if (message.step === 50) all.resolve(undefined);
        return Promise.resolve();
      },
    );
    let clock = 0;
    const events = progressEvents(bus, logger('test'), () => clock);
    // Ten steps a second.
    for (let step = 1; step <= 50; step++) {
      clock = step * 100;
      events.offer(point(step, step === 25));
    }
    await all.promise;
    await events.close();
    await consumption.stop();
    assert.deepEqual(seen, [1, 11, 21, 25, 35, 45, 50]);
  } finally {
    await bus.close();
    await nats.stop();
  }
});
