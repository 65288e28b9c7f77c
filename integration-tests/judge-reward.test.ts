/** Clips through reward and judge to a real endpoint and back: real processes, gRPC, NATS and HTTP. */

import assert from 'node:assert/strict';
import { mkdtemp, readFile, readdir, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { after, before, test } from 'node:test';
import { setTimeout as delay } from 'node:timers/promises';
import type { MessageInitShape } from '@bufbuild/protobuf';
import { connectBus, subjects, streamNames } from '@plumb/kit/bus';
import type { Bus } from '@plumb/kit/bus';
import { PlumbError, fromStatus } from '@plumb/kit/errors';
import { createClient } from '@plumb/kit/rpc';
import { startNatsServer } from '@plumb/kit/testing/nats-server';
import type { TestNatsServer } from '@plumb/kit/testing/nats-server';
import { clipMediaType, encodeClip, openFolderStore } from '@plumb/media';
import type { ArtifactStore, Clip } from '@plumb/media';
import { EndpointState, JudgeService } from '@plumb/proto/plumb/judge/v1/judge_pb.js';
import { ValueRange } from '@plumb/proto/plumb/media/v1/video_pb.js';
import type { VideoSchema } from '@plumb/proto/plumb/media/v1/video_pb.js';
import { RewardHealth, RewardService } from '@plumb/proto/plumb/reward/v1/reward_pb.js';
import type { RewardOutcome } from '@plumb/proto/plumb/reward/v1/reward_pb.js';
import { SampleScoredSchema, ScoringTaskSchema } from '@plumb/proto/plumb/tasks/v1/tasks_pb.js';
import type { SampleScored } from '@plumb/proto/plumb/tasks/v1/tasks_pb.js';
import { sampleTrainingClip } from '@plumb/toybox';
import { referee } from '@plumb/toybox/referee';
import { z } from 'zod';
import injections from '../services/judge/domain/injections.json' with { type: 'json' };
import { healthAt } from './support/grpc-health.ts';
import { startProcess, startService } from './support/service-process.ts';
import type { ServiceProcess } from './support/service-process.ts';

const clipCount = 320;
const rightKey = 'sk-the-right-key-0123456789';
const wrongKey = 'sk-the-wrong-key-9876543210';

interface Sample {
  readonly id: string;
  readonly caption: string;
  readonly clip: Clip;
  readonly bytes: Uint8Array;
  readonly video: MessageInitShape<typeof VideoSchema>;
  /** What the referee itself says, asked without any network. */
  readonly accept: boolean;
}

let nats: TestNatsServer;
let bus: Bus;
let folder: string;
let artifacts: ArtifactStore;
let samples: readonly Sample[];
let running: ServiceProcess[] = [];

async function startEndpoint(
  args: readonly string[] = [],
  env: Record<string, string> = {},
): Promise<ServiceProcess> {
  const endpoint = await startProcess('packages/toybox/bin/referee-endpoint.ts', env, args);
  running.push(endpoint);
  return endpoint;
}

/** Writes a judges file for an endpoint; the rest is what a judge is started with. */
async function judgeEnvironment(
  endpoint: ServiceProcess,
  settings: string,
  env: Record<string, string> = {},
  version = '1',
): Promise<Record<string, string>> {
  const file = path.join(folder, `judges-${running.length}.yaml`);
  const rubric = new URL('../services/judge/rubrics/physics-and-alignment.yaml', import.meta.url);
  const common = `version: '${version}', endpoint: referee, model: toybox-referee, rubric: ${rubric.pathname}, frames: { count: 8 }`;
  await writeFile(
    file,
    `endpoints:
  referee: { baseUrl: '\${REFEREE}', concurrency: 16, ${settings} }
judges:
  default: { ${common}, mode: binary }
  confident: { ${common}, mode: binary, sampling: { logProbabilities: true } }
  graded: { ${common}, mode: grade }
  preference: { ${common}, mode: compare }
`,
  );
  return {
    ...serviceEnvironment(),
    PLUMB_JUDGES_FILE: file,
    REFEREE: `http://${endpoint.address}/v1`,
    ...env,
  };
}

async function startJudge(env: Promise<Record<string, string>>): Promise<ServiceProcess> {
  const judge = await startService('judge', await env);
  running.push(judge);
  return judge;
}

/** SIGKILL, and a new one at the same address, as a supervisor does it. */
async function restartJudge(
  judge: ServiceProcess,
  env: Promise<Record<string, string>>,
): Promise<ServiceProcess> {
  await judge.kill();
  return startJudge(env.then((variables) => ({ ...variables, PLUMB_LISTEN: judge.address })));
}

async function startReward(judge: ServiceProcess): Promise<ServiceProcess> {
  const reward = await startService('reward', {
    ...serviceEnvironment(),
    PLUMB_JUDGE_ADDRESS: judge.address,
  });
  running.push(reward);
  return reward;
}

function serviceEnvironment(): Record<string, string> {
  return {
    PLUMB_NATS_URL: nats.url,
    PLUMB_ARTIFACTS: path.join(folder, 'artifacts'),
    PLUMB_SPAN_DIRECTORY: path.join(folder, 'spans'),
  };
}

/** Stops what a test started; the broker and its streams stay. */
async function stopAll(): Promise<void> {
  const stopping = running.toReversed();
  running = [];
  for (const service of stopping) await service.stop();
}

const statisticsSchema = z.object({
  requests: z.number(),
  answered: z.number(),
  abandoned: z.number(),
  inFlight: z.number(),
  mostInFlight: z.number(),
  faults: z.record(z.string(), z.number()),
});

async function statistics(endpoint: ServiceProcess) {
  const response = await fetch(`http://${endpoint.address}/statistics`);
  return statisticsSchema.parse(await response.json());
}

/** Waits for something that is to become true. */
async function eventually(
  what: string,
  check: () => Promise<boolean> | boolean,
  withinMs = 20_000,
): Promise<void> {
  for (const start = performance.now(); !(await check()); await delay(20)) {
    assert.ok(performance.now() - start < withinMs, `${what}, within ${withinMs} ms`);
  }
}

async function makeSample(seed: number): Promise<Sample> {
  const { caption, clip } = sampleTrainingClip(seed);
  const bytes = await encodeClip(clip);
  const { uri, sha256 } = await artifacts.put(bytes, { mediaType: clipMediaType });
  const { width, height, frames: frameCount, fps } = clip;
  return {
    id: `sample-${seed}`,
    caption,
    clip,
    bytes,
    accept: referee(clip, caption).accept,
    video: {
      source: { case: 'uri', value: uri },
      sha256,
      mediaType: clipMediaType,
      width,
      height,
      frameCount,
      fps,
      valueRange: ValueRange.UINT8,
    },
  };
}

function first(): Sample {
  const sample = samples[0];
  assert.ok(sample);
  return sample;
}

function scoreOf(outcome: RewardOutcome | undefined) {
  assert.ok(outcome?.outcome.case === 'score', JSON.stringify(outcome?.outcome.value));
  return outcome.outcome.value;
}

function errorOf(outcome: RewardOutcome | undefined): PlumbError {
  assert.ok(outcome?.outcome.case === 'error');
  const { status } = outcome.outcome.value;
  assert.ok(status);
  return fromStatus(status);
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

before(async () => {
  folder = await mkdtemp(path.join(tmpdir(), 'plumb-judge-reward-'));
  nats = await startNatsServer();
  bus = await connectBus({ url: nats.url, name: 'test' });
  await bus.ensureStreams();
  artifacts = await openFolderStore(path.join(folder, 'artifacts'));
  samples = await Promise.all(Array.from({ length: clipCount }, (_, seed) => makeSample(seed)));
});

after(async () => {
  await stopAll();
  await bus.close();
  await nats.stop();
  await rm(folder, { recursive: true, force: true });
});

test('320 clips through an endpoint that fails a fifth of its calls, with judge and broker killed on the way', async () => {
  const endpoint = await startEndpoint([
    '--fault-rate=0.2',
    '--faults=server-error,rate-limit,reset,truncated,empty,refusal,wrong-json,wrong-language,stall',
    '--retry-after=1',
    '--seed=7',
  ]);
  const environment = judgeEnvironment(endpoint, 'timeoutMs: 3000, retries: { firstDelayMs: 20, limit: 8 }');
  const judge = await startJudge(environment);
  await startReward(judge);

  const scored = new Map<string, SampleScored[]>();
  let restarted: Promise<ServiceProcess> | undefined;
  let brokerBack: Promise<void> | undefined;
  const events = await bus.consume(
    {
      stream: streamNames.events,
      durable: 'test-events',
      subject: subjects.sampleScored,
      schema: SampleScoredSchema,
      maxInFlight: 64,
    },
    (event) => {
      scored.set(event.sampleId, [...(scored.get(event.sampleId) ?? []), event]);
      if (scored.size === 100) restarted ??= restartJudge(judge, environment);
      if (scored.size === 200) brokerBack ??= nats.kill().then(() => nats.restart());
    },
  );
  async function publishAll(round: string): Promise<void> {
    for (const sample of samples) {
      await bus.publish(
        subjects.taskScore,
        ScoringTaskSchema,
        {
          sampleId: `${round}-${sample.id}`,
          runId: 'run',
          iteration: 1,
          prompt: { text: sample.caption },
          video: sample.video,
          rewards: ['aif', 'motion_floor'],
        },
        { id: `${round}-${sample.id}.score.1` },
      );
    }
  }
  function check(round: string): RewardOutcome[] {
    return samples.map((sample) => {
      const found = scored.get(`${round}-${sample.id}`);
      assert.equal(found?.length, 1, `${sample.id} is scored exactly once`);
      const [aif, motion] = found[0]?.outcomes ?? [];
      assert.equal(scoreOf(aif).value, sample.accept ? 1 : 0, `${sample.id}: ${sample.caption}`);
      assert.equal(scoreOf(aif).failureMode === '', sample.accept);
      assert.ok('picture' in scoreOf(aif).checks);
      assert.ok(scoreOf(motion).value >= 0);
      assert.ok(aif);
      return aif;
    });
  }

  await publishAll('first');
  await eventually('every clip is scored', () => scored.size === clipCount, 120_000);
  assert.ok(restarted, 'the judge was killed');
  const second = await restarted;
  assert.ok(brokerBack, 'the broker was killed');
  await brokerBack;
  check('first');
  const { requests, mostInFlight, faults } = await statistics(endpoint);
  // Besides the faults, each of the two kills cuts off as many calls as may be in flight.
  assert.ok(requests <= 1.35 * clipCount + 2 * 16, `${requests} calls for ${clipCount} clips`);
  assert.ok(mostInFlight <= 16 * 2, `${mostInFlight} calls at a time`);
  assert.ok(
    Object.values(faults).every((count) => count > 0),
    `faults of every kind: ${JSON.stringify(faults)}`,
  );
  assert.equal(await bus.deadLetters.count(), 0);

  // Once more, after a restart: every verdict is kept, and none is asked for again.
  await restartJudge(second, environment);
  await publishAll('second');
  await eventually('every clip is scored again', () => scored.size === 2 * clipCount, 120_000);
  const again = check('second');
  assert.ok(again.every(({ cached }) => cached));
  assert.equal((await statistics(endpoint)).requests, requests);
  await events.stop();
  await stopAll();
});

test('tasks wait while the endpoint is down, and are judged when it is back', async () => {
  const endpoint = await startEndpoint();
  const settings =
    'timeoutMs: 5000, breaker: { failures: 3, firstRestMs: 200, longestRestMs: 500 }, retries: { firstDelayMs: 0, limit: 1 }';
  const judge = await startJudge(judgeEnvironment(endpoint, settings, {}, 'down'));
  await startReward(judge);
  await endpoint.kill();
  const scored = new Map<string, SampleScored>();
  const events = await bus.consume(
    {
      stream: streamNames.events,
      durable: 'test-down',
      subject: subjects.sampleScored,
      schema: SampleScoredSchema,
      maxInFlight: 64,
    },
    (event) => {
      if (event.runId === 'run-down') scored.set(event.sampleId, event);
    },
  );
  const some = samples.slice(0, 40);
  for (const sample of some) {
    await bus.publish(
      subjects.taskScore,
      ScoringTaskSchema,
      {
        sampleId: `down-${sample.id}`,
        runId: 'run-down',
        iteration: 1,
        prompt: { text: sample.caption },
        video: sample.video,
        rewards: ['aif'],
      },
      { id: `down-${sample.id}.score.1` },
    );
  }
  const client = createClient(JudgeService, judge.address);
  await eventually(
    'the endpoint is found to be down',
    async () => {
      const { endpoints } = await client.listEndpoints({});
      return endpoints[0]?.state !== EndpointState.SERVING;
    },
    180_000,
  );
  client.close();
  assert.equal(scored.size, 0, 'no task ends with an error');
  await startEndpoint([`--listen=${endpoint.address}`]);
  await eventually('every task is judged', () => scored.size === some.length, 180_000);
  for (const sample of some) {
    const [aif] = scored.get(`down-${sample.id}`)?.outcomes ?? [];
    assert.equal(scoreOf(aif).value, sample.accept ? 1 : 0);
  }
  assert.equal(await bus.deadLetters.count(), 0);
  await events.stop();
  await stopAll();
});

test('the Reward API: values, typed errors and timings', async () => {
  const endpoint = await startEndpoint();
  const judge = await startJudge(judgeEnvironment(endpoint, 'timeoutMs: 5000'));
  const reward = await startReward(judge);
  const client = createClient(RewardService, reward.address);
  const inline = { ...first().video, source: { case: 'inline' as const, value: first().bytes } };
  const prompt = { text: first().caption };

  await eventually('aif serves', async () => {
    const { rewards } = await client.listRewards({});
    return rewards.find(({ name }) => name === 'aif')?.health === RewardHealth.SERVING;
  });
  const { items } = await client.score({
    rewards: ['aif', 'motion_floor', 'object_persistence', 'colour_stability'],
    items: [
      { id: 'by uri', video: first().video, prompt },
      { id: 'inline', video: inline, prompt },
      {
        id: 'missing',
        video: {
          ...first().video,
          source: { case: 'uri', value: `artifact:sha256/${'0'.repeat(64)}` },
          sha256: '0'.repeat(64),
        },
        prompt,
      },
      { id: 'other hash', video: { ...inline, sha256: '1'.repeat(64) }, prompt },
      { id: 'other shape', video: { ...first().video, frameCount: 4 }, prompt },
      {
        id: 'no picture',
        video: { ...inline, sha256: '', source: { case: 'inline', value: new Uint8Array(100) } },
        prompt,
      },
    ],
  });
  assert.deepEqual(
    items.map(({ id }) => id),
    ['by uri', 'inline', 'missing', 'other hash', 'other shape', 'no picture'],
  );
  const [byUri, byBytes, ...bad] = items;
  assert.equal(byUri?.outcomes.length, 4);
  for (const [index, outcome] of byUri?.outcomes.entries() ?? []) {
    assert.equal(scoreOf(outcome).value, scoreOf(byBytes?.outcomes[index]).value);
    assert.match(outcome.weightsHash, /^[0-9a-f]{64}$/);
    assert.ok(outcome.timings?.total);
  }
  assert.equal(scoreOf(byUri?.outcomes[0]).value, first().accept ? 1 : 0);
  const reasons = bad.map(({ outcomes }) => outcomes.map((outcome) => errorOf(outcome).code));
  assert.deepEqual(reasons, [
    Array(4).fill('NOT_FOUND'),
    Array(4).fill('INVALID_ARGUMENT'),
    Array(4).fill('INVALID_ARGUMENT'),
    Array(4).fill('DATA_LOSS'),
  ]);

  const other = { ...first().video, source: { case: 'uri' as const, value: 'file:///etc/passwd' } };
  const mixed = await client.score({
    rewards: ['motion_floor'],
    items: [
      { id: 'a', video: first().video, prompt },
      { id: 'a', video: first().video, prompt },
      { id: 'hash', video: { ...first().video, sha256: 'beef' }, prompt: { text: ' ' } },
      { id: 'uri', video: other, prompt },
      { id: 'type', video: { ...inline, mediaType: 'image/svg+xml' }, prompt },
      { id: '', video: first().video, prompt },
      { id: 'nothing' },
    ],
  });
  const [right, ...wrong] = mixed.items.map(({ outcomes }) => outcomes[0]);
  assert.ok(scoreOf(right).value >= 0, 'bad neighbours fail nothing');
  assert.deepEqual(
    wrong.map((outcome) =>
      errorOf(outcome)
        .fieldViolations?.map(({ field }) => field)
        .toSorted(),
    ),
    [
      ['items[1].id'],
      ['items[2].prompt.text', 'items[2].video.sha256'],
      ['items[3].video.uri'],
      ['items[4].video.media_type'],
      ['items[5].id'],
      ['items[6].prompt.text', 'items[6].video'],
    ],
  );
  for (const outcome of wrong) {
    assert.equal(errorOf(outcome).code, 'INVALID_ARGUMENT');
    const total = outcome?.timings?.total;
    assert.ok(total !== undefined && total.seconds * 1_000_000_000n + BigInt(total.nanos) > 0n);
  }
  const none = await failureOf(client.score({ rewards: ['motion_floor'], items: [] }));
  assert.deepEqual(
    none.fieldViolations?.map(({ field }) => field),
    ['items'],
  );
  const unknown = await failureOf(
    client.score({ rewards: ['hpsv9'], items: [{ id: 'a', video: first().video, prompt }] }),
  );
  assert.deepEqual([unknown.code, unknown.reason], ['NOT_FOUND', 'REWARD_UNKNOWN']);

  const streamed: string[] = [];
  const requests = samples.slice(0, 100).map((sample, index) => ({
    rewards: ['aif', 'motion_floor'],
    item: {
      id: sample.id,
      video: index === 50 ? { ...sample.video, fps: 0 } : sample.video,
      prompt: { text: sample.caption },
    },
  }));
  for await (const { item } of client.scoreStream(requests)) {
    const sample = samples.find(({ id }) => id === item?.id);
    if (item?.id === samples[50]?.id)
      assert.equal(errorOf(item?.outcomes[0]).fieldViolations?.[0]?.field, 'item.video.fps');
    else assert.equal(scoreOf(item?.outcomes[0]).value, sample?.accept === true ? 1 : 0);
    streamed.push(item?.id ?? '');
  }
  assert.deepEqual(
    streamed.toSorted(),
    samples
      .slice(0, 100)
      .map(({ id }) => id)
      .toSorted(),
  );

  // Without its judge one reward is down, soon, and the others are not.
  await judge.kill();
  await eventually(
    'aif is down',
    async () => (await client.getReward({ name: 'aif' })).reward?.health === RewardHealth.NOT_SERVING,
    5000,
  );
  const fresh = samples[200];
  assert.ok(fresh);
  const down = await client.score({
    rewards: ['aif', 'motion_floor'],
    items: [{ id: 'x', video: fresh.video, prompt: { text: fresh.caption } }],
  });
  const [aif, motion] = down.items[0]?.outcomes ?? [];
  assert.equal(errorOf(aif).code, 'UNAVAILABLE');
  assert.ok(aif?.outcome.case === 'error' && aif.outcome.value.retryable);
  assert.ok(scoreOf(motion).value >= 0);
  client.close();
  await stopAll();
});

test('aif is down with its judge or the endpoint behind it, and with nothing else; it comes back with them', async (t) => {
  const endpoint = await startEndpoint();
  const settings =
    'timeoutMs: 5000, breaker: { failures: 3, firstRestMs: 200, longestRestMs: 500 }, retries: { firstDelayMs: 0, limit: 1 }';
  const environment = judgeEnvironment(endpoint, settings, {}, 'health');
  const judge = await startJudge(environment);
  const reward = await startReward(judge);
  const checks = healthAt(reward.address);
  const client = createClient(RewardService, reward.address, { retry: 'none' });
  t.after(() => {
    checks.close();
    client.close();
  });
  const others = ['clip_score', 'pickscore', 'optical_flow', 'motion_floor'];
  const health = (name: string): Promise<string> => checks.of(`${RewardService.typeName}/${name}`);
  async function becomes(what: string, state: string, withinMs: number): Promise<void> {
    await eventually(
      what,
      async () => {
        for (const other of others) assert.equal(await health(other), 'SERVING', `${other}: ${what}`);
        return (await health('aif')) === state;
      },
      withinMs,
    );
  }
  /** What calls for clips that nobody has judged end with. */
  async function askFor(some: readonly Sample[]): Promise<RewardOutcome[]> {
    const { items } = await client.score({
      rewards: ['aif'],
      items: some.map(({ id, video, caption }) => ({ id, video, prompt: { text: caption } })),
    });
    return items.flatMap(({ outcomes }) => outcomes);
  }
  await becomes('the judge has been asked', 'SERVING', 20_000);

  await judge.kill();
  await becomes('the judge is gone', 'NOT_SERVING', 5000);
  await restartJudge(judge, environment);
  await becomes('the judge is back', 'SERVING', 20_000);
  assert.ok((await askFor(samples.slice(0, 1))).every(({ outcome }) => outcome.case === 'score'));

  // That an endpoint is away is known from calls to it.
  await endpoint.kill();
  for (const outcome of await askFor(samples.slice(1, 11)))
    assert.equal(errorOf(outcome).code, 'UNAVAILABLE');
  await becomes('the endpoint is gone', 'NOT_SERVING', 5000);
  const { reward: told } = await client.getReward({ name: 'aif' });
  assert.match(told?.healthReason ?? '', /endpoint referee fails all calls/);
  await startEndpoint([`--listen=${endpoint.address}`]);
  await eventually('a call is let through', async () =>
    (await askFor(samples.slice(11, 12))).every(({ outcome }) => outcome.case === 'score'),
  );
  await becomes('the endpoint is back', 'SERVING', 5000);
  await stopAll();
});

test("a caller's deadline ends the call to the endpoint, and none follows", async () => {
  const endpoint = await startEndpoint(['--fault-rate=1', '--faults=stall']);
  const judge = await startJudge(judgeEnvironment(endpoint, 'timeoutMs: 60000'));
  const client = createClient(JudgeService, judge.address);
  const start = performance.now();
  // A caption of its own, so that no verdict is kept for it.
  const video = first().video;
  const late = await failureOf(
    client.judge(
      { judge: 'default', video, prompt: { text: 'squeezing the green ball' } },
      { deadlineMs: 800 },
    ),
  );
  assert.equal(late.code, 'DEADLINE_EXCEEDED');
  assert.ok(performance.now() - start < 1500);
  await eventually('the call is given up', async () => (await statistics(endpoint)).inFlight === 0);
  const { requests, abandoned } = await statistics(endpoint);
  assert.deepEqual([requests, abandoned], [1, 1]);
  client.close();
  await stopAll();
});

test('grades, comparisons and P(accept)', async () => {
  const endpoint = await startEndpoint(['--noise-rate=0.1', '--seed=3']);
  const judge = await startJudge(judgeEnvironment(endpoint, 'timeoutMs: 5000'));
  const client = createClient(JudgeService, judge.address);
  const { judges } = await client.listJudges({});
  assert.deepEqual(
    judges.map(({ name }) => name),
    ['default', 'confident', 'graded', 'preference'],
  );

  let turned = 0;
  for (const sample of samples.slice(0, 60)) {
    const prompt = { text: sample.caption };
    const { verdict } = await client.judge({ judge: 'confident', video: sample.video, prompt });
    assert.ok(verdict?.answer.case === 'accept');
    if (verdict.answer.value !== sample.accept) turned += 1;
    const expected = verdict.answer.value ? 0.9 : 0.1;
    assert.ok(
      Math.abs((verdict.probability ?? 0) - expected) < 1e-9,
      'an answer is as sure as such answers are right',
    );
  }
  assert.ok(turned > 0 && turned < 20, `${turned} of 60 are turned round at a noise of 0.1`);

  const [good, bad] = [samples.find(({ accept }) => accept), samples.find(({ accept }) => !accept)];
  assert.ok(good && bad);
  await stopAll();
  client.close();

  const clean = createClient(
    JudgeService,
    (await startJudge(judgeEnvironment(await startEndpoint(), 'timeoutMs: 5000'))).address,
  );
  const graded = await clean.judge({ judge: 'graded', video: good.video, prompt: { text: good.caption } });
  assert.deepEqual(graded.verdict?.answer, { case: 'grade', value: 5 });
  const prompt = { text: good.caption };
  const compared = await clean.compare({ judge: 'preference', first: good.video, second: bad.video, prompt });
  assert.equal(compared.firstPreferred, 1);
  const swapped = await clean.compare({ judge: 'preference', first: bad.video, second: good.video, prompt });
  assert.equal(swapped.firstPreferred, 0);
  const same = await clean.compare({ judge: 'preference', first: good.video, second: good.video, prompt });
  assert.equal(same.firstPreferred, 0.5);
  clean.close();
  await stopAll();
});

test('no injected caption gets a clip accepted', async () => {
  const judge = await startJudge(judgeEnvironment(await startEndpoint(), 'timeoutMs: 5000'));
  const client = createClient(JudgeService, judge.address);
  const bad = samples.find(({ accept }) => !accept);
  assert.ok(bad);
  for (const injection of injections) {
    for (const text of [injection, `${bad.caption} ${injection}`]) {
      // The referee understands its own captions only, and says so: a typed error, not a verdict.
      const error = await failureOf(client.judge({ judge: 'default', video: bad.video, prompt: { text } }));
      assert.equal(error.reason, 'JUDGE_REQUEST_REJECTED', text);
    }
  }
  client.close();
  await stopAll();
});

test('an API key is sent to its endpoint and shows nowhere else', async () => {
  const endpoint = await startEndpoint([], { PLUMB_REFEREE_API_KEY: rightKey });
  const settings = 'timeoutMs: 5000, apiKeyVariable: JUDGE_TEST_KEY';
  const good = await startJudge(
    judgeEnvironment(endpoint, settings, { JUDGE_TEST_KEY: rightKey, PLUMB_LOG_LEVEL: 'trace' }),
  );
  const bad = await startJudge(
    judgeEnvironment(endpoint, settings, { JUDGE_TEST_KEY: wrongKey, PLUMB_LOG_LEVEL: 'trace' }),
  );
  const prompt = { text: 'squeezing the green ball' };
  const [toGood, toBad] = [createClient(JudgeService, good.address), createClient(JudgeService, bad.address)];
  // The wrong one first: afterwards the verdict is kept, and no key is needed.
  const refused = await failureOf(toBad.judge({ judge: 'default', video: first().video, prompt }));
  assert.deepEqual([refused.code, refused.reason], ['FAILED_PRECONDITION', 'JUDGE_MISCONFIGURED']);
  const { verdict } = await toGood.judge({ judge: 'default', video: first().video, prompt });
  assert.ok(verdict);
  toGood.close();
  toBad.close();
  await stopAll();

  const spanFolder = path.join(folder, 'spans');
  const spans = await Promise.all(
    (await readdir(spanFolder)).map((file) => readFile(path.join(spanFolder, file), 'utf8')),
  );
  const written = [
    good.log(),
    bad.log(),
    refused.message,
    JSON.stringify(refused),
    JSON.stringify(refused.metadata),
    ...spans,
  ];
  assert.ok(
    spans.some((text) => text.includes('gen_ai.request.model')),
    'calls to the endpoint are traced',
  );
  for (const text of written) {
    assert.ok(!text.includes(rightKey) && !text.includes(wrongKey));
    assert.ok(!text.includes('right-key') && !text.includes('wrong-key'));
  }
  await assert.rejects(startJudge(judgeEnvironment(endpoint, settings)), /JUDGE_TEST_KEY is not set/);
});
