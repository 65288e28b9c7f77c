/**
 * The judge service as a client of vision-language models.
 *
 * Throughput: 64 calls at a time to an endpoint that answers after 500 ms, against the 128 verdicts a second that this
 * allows; and the CPU time of the judge's process for a verdict, beside that of the `openai` package alone. Faults: 5,000
 * clips through the referee endpoint, a fifth of the calls failing in every way, under limits of requests and tokens a minute. Ends with exit code 1 if a clip has no
 * verdict or a wrong one, if there are more than 1.35 calls a clip, if the endpoint's log has a minute with more than the
 * limits, or a call for a clip whose caller was answered or had passed its deadline.
 *
 *     npm run bench -- judge [--json] [--clips 5000]
 */
import { spawn } from 'node:child_process';
import { createHash } from 'node:crypto';
import type { ChildProcess } from 'node:child_process';
import { mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { createInterface } from 'node:readline';
import { parseArgs } from 'node:util';
import { createClient } from '@plumb/kit/rpc';
import { startNatsServer } from '@plumb/kit/testing/nats-server';
import { clipMediaType, encodeClip } from '@plumb/media';
import { JudgeService } from '@plumb/proto/plumb/judge/v1/judge_pb.js';
import { ValueRange } from '@plumb/proto/plumb/media/v1/video_pb.js';
import { sampleTrainingClip } from '@plumb/toybox';
import { referee } from '@plumb/toybox/referee';
import { arrivalsAt, mostWithin } from '@plumb/toybox/referee-endpoint/arrivals';
import { z } from 'zod';
import type { BareClientFigures } from '../judge/bare-client.ts';
import { latencyMs } from '../judge/slow-endpoint.ts';
import { openLineProcess } from '../line-process.ts';
import { printBench } from '../print-bench.ts';
import { processorSecondsOf } from '../processor-time.ts';

const { values: options } = parseArgs({
  options: {
    json: { type: 'boolean', default: false },
    clips: { type: 'string', default: '5000' },
  },
});
const root = path.resolve(import.meta.dirname, '../..');
const concurrency = 64;
/** Sixty rounds of 64 calls, half a minute: the last one, in which fewer and fewer calls are under way, counts for little. */
const timedVerdicts = 60 * concurrency;
/** Limits that are felt even on a slow machine: calls, of about 780 tokens, come up to both. */
const requestsPerMinute = 2400;
const tokensPerMinute = 1_800_000;
/** A caller of the faulty endpoint waits so long. */
const patienceMs = 200_000;
const waiting = 2 * concurrency;
const latencySchema = z.object({ meanMs: z.number() });

const folder = await mkdtemp(path.join(tmpdir(), 'plumb-bench-judge-'));
const processes: ChildProcess[] = [];

/** Starts a program of ours and gives its address. */
async function start(entry: string, env: Record<string, string>, args: readonly string[] = []) {
  const child = spawn(process.execPath, [path.join(root, entry), ...args], {
    env: { ...process.env, PLUMB_PARENT_PIPE: '1', PLUMB_LOG_LEVEL: 'warn', ...env },
    stdio: ['pipe', 'pipe', 'inherit'],
  });
  processes.push(child);
  for await (const line of createInterface({ input: child.stdout })) {
    return {
      address: z.object({ address: z.string() }).parse(JSON.parse(line)).address,
      pid: child.pid ?? 0,
    };
  }
  throw new Error(`${entry} ended before it was ready`);
}

async function startJudge(natsUrl: string, baseUrl: string, endpoint: string) {
  const file = path.join(folder, `judges-${processes.length}.yaml`);
  await writeFile(
    file,
    `endpoints:
  vlm: { baseUrl: '${baseUrl}', concurrency: ${concurrency}, ${endpoint} }
judges:
  default:
    version: '${processes.length}'
    endpoint: vlm
    model: toybox-referee
    mode: binary
    rubric: ${path.join(root, 'services/judge/rubrics/physics-and-alignment.yaml')}
    frames: { count: 8 }
    image: { layout: grid, columns: 1 }
    sampling: { temperature: 0 }
  sequence:
    version: '${processes.length}'
    endpoint: vlm
    model: toybox-referee
    mode: binary
    rubric: ${path.join(root, 'services/judge/rubrics/physics-and-alignment.yaml')}
    frames: { count: 8 }
    sampling: { temperature: 0 }
`,
  );
  const judge = await start('services/judge/main.ts', {
    PLUMB_NATS_URL: natsUrl,
    PLUMB_ARTIFACTS: path.join(folder, 'artifacts'),
    PLUMB_SPAN_DIRECTORY: path.join(folder, 'spans'),
    PLUMB_JUDGES_FILE: file,
  });
  return { ...judge, client: createClient(JudgeService, judge.address, { defaultDeadlineMs: 300_000 }) };
}

async function sampleOf(seed: number) {
  const { caption, clip } = sampleTrainingClip(seed);
  const { width, height, frames: frameCount, fps } = clip;
  const bytes = await encodeClip(clip);
  return {
    prompt: { text: caption },
    accept: referee(clip, caption).accept,
    sha256: createHash('sha256').update(bytes).digest('hex'),
    video: {
      source: { case: 'inline' as const, value: bytes },
      mediaType: clipMediaType,
      width,
      height,
      frameCount,
      fps,
      valueRange: ValueRange.UINT8,
    },
  };
}

async function eachOf<T>(
  things: readonly T[],
  work: (thing: T) => Promise<void>,
  atATime = waiting,
): Promise<void> {
  const queue = things.values();
  await Promise.all(
    Array.from({ length: atATime }, async () => {
      for (const thing of queue) await work(thing);
    }),
  );
}

/** The judge's last question put by the `openai` package alone, as often and as many at a time. */
async function bareClient(endpoint: string): Promise<BareClientFigures> {
  const request = await (await fetch(`http://${endpoint}/last`)).json();
  const client = await openLineProcess<BareClientFigures>('the bare client', process.execPath, [
    path.join(root, 'bench/judge/bare-client.ts'),
  ]);
  try {
    const job = { baseUrl: `http://${endpoint}/v1`, calls: timedVerdicts, concurrency, request };
    return await client.ask(JSON.stringify(job));
  } finally {
    await client.close();
  }
}

const nats = await startNatsServer();
try {
  const clips = Number(options.clips);
  const samples = await Promise.all(
    Array.from({ length: Math.max(clips, timedVerdicts) }, (_, seed) => sampleOf(seed)),
  );
  const figures: Record<string, number> = {};
  const ratios: Record<string, number> = {};

  const endpoint = await start('bench/judge/slow-endpoint.ts', {});
  const judge = await startJudge(nats.url, `http://${endpoint.address}/v1`, 'timeoutMs: 60000');
  for (const name of ['default', 'sequence'] as const) {
    // Other captions than the timed ones, so that none is kept: code is compiled and connections are opened.
    await eachOf(samples.slice(0, 3 * concurrency), async ({ video, prompt }) => {
      await judge.client.judge({ judge: name, video, prompt: { text: `${prompt.text}, first` } });
    });
    const [cpu, began] = [await processorSecondsOf(judge.pid), performance.now()];
    await eachOf(samples.slice(0, timedVerdicts), async ({ video, prompt }) => {
      await judge.client.judge({ judge: name, video, prompt });
    });
    const seconds = (performance.now() - began) / 1000;
    const ideal = concurrency / (latencyMs / 1000);
    const prefix = name === 'default' ? '' : `${name}_`;
    ratios[`${prefix}throughput_vs_ideal`] = timedVerdicts / seconds / ideal;
    figures[`${prefix}verdicts_per_second`] = timedVerdicts / seconds;
    figures[`${prefix}cpu_ms_per_verdict`] =
      (((await processorSecondsOf(judge.pid)) - cpu) * 1000) / timedVerdicts;
  }
  judge.client.close();
  const bare = await bareClient(endpoint.address);
  const { meanMs } = latencySchema.parse(await (await fetch(`http://${endpoint.address}/latency`)).json());
  Object.assign(figures, {
    bare_client_calls_per_second: bare.callsPerSecond,
    bare_client_cpu_ms_per_call: bare.cpuMsPerCall,
    cpu_ms_per_verdict_above_bare: (figures['cpu_ms_per_verdict'] ?? 0) - bare.cpuMsPerCall,
    endpoint_latency_ms: meanMs,
  });
  ratios['throughput_vs_bare_client'] = (figures['verdicts_per_second'] ?? 0) / bare.callsPerSecond;
  ratios['cpu_vs_bare_client'] = (figures['cpu_ms_per_verdict'] ?? 0) / bare.cpuMsPerCall;

  const faulty = await start('packages/toybox/bin/referee-endpoint.ts', {}, [
    '--fault-rate=0.2',
    '--faults=server-error,rate-limit,reset,truncated,empty,refusal,wrong-json,wrong-language,stall',
    '--retry-after=0.02',
    '--seed=3',
  ]);
  const careful = await startJudge(
    nats.url,
    `http://${faulty.address}/v1`,
    `timeoutMs: 10000, requestsPerMinute: ${requestsPerMinute}, tokensPerMinute: ${tokensPerMinute}, retries: { firstDelayMs: 10, limit: 9 }`,
  );
  const began = performance.now();
  let [right, wrong, failed] = [0, 0, 0];
  const endedAt = new Map<string, number>();
  await eachOf(samples.slice(0, clips), async ({ video, prompt, accept, sha256 }) => {
    try {
      const { verdict } = await careful.client.judge(
        { judge: 'default', video, prompt },
        { deadlineMs: patienceMs },
      );
      endedAt.set(sha256, Date.now());
      if (verdict?.answer.value === accept) right += 1;
      else wrong += 1;
    } catch {
      endedAt.set(sha256, Date.now());
      failed += 1;
    }
  });
  const statistics = await (await fetch(`http://${faulty.address}/statistics`)).json();
  const { requests } = z.object({ requests: z.number() }).parse(statistics);
  careful.client.close();
  Object.assign(figures, {
    faulty_clips: clips,
    faulty_right: right,
    faulty_wrong: wrong,
    faulty_failed: failed,
    faulty_seconds: (performance.now() - began) / 1000,
  });
  ratios['faulty_calls_per_clip'] = requests / clips;
  const arrivals = await arrivalsAt(faulty.address);
  const late = arrivals.filter(({ at, picture }) => at > (endedAt.get(picture) ?? 0)).length;
  Object.assign(figures, {
    faulty_most_requests_in_a_minute: mostWithin(arrivals, 60_000),
    faulty_most_tokens_in_a_minute: mostWithin(arrivals, 60_000, ({ tokens }) => tokens),
    // Calls may travel for up to a second.
    faulty_most_requests_in_ten_seconds: mostWithin(arrivals, 10_000),
    faulty_calls_after_their_caller: late,
  });
  printBench({ bench: 'judge', ratios, figures }, options.json);
  const violations = [
    [right === clips, `${right} of ${clips} clips have the right verdict`],
    [requests <= 1.35 * clips, `${requests} calls`],
    [mostWithin(arrivals, 60_000) <= requestsPerMinute, 'more requests in a minute than allowed'],
    [mostWithin(arrivals, 10_000) <= (requestsPerMinute / 60) * 11, 'more requests in 10 s than allowed'],
    [
      mostWithin(arrivals, 60_000, ({ tokens }) => tokens) <= tokensPerMinute,
      'more tokens in a minute than allowed',
    ],
    [late === 0, `${late} calls after their caller was answered or had given up`],
  ] as const;
  for (const [kept, text] of violations) {
    if (kept) continue;
    process.stderr.write(`violated: ${text}\n`);
    process.exitCode = 1;
  }
} finally {
  for (const child of processes) child.kill('SIGKILL');
  await nats.stop();
  await rm(folder, { recursive: true, force: true });
}
