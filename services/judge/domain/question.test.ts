import assert from 'node:assert/strict';
import { readFileSync } from 'node:fs';
import { test } from 'node:test';
import { judgesFileSchema, defineJudge } from './judge-definition.ts';
import type { JudgeDefinition } from './judge-definition.ts';
import { askAbout } from './question.ts';
import { categories, parseRubric } from './rubric.ts';
import injections from './injections.json' with { type: 'json' };

const rubricText = readFileSync(new URL('../rubrics/physics-and-alignment.yaml', import.meta.url), 'utf8');
const rubric = parseRubric(rubricText);
const frame = { mediaType: 'image/png' as const, bytes: new Uint8Array([1, 2, 3]), width: 8, height: 8 };
const seen = (...pictures: (typeof frame)[]) => ({ pictures, frames: pictures.length });

function definition(changes: Partial<JudgeDefinition> = {}): JudgeDefinition {
  const file = judgesFileSchema.parse({
    endpoints: { e: { baseUrl: 'http://127.0.0.1:1/v1' } },
    judges: {
      j: { version: '1', endpoint: 'e', model: 'm', mode: 'binary', rubric: 'r.yaml', frames: { count: 8 } },
    },
  });
  const judge = file.judges['j'];
  assert.ok(judge);
  return { ...judge, ...changes };
}

for (const injection of injections) {
  test(`a caption stays in its delimiters: ${JSON.stringify(injection.slice(0, 40))}`, () => {
    const judge = defineJudge('j', definition(), { rubric });
    const harmless = askAbout(judge, { text: 'a red ball falls', category: 'FD' }, [seen(frame)]);
    const question = askAbout(judge, { text: injection, category: 'FD' }, [seen(frame)]);
    assert.equal(question.system, harmless.system, 'nothing of it reaches the system text');
    assert.equal(question.parts.length, harmless.parts.length);
    const [caption, ...rest] = question.parts;
    assert.deepEqual(rest, harmless.parts.slice(1), 'it changes no other part');
    assert.ok(caption?.kind === 'text');
    assert.match(caption.text, /^Caption: <caption>[^<>]*<\/caption>$/);
  });
}

test('every category has its own section, and a prompt without one has none', () => {
  const judge = defineJudge('j', definition(), { rubric });
  const texts = categories.map((category) => askAbout(judge, { text: 'x', category }, [seen(frame)]).system);
  assert.equal(new Set(texts).size, categories.length);
  const without = askAbout(judge, { text: 'x', category: undefined }, [seen(frame)]).system;
  for (const category of categories)
    assert.ok(!without.includes((rubric.categories[category] ?? 'missing').trim()));
});

test('frames are sent in order, and two clips by name', () => {
  const judge = defineJudge('j', definition({ mode: 'compare' }), { rubric });
  const other = { ...frame, bytes: new Uint8Array([9]) };
  const question = askAbout(judge, { text: 'x', category: undefined }, [
    seen(frame, other),
    seen(other, frame),
  ]);
  const kinds = question.parts.map((part) =>
    part.kind === 'text' ? part.text.slice(0, 6) : part.image.bytes[0],
  );
  assert.deepEqual(kinds, ['Captio', 'Clip A', 1, 9, 'Clip B', 9, 1]);
});

test('the hash of a judge changes with all that its verdicts depend on, and with nothing else', () => {
  const hash = (changes: Partial<JudgeDefinition>): string =>
    defineJudge('j', definition(changes), { rubric }).hash;
  const base = hash({});
  assert.equal(hash({}), base);
  assert.equal(hash({ endpoint: 'elsewhere' }), base);
  assert.equal(hash({ heldOut: true }), base);
  assert.notEqual(hash({ version: '2' }), base);
  assert.notEqual(hash({ model: 'other' }), base);
  assert.notEqual(hash({ frames: { count: 4, sampling: 'uniform' } }), base);
  const changedRubric = parseRubric(`${rubricText}\n# one more line\n`);
  assert.notEqual(defineJudge('j', definition(), { rubric: changedRubric }).hash, base);
});

test('a judges file that is wrong says where', () => {
  const wrong = judgesFileSchema.safeParse({
    endpoints: { e: { baseUrl: 'http://127.0.0.1:1/v1', apiKey: 'secret' } },
    judges: {
      j: { version: '1', endpoint: 'x', model: 'm', mode: 'binary', rubric: 'r.yaml', frames: { count: 0 } },
    },
  });
  const fields = wrong.error?.issues.map((issue) => issue.path.join('.'));
  assert.deepEqual(fields?.toSorted(), ['endpoints.e', 'judges.j.endpoint', 'judges.j.frames.count']);
});
