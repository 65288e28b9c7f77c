/** `plumb judge` against a running judge service, and the health of a judge that cannot be asked. */

import assert from 'node:assert/strict';
import { mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { test } from 'node:test';
import { createClient } from '@plumb/kit/rpc';
import { startNatsServer } from '@plumb/kit/testing/nats-server';
import { encodeClip } from '@plumb/media';
import { JudgeService, Purpose } from '@plumb/proto/plumb/judge/v1/judge_pb.js';
import { sampleTrainingClip } from '@plumb/toybox';
import { z } from 'zod';
import { plumb } from './support/command-line.ts';
import { healthAt } from './support/grpc-health.ts';
import { judgedSamples } from './support/judged-samples.ts';
import { startProcess, startService } from './support/service-process.ts';

const key = 'sk-judge-command-0123456789';
const rubric = new URL('../services/judge/rubrics/physics-and-alignment.yaml', import.meta.url).pathname;

const bodySchema = z.object({
  seed: z.int(),
  messages: z.tuple([
    z.object({ role: z.literal('system'), content: z.string() }),
    z.object({
      role: z.literal('user'),
      content: z.array(
        z.union([
          z.object({ type: z.literal('text'), text: z.string() }),
          z.object({ type: z.literal('image_url'), image_url: z.object({ url: z.string() }) }),
        ]),
      ),
    }),
  ]),
});
const triedSchema = z.object({
  requestBodies: z.array(z.string().transform((body) => bodySchema.parse(JSON.parse(body)))),
  verdict: z.looseObject({ judge: z.string() }).optional(),
  firstPreferred: z.number().optional(),
  calls: z.int().optional(),
});

/** The last line of standard output, which holds the JSON. */
const lastLine = (text: string): unknown => JSON.parse(text.trimEnd().split('\n').at(-1) ?? '');

test(
  'judges are tried, listed and paid for; one that cannot be asked says why',
  { timeout: 900_000 },
  async (t) => {
    const folder = await mkdtemp(path.join(tmpdir(), 'plumb-judge-command-'));
    const nats = await startNatsServer();
    const endpoint = await startProcess('packages/toybox/bin/referee-endpoint.ts', {
      PLUMB_REFEREE_API_KEY: key,
    });
    await writeFile(
      path.join(folder, 'judges.yaml'),
      `endpoints:
  referee: { baseUrl: 'http://${endpoint.address}/v1', apiKeyVariable: RIGHT_KEY, retries: { limit: 1 } }
  locked: { baseUrl: 'http://${endpoint.address}/v1', apiKeyVariable: WRONG_KEY, retries: { limit: 1 } }
judges:
  default: &default
    version: '1'
    endpoint: referee
    model: toybox-referee
    mode: binary
    rubric: ${rubric}
    frames: { count: 8 }
    image: { layout: grid, columns: 1 }
    sampling: { temperature: 0, seed: 1 }
    price: { inputPerMillionTokens: 1, outputPerMillionTokens: 4 }
  graded: { <<: *default, mode: grade }
  preference: { <<: *default, mode: compare }
  shut: { <<: *default, endpoint: locked }
`,
    );
    const judge = await startService('judge', {
      PLUMB_NATS_URL: nats.url,
      PLUMB_ARTIFACTS: path.join(folder, 'artifacts'),
      PLUMB_SPAN_DIRECTORY: path.join(folder, 'spans'),
      PLUMB_JUDGES_FILE: path.join(folder, 'judges.yaml'),
      RIGHT_KEY: key,
      WRONG_KEY: `${key}-no`,
    });
    const client = createClient(JudgeService, judge.address, { retry: 'none' });
    const checks = healthAt(judge.address);
    t.after(async () => {
      client.close();
      checks.close();
      await judge.stop();
      await endpoint.stop();
      await nats.stop();
      await rm(folder, { recursive: true, force: true });
    });
    const run = (...args: string[]) => plumb(['judge', ...args, '--address', judge.address], folder);
    const tried = async (...args: string[]) => {
      const { code, stdout, stderr } = await run('try', ...args, '--json');
      assert.equal(code, 0, stderr);
      return triedSchema.parse(lastLine(stdout));
    };

    // Sample n is toybox:n.
    const samples = await judgedSamples(40);
    const [good, bad] = [true, false].map((accept) =>
      samples.findIndex((sample) => sample.accept === accept),
    );
    const { caption, clip } = sampleTrainingClip(good ?? 0);
    const strip = Buffer.from(await encodeClip(clip));
    await writeFile(path.join(folder, 'clip.png'), strip);
    const asked = { type: 'text', text: `Caption: <caption>${caption}</caption>` };
    const picture = {
      type: 'image_url',
      image_url: { url: `data:image/png;base64,${strip.toString('base64')}` },
    };
    const announced = (name: string) => ({
      type: 'text',
      text: `${name}: 8 frames in one picture of 1 columns and 8 rows, in their order in time from left to right and from top to bottom.`,
    });

    // One verdict of each mode, with what was sent to the last byte.
    const binary = await tried('clip.png', caption, '--frames', '8');
    assert.deepEqual(
      binary.requestBodies.map(({ seed, messages: [, user] }) => [seed, user.content]),
      [[1, [asked, announced('The video'), picture]]],
    );
    assert.match(binary.requestBodies[0]?.messages[0].content ?? '', /Name the failure mode/);
    assert.equal(binary.verdict?.['accept'], true);
    const graded = await tried('clip.png', caption, '--frames', '8', '--judge', 'graded');
    assert.deepEqual(graded.requestBodies[0]?.messages[1], binary.requestBodies[0]?.messages[1]);
    assert.notEqual(
      graded.requestBodies[0]?.messages[0].content,
      binary.requestBodies[0]?.messages[0].content,
    );
    assert.equal(graded.verdict?.['grade'], 5);
    const against = [
      'clip.png',
      caption,
      '--frames',
      '8',
      '--judge',
      'preference',
      '--against',
      `toybox:${bad}`,
    ];
    const preferred = await tried(...against);
    assert.deepEqual([preferred.firstPreferred, preferred.calls], [1, 2]);
    const [there, back] = preferred.requestBodies.map(({ messages: [, user] }) => user.content);
    assert.deepEqual(there?.slice(0, 4), [asked, announced('Clip A'), picture, announced('Clip B')]);
    assert.deepEqual(back?.[4], picture, 'the other order');
    assert.deepEqual(back?.[2], there?.[4]);
    const only = await tried(...against, '--explain-only');
    assert.deepEqual([only.requestBodies, only.calls], [preferred.requestBodies, undefined]);

    // For people: pictures by their size and hash, and the verdict in words.
    const text = await run('try', `toybox:${bad}`);
    assert.equal(text.code, 0, text.stderr);
    assert.match(text.stdout, /^Call 1 of 1:\n\{\n/);
    assert.match(text.stdout, /data:image\/png;base64,<\d+ bytes, SHA-256 [0-9a-f]{16}\.\.\.>/);
    assert.match(text.stdout, /^verdict +rejected$/m);
    assert.match(text.stdout, /^failure +\w+$/m);
    const words = await run('try', ...against);
    assert.match(words.stdout, /Call 2 of 2:/);
    assert.match(words.stdout, /^better +the first$/m);
    assert.match(words.stdout, /^calls +2 \(kept from before\)$/m);
    const alone = await run('try', `toybox:${bad}`, '--judge', 'preference');
    assert.notEqual(alone.code, 0);
    assert.match(alone.stderr, /'preference' compares two clips/);

    // A judge whose endpoint lets nobody in is not serving, with its reason; the others are.
    const health = (name: string): Promise<string> => checks.of(`${JudgeService.typeName}/${name}`);
    assert.deepEqual(await Promise.all(['default', 'shut'].map(health)), ['SERVING', 'SERVING']);
    const shut = await run('try', `toybox:${good}`, '--judge', 'shut');
    assert.notEqual(shut.code, 0);
    assert.match(shut.stderr, /endpoint 'locked' lets nobody in.*check the key's variable/);
    assert.deepEqual(await Promise.all(['default', 'shut'].map(health)), ['SERVING', 'NOT_SERVING']);
    assert.equal(await checks.of(JudgeService.typeName), 'SERVING');
    const { judges } = await client.listJudges({});
    assert.deepEqual(
      judges.filter(({ problem }) => problem !== '').map(({ name }) => name),
      ['shut'],
    );
    const list = await run('list');
    assert.equal(list.code, 0, list.stderr);
    assert.match(list.stdout, /│ graded +│ grade +│ toybox-referee +│ +1 /);
    assert.match(list.stdout, /│ locked +│ serving +│/);
    assert.match(list.stdout, /^shut cannot be asked: endpoint 'locked' lets nobody in/m);
    const listed = z
      .object({ judges: z.array(z.object({ name: z.string(), problem: z.string().default('') })) })
      .parse(lastLine((await run('list', '--json')).stdout));
    assert.match(listed.judges.find(({ name }) => name === 'shut')?.problem ?? '', /lets nobody in/);

    // What a run has spent, and what it may.
    const empty = await run('spend', 'run-1');
    assert.equal(empty.stdout, 'run-1: 0 tokens, 0.0000 USD, 0 calls\n', empty.stderr);
    const { video, prompt } = samples[39] ?? assert.fail('there are 40');
    const call = { judge: 'graded', video, prompt, runId: 'run-1', purpose: Purpose.EVALUATION };
    const { verdict } = await client.judge(call);
    const tokens = Number((verdict?.usage?.inputTokens ?? 0n) + (verdict?.usage?.outputTokens ?? 0n));
    assert.ok(tokens > 0);
    const spend = await run('spend', 'run-1');
    assert.equal(
      spend.stdout,
      `run-1: ${tokens} tokens, ${(verdict?.cost?.amount ?? 0).toFixed(4)} USD, 1 calls\n`,
    );
    const low = await run('budget', 'run-1', '--tokens', '1', '--cost', '2.5');
    assert.match(
      low.stdout,
      new RegExp(`^run-1: ${tokens} tokens of 1, .* of 2\\.5 USD, 1 calls\\nThe budget is used up`),
    );
    await assert.rejects(client.judge({ ...call, judge: 'default' }), { reason: 'JUDGE_BUDGET_EXHAUSTED' });
    const raised = await run('budget', 'run-1', '--tokens', '1000000', '--json');
    const account = z
      .object({
        budget: z.object({ tokens: z.string(), cost: z.number().optional() }),
        exhausted: z.boolean().optional(),
      })
      .parse(lastLine(raised.stdout));
    assert.deepEqual([account.budget, account.exhausted ?? false], [{ tokens: '1000000' }, false]);
    await client.judge({ ...call, judge: 'default' });
    const wrong = await run('budget', 'run-1', '--cost', 'much');
    assert.notEqual(wrong.code, 0);
    assert.match(wrong.stderr, /--cost.*'much'/);

    for (const shown of [list, text, shut, spend]) assert.ok(!`${shown.stdout}${shown.stderr}`.includes(key));
  },
);
