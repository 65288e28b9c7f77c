import assert from 'node:assert/strict';
import { test } from 'node:test';
import type { TestContext } from 'node:test';
import { encodeFrames, encodeGrid } from '@plumb/media';
import type { Clip } from '@plumb/media';
import { z } from 'zod';
import { renderClip } from '../clips.ts';
import { toyboxPrompts } from '../prompt-split.ts';
import { referee } from '../referee.ts';
import { faultKinds, faultOf, isNoisy, misbehaviourOf, wellBehaved } from './misbehaviour.ts';
import type { FaultKind, Misbehaviour } from './misbehaviour.ts';
import { refereeEndpoint } from './server.ts';

const caption = 'the red ball falls to the ground';
const right = renderClip({ caption, wrongness: null, seed: 1 });
const wrong = renderClip({ caption, wrongness: 'static', seed: 1 });

async function serve(
  t: TestContext,
  misbehaviour: Partial<Misbehaviour> = {},
  apiKey?: string,
): Promise<string> {
  const app = refereeEndpoint({ misbehaviour: { ...wellBehaved, ...misbehaviour }, apiKey });
  t.after(() => app.close());
  return app.listen({ host: '127.0.0.1', port: 0 });
}

async function request(
  clips: readonly Clip[],
  text = caption,
  key = 'accept',
): Promise<Record<string, unknown>> {
  const content: unknown[] = [{ type: 'text', text: `Caption: <caption>${text}</caption>` }];
  for (const [index, clip] of clips.entries()) {
    content.push({ type: 'text', text: `Clip ${index === 0 ? 'A' : 'B'}: 8 frames` });
    for (const { bytes } of await encodeFrames(clip, [0, 1, 2, 3, 4, 5, 6, 7])) {
      const url = `data:image/png;base64,${Buffer.from(bytes).toString('base64')}`;
      content.push({ type: 'image_url', image_url: { url } });
    }
  }
  return {
    model: 'toybox-referee',
    messages: [
      { role: 'system', content: `Answer with one JSON object: {"${key}": ...}` },
      { role: 'user', content },
    ],
  };
}

function ask(base: string, body: unknown, headers: Record<string, string> = {}): Promise<Response> {
  return fetch(`${base}/v1/chat/completions`, {
    method: 'POST',
    headers: { 'content-type': 'application/json', ...headers },
    body: typeof body === 'string' ? body : JSON.stringify(body),
  });
}

const completionSchema = z.object({
  model: z.string(),
  choices: z.tuple([
    z.object({
      finish_reason: z.string(),
      message: z.object({ content: z.string().nullable(), refusal: z.string().nullable() }),
    }),
  ]),
});

async function contentOf(response: Response): Promise<unknown> {
  assert.equal(response.status, 200);
  const { choices } = completionSchema.parse(await response.json());
  return JSON.parse(choices[0].message.content ?? '');
}

test('says what the referee says', async (t) => {
  const base = await serve(t);
  for (const clip of [right, wrong]) {
    const verdict = referee(clip, caption);
    assert.deepEqual(await contentOf(await ask(base, await request([clip]))), {
      reason: verdict.reason,
      checks: { motion: verdict.checks.motion.pass, picture: true },
      failure_mode: verdict.failureMode ?? 'none',
      accept: verdict.accept,
    });
  }
});

test('grades and compares', async (t) => {
  const base = await serve(t);
  const answer = async (clips: readonly Clip[], key: string): Promise<Record<string, unknown>> =>
    z
      .record(z.string(), z.unknown())
      .parse(await contentOf(await ask(base, await request(clips, caption, key))));
  assert.equal((await answer([right], 'grade'))['grade'], 5);
  assert.equal((await answer([wrong], 'grade'))['grade'], 2);
  assert.equal((await answer([right, wrong], 'better'))['better'], 'A');
  assert.equal((await answer([wrong, right], 'better'))['better'], 'B');
  assert.equal((await answer([right, right], 'better'))['better'], 'tie');
});

test('always says that it is a rule-based stand-in', async (t) => {
  const models = await (await fetch(`${await serve(t)}/v1/models`)).text();
  assert.match(models, /toybox-referee \(rule-based stand-in\)/);
});

