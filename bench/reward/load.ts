/**
 * The load generator of the reward benchmark, a process of its own: real gRPC calls, each with clips that nobody has
 * scored before. Takes one job at a time from its parent and answers with what it measured.
 */

import { randomFillSync } from 'node:crypto';
import { setTimeout as delay } from 'node:timers/promises';
import type { MessageInitShape } from '@bufbuild/protobuf';
import { PlumbError, fromStatus } from '@plumb/kit/errors';
import { createClient } from '@plumb/kit/rpc';
import { ValueRange } from '@plumb/proto/plumb/media/v1/video_pb.js';
import { RewardService } from '@plumb/proto/plumb/reward/v1/reward_pb.js';
import type { ScoreItemSchema } from '@plumb/proto/plumb/reward/v1/reward_pb.js';

/** What to do. */
export interface LoadJob {
  readonly address: string;
  readonly reward: string;
  readonly side: number;
  readonly frames: number;
  /** Items of each call. */
  readonly items: number;
  readonly deadlineMs: number;
  readonly plan:
    | {
        readonly kind: 'closed';
        /** Calls that are always under way. */
        readonly callers: number;
        /** Ends after so many calls, or after so many seconds, whichever is first. */
        readonly calls: number;
        readonly seconds: number;
      }
    | { readonly kind: 'open'; readonly callsPerSecond: number; readonly seconds: number };
}

/** What came of it. */
export interface LoadReport {
  readonly calls: number;
  /** Items with a value. */
  readonly scored: number;
  /** Calls or items that ended in RESOURCE_EXHAUSTED. */
  readonly refused: number;
  /** Calls that ended in anything else, by code. */
  readonly others: Readonly<Record<string, number>>;
  /** Calls that ended more than 100 ms after their deadline. */
  readonly late: number;
  readonly seconds: number;
  /** Of the calls that gave scores, in milliseconds: 50th, 95th and 99th percentile. */
  readonly percentiles: readonly [number, number, number];
}

async function run(job: LoadJob): Promise<LoadReport> {
  const client = createClient(RewardService, job.address, {
    retry: 'none',
    defaultDeadlineMs: job.deadlineMs,
  });
  await client.ready({ deadlineMs: 60_000 });
  const latencies: number[] = [];
  const others: Record<string, number> = {};
  let [calls, scored, refused, late, count] = [0, 0, 0, 0, 0];

  function item(): MessageInitShape<typeof ScoreItemSchema> {
    count += 1;
    const data = new Uint8Array(job.frames * job.side * job.side * 3).fill(count % 251);
    randomFillSync(data, 0, Math.min(512, data.length));
    return {
      id: String(count),
      prompt: { text: 'a red ball falls' },
      video: {
        source: { case: 'inline', value: data },
        mediaType: 'video/raw',
        width: job.side,
        height: job.side,
        frameCount: job.frames,
        fps: 8,
        valueRange: ValueRange.UINT8,
      },
    };
  }

  function fail(code: string): void {
    if (code === 'RESOURCE_EXHAUSTED') refused += 1;
    else others[code] = (others[code] ?? 0) + 1;
  }

  async function call(): Promise<void> {
    const items = Array.from({ length: job.items }, item);
    calls += 1;
    const start = performance.now();
    let gave = false;
    try {
      const answer = await client.score({ rewards: [job.reward], items });
      for (const { outcomes } of answer.items) {
        const outcome = outcomes[0]?.outcome;
        if (outcome?.case === 'score') {
          scored += 1;
          gave = true;
        } else if (outcome?.value?.status !== undefined) fail(fromStatus(outcome.value.status).code);
        else fail('MISSING');
      }
    } catch (error) {
      fail(PlumbError.from(error).code);
    }
    const took = performance.now() - start;
    if (gave) latencies.push(took);
    if (took > job.deadlineMs + 100) late += 1;
  }

  const begin = performance.now();
  const { plan } = job;
  if (plan.kind === 'closed') {
    await Promise.all(
      Array.from({ length: plan.callers }, async () => {
        while (calls < plan.calls && performance.now() - begin < plan.seconds * 1000) await call();
      }),
    );
  } else {
    const running: Promise<void>[] = [];
    for (let next = begin; next < begin + plan.seconds * 1000; next += 1000 / plan.callsPerSecond) {
      const wait = next - performance.now();
      if (wait > 1) await delay(wait);
      running.push(call());
    }
    await Promise.all(running);
  }
  const seconds = (performance.now() - begin) / 1000;
  client.close();
  const sorted = latencies.toSorted((a, b) => a - b);
  const at = (share: number): number =>
    sorted[Math.min(sorted.length - 1, Math.floor(share * sorted.length))] ?? Number.NaN;
  return { calls, scored, refused, others, late, seconds, percentiles: [at(0.5), at(0.95), at(0.99)] };
}

process.on('message', (job: LoadJob) => {
  void run(job).then((report) => process.send?.(report));
});
