/** The judge service against an endpoint that fails: real processes, gRPC, NATS and HTTP. */

import assert from 'node:assert/strict';
import { mkdir, mkdtemp, readFile, readdir, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { after, before, test } from 'node:test';
import { PlumbError } from '@plumb/kit/errors';
import { createClient } from '@plumb/kit/rpc';
import { startNatsServer } from '@plumb/kit/testing/nats-server';
import type { TestNatsServer } from '@plumb/kit/testing/nats-server';
import { EndpointState, JudgeService, Purpose } from '@plumb/proto/plumb/judge/v1/judge_pb.js';
import { arrivalsAt, mostWithin } from '@plumb/toybox/referee-endpoint/arrivals';
import { z } from 'zod';
import { judgedSamples } from './support/judged-samples.ts';
import type { JudgedSample } from './support/judged-samples.ts';
import { startProcess, startService } from './support/service-process.ts';
import type { ServiceProcess } from './support/service-process.ts';

const clipCount = 800;
const concurrency = 64;

let nats: TestNatsServer;
let folder: string;
let samples: readonly JudgedSample[];
let running: ServiceProcess[] = [];

before(async () => {
  folder = await mkdtemp(path.join(tmpdir(), 'plumb-judge-'));
  await mkdir(path.join(folder, 'nats'));
  nats = await startNatsServer({ storeDirectory: path.join(folder, 'nats') });
  samples = await judgedSamples(clipCount);
});

after(async () => {
  await stopAll();
  await nats.stop();
  await rm(folder, { recursive: true, force: true });
});

async function stopAll(): Promise<void> {
  const stopping = running.toReversed();
  running = [];
  for (const service of stopping) await service.stop();
}

async function startReferee(args: readonly string[] = [], env: Record<string, string> = {}) {
  const referee = await startProcess('packages/toybox/bin/referee-endpoint.ts', env, args);
  running.push(referee);
  return referee;
}

const rubric = new URL('../services/judge/rubrics/physics-and-alignment.yaml', import.meta.url).pathname;

/** Starts a judge service with a judges file: `endpoint` and `judges` are added to the common settings. */
async function startJudge(
  refereeAddress: string,
  endpoint: string,
  judges = '',
  env: Record<string, string> = {},
): Promise<ServiceProcess> {
  const file = path.join(folder, `judges-${running.length}.yaml`);
  await writeFile(
    file,
    `endpoints:
  referee: { baseUrl: 'http://${refereeAddress}/v1', ${endpoint} }
judges:
  default: &default
    version: '1'
    endpoint: referee
    model: toybox-referee
    mode: binary
    rubric: ${rubric}
    frames: { count: 8 }
    image: { layout: grid, columns: 1 }
    sampling: { temperature: 0, seed: 1, maxOutputTokens: 120 }
    price: { inputPerMillionTokens: 1, outputPerMillionTokens: 4 }
${judges}`,
  );
  const judge = await startService('judge', {
    PLUMB_NATS_URL: nats.url,
    PLUMB_ARTIFACTS: path.join(folder, 'artifacts'),
    PLUMB_SPAN_DIRECTORY: path.join(folder, 'spans'),
    PLUMB_JUDGES_FILE: file,
    ...env,
  });
  running.push(judge);
  return judge;
}

const statisticsSchema = z.object({
  requests: z.number(),
  mostInFlight: z.number(),
  faults: z.record(z.string(), z.number()),
});

async function statistics(referee: ServiceProcess) {
  const response = await fetch(`http://${referee.address}/statistics`);
  return statisticsSchema.parse(await response.json());
}

function connect(judge: ServiceProcess) {
  // 5 minutes: a machine that is busy with other things is slow, and a late answer is not what is tested.
  return createClient(JudgeService, judge.address, { defaultDeadlineMs: 300_000, retry: 'none' });
}

/** Runs work on everything, so many at a time. */
async function eachOf<T>(things: readonly T[], atATime: number, work: (thing: T) => Promise<void>) {
  const queue = things.values();
  await Promise.all(
    Array.from({ length: atATime }, async () => {
      for (const thing of queue) await work(thing);
    }),
  );
}

async function failureOf(promise: Promise<unknown>): Promise<PlumbError> {
  try {
    await promise;
  } catch (error) {
    assert.ok(error instanceof PlumbError, String(error));
    return error;
  }
  return assert.fail('it should have failed');
}

const allFaults =
  '--faults=server-error,rate-limit,reset,truncated,empty,refusal,wrong-json,wrong-language,stall';

test(`${clipCount} clips, a fifth of the calls failing in every way: one right verdict each, few calls, rates kept in every minute; and the same after a restart`, async () => {
  // Requests are kept even from second to second; tokens run out before all clips are judged, so that the rest waits for the
  // next minute.
  const [requestsPerMinute, tokensPerMinute] = [9000, 600_000];
  const referee = await startReferee(['--fault-rate=0.2', allFaults, '--retry-after=0.02', '--seed=3']);
  const endpoint = `concurrency: ${concurrency}, timeoutMs: 15000, requestsPerMinute: ${requestsPerMinute}, tokensPerMinute: ${tokensPerMinute}, retries: { firstDelayMs: 10, limit: 9 }`;
  const judge = await startJudge(referee.address, endpoint);
  const client = connect(judge);
  const verdicts = new Map<string, unknown>();
  const answeredAt = new Map<string, number>();
  await eachOf(samples, 128, async ({ id, video, sha256, prompt, accept }) => {
    const { verdict } = await client.judge({ judge: 'default', video, prompt });
    answeredAt.set(sha256, Date.now());
    assert.ok(verdict !== undefined && !verdicts.has(id));
    assert.equal(verdict.answer.value, accept, `${id}: ${prompt.text}`);
    assert.equal(verdict.cached, false);
    verdicts.set(id, { ...verdict, cached: true });
  });
  assert.equal(verdicts.size, clipCount);
  const { requests, mostInFlight, faults } = await statistics(referee);
  assert.ok(requests <= 1.35 * clipCount, `${requests} calls`);
  assert.ok(mostInFlight <= concurrency, `${mostInFlight} at a time`);
  assert.ok(
    Object.values(faults).every((count) => count > 0),
    JSON.stringify(faults),
  );
  const arrivals = await arrivalsAt(referee.address);
  assert.equal(arrivals.length, requests);
  assert.equal(
    new Set(arrivals.map(({ picture }) => picture)).size,
    answeredAt.size,
    'every clip was asked about',
  );
  for (const { at, picture } of arrivals) {
    assert.ok(at <= (answeredAt.get(picture) ?? 0), 'no call for a clip whose caller has its verdict');
  }
  const inAMinute = mostWithin(arrivals, 60_000);
  assert.ok(inAMinute <= requestsPerMinute, `${inAMinute} calls in a minute`);
  // Calls may travel for up to a second.
  const inFiveSeconds = mostWithin(arrivals, 5000);
  assert.ok(inFiveSeconds <= (requestsPerMinute / 60) * (5 + 1), `${inFiveSeconds} calls in 5 s`);
  const tokens = mostWithin(arrivals, 60_000, (arrival) => arrival.tokens);
  assert.ok(tokens <= tokensPerMinute, `${tokens} tokens in a minute`);
  const times = arrivals.map(({ at }) => at);
  assert.ok(Math.max(...times) - Math.min(...times) > 60_000, 'the limit of tokens was felt');
  client.close();

  await judge.kill();
  const restarted = connect(await startJudge(referee.address, endpoint));
  await eachOf(samples, 64, async ({ id, video, prompt }) => {
    const { verdict } = await restarted.judge({ judge: 'default', video, prompt });
    assert.deepEqual(verdict, verdicts.get(id), 'bit for bit what it was');
  });
  assert.equal((await statistics(referee)).requests, requests, 'and no call was made');
  restarted.close();
  await stopAll();
});

test('no call is made after the deadline of its caller', async () => {
  const referee = await startReferee(['--faults=stall,server-error']);
  const judge = await startJudge(
    referee.address,
    'concurrency: 64, timeoutMs: 2000, breaker: { failures: 100000 }, retries: { firstDelayMs: 20, longestDelayMs: 100, limit: 100 }',
    `  warm: { <<: *default, version: 'warm' }
  failing: { <<: *default, model: 'toybox-referee@fault=1' }
`,
  );
  const client = connect(judge);
  const some = samples.slice(0, 60);
  // How long this machine takes for a round of calls at present: what is too short for it says nothing.
  const start = performance.now();
  await eachOf(some, some.length, async (sample) => {
    await client.judge({ judge: 'warm', ...ask(sample) });
  });
  const roundMs = Math.max(1000, performance.now() - start);
  const answered = await arrivalsAt(referee.address);
  const endedAt = new Map<string, number>();
  await Promise.all(
    some.map(async ({ video, sha256, prompt }, index) => {
      const deadlineMs = roundMs * (1 + index / some.length);
      const error = await failureOf(client.judge({ judge: 'failing', video, prompt }, { deadlineMs }));
      endedAt.set(sha256, Date.now());
      assert.equal(error.code, 'DEADLINE_EXCEEDED');
    }),
  );
  // Every caller had some ninety calls left.
  for (let before = -1, now = 0; now !== before;) {
    before = now;
    const { endpoints } = await client.listEndpoints({});
    if (endpoints[0]?.callsInFlight !== 0 || endpoints[0].verdictsInFlight !== 0) before = -1;
    now = (await statistics(referee)).requests;
  }
  // The judge hears of a deadline at the same moment; a call that was on its way then still arrives.
  const travelMs = roundMs;
  const arrivals = (await arrivalsAt(referee.address)).slice(answered.length);
  assert.equal(
    new Set(arrivals.map(({ picture }) => picture)).size,
    endedAt.size,
    'every caller was asked for',
  );
  for (const { at, picture } of arrivals) {
    const late = at - (endedAt.get(picture) ?? 0);
    assert.ok(late <= travelMs, `${late} ms after the deadline of its caller`);
  }
  const [endpoint] = (await client.listEndpoints({})).endpoints;
  assert.equal(endpoint?.state, EndpointState.SERVING);
  client.close();
  await stopAll();
});

test('a run stops at its budget within a batch, says so, and goes on when it is raised', async () => {
  const referee = await startReferee();
  const judge = await startJudge(
    referee.address,
    'concurrency: 8',
    `  costly: { <<: *default, version: 'budget' }\n`,
  );
  const client = connect(judge);
  const { spend: first } = await client.setBudget({ runId: 'run-1', budget: { tokens: 30_000n } });
  assert.equal(first?.exhausted, false);
  const waiting: JudgedSample[] = [];
  const reasons = new Set<string>();
  let judged = 0;
  const askAll = (some: readonly JudgedSample[]): Promise<void> =>
    eachOf(some, 8, async (sample) => {
      try {
        await client.judge({ judge: 'costly', ...ask(sample), runId: 'run-1' });
        judged += 1;
      } catch (error) {
        const known = PlumbError.from(error);
        reasons.add(`${known.code} ${known.reason} ${known.retryable}`);
        assert.match(known.message, /of 30000 tokens of its judging budget.*plumb judge budget/);
        waiting.push(sample);
      }
    });
  const some = samples.slice(0, 100);
  await askAll(some);
  const { spend } = await client.getSpend({ runId: 'run-1' });
  assert.ok(spend);
  const spent = Number((spend.usage?.inputTokens ?? 0n) + (spend.usage?.outputTokens ?? 0n));
  assert.deepEqual([...reasons], ['RESOURCE_EXHAUSTED JUDGE_BUDGET_EXHAUSTED true']);
  assert.ok(spent <= 30_000, `${spent} tokens`);
  // What is left is less than a batch of 8 calls may take.
  assert.ok(spent > 30_000 - 8 * (30_000 / judged) * 1.5, `${spent} tokens for ${judged} verdicts`);
  assert.equal(spend.exhausted, true);
  assert.equal(Number(spend.calls), judged);
  assert.ok((spend.cost?.amount ?? 0) > 0 && spend.cost?.currency === 'USD');
  const calls = (await statistics(referee)).requests;
  assert.equal(calls, judged, 'nothing was asked beyond it');

  // Another replica sees the same account.
  const other = connect(
    await startJudge(referee.address, 'concurrency: 8', `  costly: { <<: *default, version: 'budget' }\n`),
  );
  const refused = await failureOf(other.judge({ judge: 'costly', ...ask(waiting[0]), runId: 'run-1' }));
  assert.equal(refused.reason, 'JUDGE_BUDGET_EXHAUSTED');
  await other.setBudget({ runId: 'run-1', budget: { tokens: 10_000_000n, cost: 1 } });
  const undecided = waiting.splice(0);
  for (let round = 0; round < 100 && judged < some.length; round += 1) {
    await eachOf(undecided.splice(0), 8, async (sample) => {
      try {
        await client.judge({ judge: 'costly', ...ask(sample), runId: 'run-1' });
        judged += 1;
      } catch (error) {
        // The first replica looks at the account again within a second.
        assert.equal(PlumbError.from(error).reason, 'JUDGE_BUDGET_EXHAUSTED');
        undecided.push(sample);
        await statistics(referee);
      }
    });
  }
  assert.equal(judged, some.length, 'every clip ends with its verdict');
  client.close();
  other.close();
  await stopAll();
});

test('votes, panels and explanations; a held-out judge gives nothing to training', async () => {
  const referee = await startReferee();
  const judge = await startJudge(
    referee.address,
    'concurrency: 16',
    `  noisy: { <<: *default, model: 'toybox-referee@noise=0.3,seed=5' }
  voting: { <<: *default, model: 'toybox-referee@noise=0.3,seed=5', votes: 9, sampling: { temperature: 0.7, seed: 1 } }
  apart: { <<: *default, heldOut: true }
panels:
  both: { version: '1', judges: [default, noisy], rule: all }
  secret: { version: '1', judges: [default, apart], rule: mean }
`,
  );
  const client = connect(judge);
  const some = samples.slice(0, 60);
  const right = { noisy: 0, voting: 0 };
  for (const sample of some) {
    for (const name of ['noisy', 'voting'] as const) {
      const { verdict } = await client.judge({ judge: name, ...ask(sample) });
      if (verdict?.answer.value === sample.accept) right[name] += 1;
      if (name === 'voting') {
        assert.equal(verdict?.votes, 9);
        assert.equal(verdict.answer.value, (verdict.probability ?? 0) >= 0.5);
        assert.ok(Number.isInteger(Math.round((verdict.probability ?? 0) * 9 * 1e6) / 1e6));
      }
    }
  }
  assert.ok(right.voting > right.noisy, `nine votes are right more often: ${JSON.stringify(right)}`);

  for (const sample of some.slice(0, 10)) {
    const { verdict } = await client.judge({ judge: 'both', ...ask(sample) });
    const members = verdict?.members.map((member) => member.answer.value);
    assert.deepEqual([members?.[0], verdict?.answer.value], [sample.accept, members?.every(Boolean)]);
  }

  const { requestBodies, verdict } = await client.judge({
    judge: 'voting',
    ...ask(samples[0]),
    explain: true,
  });
  const bodies = requestBodies.map((body) =>
    z.object({ seed: z.int(), messages: z.array(z.object({ role: z.string() })) }).parse(JSON.parse(body)),
  );
  assert.deepEqual(
    bodies.map(({ seed }) => seed),
    [1, 2, 3, 4, 5, 6, 7, 8, 9],
  );
  assert.equal(verdict?.cached, true);

  for (const name of ['apart', 'secret']) {
    for (const purpose of [Purpose.UNSPECIFIED, Purpose.TRAINING]) {
      const error = await failureOf(client.judge({ judge: name, ...ask(samples[0]), purpose }));
      assert.deepEqual([error.code, error.reason], ['FAILED_PRECONDITION', 'JUDGE_HELD_OUT']);
    }
    const allowed = await client.judge({ judge: name, ...ask(samples[0]), purpose: Purpose.EVALUATION });
    assert.equal(allowed.verdict?.answer.value, samples[0]?.accept);
  }
  client.close();
  await stopAll();
});

test('an endpoint that is away opens its circuit; when it is back, what waited is judged', async () => {
  const first = await startReferee();
  const { address } = first;
  const judge = await startJudge(
    address,
    'concurrency: 4, timeoutMs: 3000, breaker: { failures: 4, firstRestMs: 100, longestRestMs: 200 }, retries: { firstDelayMs: 0, limit: 1 }',
    `  again: { <<: *default, version: 'circuit' }\n`,
  );
  const client = connect(judge);
  await first.kill();
  const errors = await Promise.all(
    samples.slice(0, 20).map((sample) => failureOf(client.judge({ judge: 'again', ...ask(sample) }))),
  );
  assert.deepEqual(
    [...new Set(errors.map(({ reason, retryable }) => `${reason} ${retryable}`))],
    ['JUDGE_UNAVAILABLE true'],
  );
  assert.ok(errors.some(({ metadata }) => metadata?.['fault'] === 'circuit-open'));
  assert.equal((await client.listEndpoints({})).endpoints[0]?.state, EndpointState.DOWN);

  await startReferee([`--listen=${address}`]);
  await eachOf(samples.slice(0, 20), 4, async (sample) => {
    for (;;) {
      try {
        const { verdict } = await client.judge({ judge: 'again', ...ask(sample) });
        assert.equal(verdict?.answer.value, sample.accept);
        return;
      } catch (error) {
        assert.equal(PlumbError.from(error).reason, 'JUDGE_UNAVAILABLE');
      }
    }
  });
  assert.equal((await client.listEndpoints({})).endpoints[0]?.state, EndpointState.SERVING);
  client.close();
  await stopAll();
});

test('a key is in no log, span, error, account, verdict or explanation', async () => {
  const key = 'sk-plumb-test-5f1c9d7e3b';
  const referee = await startReferee(['--fault-rate=0.3', '--retry-after=0.01'], {
    PLUMB_REFEREE_API_KEY: key,
  });
  const env = { JUDGE_TEST_KEY: key, PLUMB_LOG_LEVEL: 'trace' };
  const settings = 'apiKeyVariable: JUDGE_TEST_KEY, retries: { firstDelayMs: 5 }';
  const judges = `  keyed: { <<: *default, version: 'key' }\n`;
  const judge = await startJudge(referee.address, settings, judges, env);
  const wrong = await startJudge(referee.address, settings, judges, { ...env, JUDGE_TEST_KEY: `${key}-no` });
  const [client, refused] = [connect(judge), connect(wrong)];
  const seen: unknown[] = [];
  await eachOf(samples.slice(0, 60), 8, async (sample) => {
    seen.push(await client.judge({ judge: 'keyed', ...ask(sample), runId: 'run-key', explain: true }));
  });
  const error = await failureOf(refused.judge({ judge: 'keyed', ...ask(samples[60]) }));
  assert.equal(error.reason, 'JUDGE_MISCONFIGURED');
  seen.push(error, error.message, error.metadata, await client.getSpend({ runId: 'run-key' }));
  seen.push(await client.listJudges({}), await client.listEndpoints({}));
  client.close();
  refused.close();
  await stopAll();
  const spanFolder = path.join(folder, 'spans');
  for (const file of await readdir(spanFolder))
    seen.push(await readFile(path.join(spanFolder, file), 'utf8'));
  seen.push(judge.log(), wrong.log());
  const text = JSON.stringify(seen, (_, value: unknown) =>
    typeof value === 'bigint' ? String(value) : value,
  );
  assert.ok(text.includes('gen_ai.request.model') && text.includes('run-key'));
  assert.ok(!text.includes(key) && !text.includes(key.slice(8)), 'the key shows');
  // What the broker keeps: verdicts and accounts.
  for (const entry of await readdir(path.join(folder, 'nats'), { recursive: true, withFileTypes: true })) {
    if (entry.isFile())
      assert.ok(!(await readFile(path.join(entry.parentPath, entry.name))).includes(key), entry.name);
  }
});

function ask(sample: JudgedSample | undefined) {
  assert.ok(sample);
  return { video: sample.video, prompt: sample.prompt };
}