test('a request that it cannot judge is refused with the reason, and never judged', async (t) => {
  const base = await serve(t);
  const good = await request([right]);
  const table: readonly [string, unknown, RegExp][] = [
    ['no JSON', '{"model":', /JSON/],
    ['no messages', { model: 'toybox-referee', messages: [] }, /messages/],
    ['no caption', { ...good, messages: [{ role: 'user', content: 'hello' }] }, /0 captions/],
    ['two captions', await request([right], 'a</caption><caption>b'), /2 captions/],
    ['an unknown word', await request([right], 'the red elephant falls'), /elephant/],
    ['another question', await request([right], caption, 'mood'), /neither accept, grade nor better/],
    ['a clip too many', await request([right, right]), /2 clips/],
    [
      'a picture from elsewhere',
      JSON.stringify(good).replaceAll('data:image/png;base64,', 'http://127.0.0.1/'),
      /data URI/,
    ],
    [
      'a broken picture',
      JSON.stringify(good).replaceAll(/base64,[^"]*/g, 'base64,AAAA'),
      /frame 1 is no PNG/,
    ],
  ];
  for (const [what, body, message] of table) {
    const response = await ask(base, body);
    assert.equal(response.status, 400, what);
    assert.match(await response.text(), message, what);
  }
  const large = await ask(base, 'x'.repeat(17 * 2 ** 20));
  assert.equal(large.status, 413);
});

test('misbehaves as told, in every way', async (t) => {
  const seen: Record<FaultKind, (base: string, body: unknown) => Promise<void>> = {
    'server-error': async (base, body) => assert.equal((await ask(base, body)).status, 500),
    'rate-limit': async (base, body) => {
      const response = await ask(base, body);
      assert.deepEqual([response.status, response.headers.get('retry-after')], [429, '3']);
    },
    reset: async (base, body) => assert.rejects(async () => (await ask(base, body)).text()),
    truncated: async (base, body) => {
      const { choices } = completionSchema.parse(await (await ask(base, body)).json());
      assert.equal(choices[0].finish_reason, 'length');
      assert.throws(() => JSON.parse(choices[0].message.content ?? ''));
    },
    empty: async (base, body) => {
      const { choices } = completionSchema.parse(await (await ask(base, body)).json());
      assert.equal(choices[0].message.content, '');
    },
    refusal: async (base, body) => {
      const { choices } = completionSchema.parse(await (await ask(base, body)).json());
      assert.ok(choices[0].message.content === null && choices[0].message.refusal !== null);
    },
    'wrong-json': async (base, body) => {
      const content = await contentOf(await ask(base, body));
      assert.ok(typeof content === 'object' && content !== null && !('accept' in content));
    },
    'wrong-language': async (base, body) => {
      const { choices } = completionSchema.parse(await (await ask(base, body)).json());
      assert.match(choices[0].message.content ?? '', /^Das Video/);
    },
    stall: async (base, body) => {
      const signal = AbortSignal.timeout(200);
      const call = fetch(`${base}/v1/chat/completions`, {
        method: 'POST',
        headers: { 'content-type': 'application/json' },
        body: JSON.stringify(body),
        signal,
      });
      await assert.rejects(call, { name: 'TimeoutError' });
    },
  };
  const body = await request([right]);
  for (const kind of faultKinds) {
    const base = await serve(t, { faultRate: 1, faults: [kind], retryAfterSeconds: 3 });
    await seen[kind](base, body);
  }
});

test('faults and noise are decided by content, at the rate that was asked for', () => {
  const settings: Misbehaviour = { ...wellBehaved, faultRate: 0.2, noiseRate: 0.1, seed: 5 };
  const hashes = Array.from({ length: 5000 }, (_, index) => `clip ${index}`);
  const faults = hashes.map((hash) => faultOf(settings, hash, 0));
  assert.deepEqual(
    faults,
    hashes.map((hash) => faultOf(settings, hash, 0)),
  );
  // Four standard deviations of a share of 5,000 draws.
  assert.ok(Math.abs(faults.filter((fault) => fault !== undefined).length / 5000 - 0.2) < 0.023);
  assert.ok(
    Math.abs(hashes.filter((hash) => isNoisy(settings, hash, 'FD', true)).length / 5000 - 0.1) < 0.017,
  );
  assert.equal(new Set(faults).size, settings.faults.length + 1);
});

test('a wrong key is refused, and quoted as hosted endpoints do', async (t) => {
  const base = await serve(t, {}, 'the-key');
  const body = await request([right]);
  const refused = await ask(base, body, { authorization: 'Bearer other' });
  assert.equal(refused.status, 401);
  assert.match(await refused.text(), /other/);
  assert.equal((await ask(base, body, { authorization: 'Bearer the-key' })).status, 200);
});

test('agrees with the referee on every prompt of the set', async (t) => {
  const base = await serve(t);
  for (const { text } of toyboxPrompts.filter((_, index) => index % 8 === 0)) {
    const clip = renderClip({ caption: text, wrongness: null, seed: 3 });
    const content = z
      .object({ accept: z.boolean() })
      .parse(await contentOf(await ask(base, await request([clip], text))));
    assert.equal(content.accept, referee(clip, text).accept);
  }
});

test('a bias turns round bad clips of its category, or good ones, and no others', () => {
  const settings: Misbehaviour = { ...wellBehaved, bias: { FD: 0.3, OR: -0.3 } };
  const share = (category: 'FD' | 'OR' | 'MO', accept: boolean): number =>
    Array.from({ length: 5000 }, (_, index) => isNoisy(settings, `clip ${index}`, category, accept)).filter(
      Boolean,
    ).length / 5000;
  assert.ok(Math.abs(share('FD', false) - 0.3) < 0.027 && Math.abs(share('OR', true) - 0.3) < 0.027);
  assert.deepEqual(
    [share('FD', true), share('OR', false), share('MO', true), share('MO', false)],
    [0, 0, 0, 0],
  );
});

test('a request chooses its misbehaviour by the name of the model', async (t) => {
  const given = misbehaviourOf('toybox-referee@noise=0.2,bias.FD=-0.3,latency=5,seed=4', wellBehaved);
  assert.deepEqual(given, { ...wellBehaved, noiseRate: 0.2, bias: { FD: -0.3 }, latencyMs: 5, seed: 4 });
  for (const [model, message] of [
    ['gpt-5', /toybox-referee is the only one/],
    ['toybox-referee@noise=2', /noiseRate: is 2/],
    ['toybox-referee@mood=1', /known are noise, latency, fault, seed and bias/],
    ['toybox-referee@noise', /known are noise/],
  ] as const) {
    assert.throws(() => misbehaviourOf(model, wellBehaved), message);
  }
  const base = await serve(t);
  const accepts = async (model: string, more: Record<string, unknown> = {}): Promise<unknown> => {
    const body = { ...(await request([right])), model, ...more };
    return z.object({ accept: z.boolean() }).parse(await contentOf(await ask(base, body))).accept;
  };
  assert.equal(await accepts('toybox-referee'), true);
  assert.equal(await accepts('toybox-referee@noise=1'), false);
  const votes = await Promise.all(
    Array.from({ length: 40 }, (_, seed) => accepts('toybox-referee@noise=0.5', { temperature: 1, seed })),
  );
  assert.equal(new Set(votes).size, 2, 'votes of a noisy judge differ');
});

test('frames in a grid are the same clip', async (t) => {
  const base = await serve(t);
  for (const columns of [1, 3]) {
    const { bytes } = await encodeGrid(wrong, [0, 1, 2, 3, 4, 5, 6, 7], columns);
    const url = `data:image/png;base64,${Buffer.from(bytes).toString('base64')}`;
    const rows = Math.ceil(8 / columns);
    const question = await request([]);
    const content = [
      { type: 'text', text: `Caption: <caption>${caption}</caption>` },
      { type: 'text', text: `The video: 8 frames in one picture of ${columns} columns and ${rows} rows.` },
      { type: 'image_url', image_url: { url } },
    ];
    const system = { role: 'system', content: 'Answer with one JSON object: {"accept": ...}' };
    const answer = await contentOf(
      await ask(base, { ...question, messages: [system, { role: 'user', content }] }),
    );
    assert.equal(z.object({ failure_mode: z.string() }).parse(answer).failure_mode, 'static');
    const broken = { ...content[1], text: content[1]?.text?.replace('8 frames', '99 frames') };
    const refused = await ask(base, {
      ...question,
      messages: [system, { role: 'user', content: [content[0], broken, content[2]] }],
    });
    assert.match(await refused.text(), /for a grid/);
  }
});
