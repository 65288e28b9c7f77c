import assert from 'node:assert/strict';
import { mkdtemp, readFile, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { after, before, test } from 'node:test';
import { fileURLToPath } from 'node:url';
import { readJudgesFile } from './judges-file.ts';

const shipped = fileURLToPath(new URL('../judges.toybox.yaml', import.meta.url));
const rubric = fileURLToPath(new URL('../rubrics/physics-and-alignment.yaml', import.meta.url));
let folder: string;

before(async () => {
  folder = await mkdtemp(path.join(tmpdir(), 'plumb-judges-'));
});
after(async () => rm(folder, { recursive: true }));

async function read(text: string, env: Record<string, string> = {}) {
  const file = path.join(folder, 'judges.yaml');
  await writeFile(file, text);
  return readJudgesFile(file, env);
}

const judges = `judges:
  j: { version: '1', endpoint: e, model: m, mode: binary, rubric: ${rubric}, frames: { count: 8 } }`;

test('the shipped file is right, with and without an address', async () => {
  const { endpoints, judges: found } = await readJudgesFile(shipped, {});
  assert.deepEqual(
    found.map(({ name, definition }) => `${name} ${definition.mode}`),
    [
      'default binary',
      'graded grade',
      'preference compare',
      'by-category binary',
      'noisy binary',
      'lenient binary',
      'noisy-graded grade',
      'voting binary',
      'held-out binary',
    ],
  );
  assert.equal(endpoints[0]?.definition.baseUrl, 'http://127.0.0.1:8791/v1');
  const moved = await readJudgesFile(shipped, { PLUMB_REFEREE_URL: 'http://127.0.0.1:9/v1' });
  assert.equal(moved.endpoints[0]?.definition.baseUrl, 'http://127.0.0.1:9/v1');
  assert.deepEqual(
    moved.judges.map(({ hash }) => hash),
    found.map(({ hash }) => hash),
    'the address is not judged by',
  );
});

test('every shipped rubric can be read, and names the same checks and failure modes', async () => {
  const { judges: found, panels } = await readJudgesFile(shipped, {});
  const byCategory = found.find(({ name }) => name === 'by-category');
  const rubrics = Object.values(byCategory?.rubrics ?? {});
  assert.equal(new Set(rubrics.map(({ hash }) => hash)).size, 5);
  for (const one of rubrics) {
    assert.deepEqual(Object.keys(one.checks), Object.keys(byCategory?.rubric.checks ?? {}));
    assert.deepEqual(one.failureModes, byCategory?.rubric.failureModes);
  }
  assert.deepEqual(
    panels.map(({ name, members }) => [name, members.length]),
    [['majority', 3]],
  );
});

test('the example of the documentation is right', async () => {
  const page = await readFile(new URL('../../../docs/judge.md', import.meta.url), 'utf8');
  const [example, others] = [...page.matchAll(/```yaml\n([^`]*)```/g)].map((match) => match[1] ?? '');
  assert.ok(example && others);
  const text = example
    .replace('rubrics/physics-and-alignment.yaml', rubric)
    .replace('endpoints:\n', `endpoints:\n${others}`);
  const { endpoints, budget } = await read(text, { OPENAI_API_KEY: 'k' });
  assert.deepEqual(endpoints.map(({ name }) => name).toSorted(), ['hosted', 'ollama', 'sglang', 'vllm']);
  assert.deepEqual(budget, { tokens: 5_000_000, cost: 20 });
});

test('a key comes from its variable and from nowhere else', async () => {
  const endpoint = `endpoints: { e: { baseUrl: 'https://example.com/v1', apiKeyVariable: SOME_KEY } }\n`;
  const { endpoints } = await read(endpoint + judges, { SOME_KEY: 'secret' });
  assert.equal(endpoints[0]?.apiKey, 'secret');
  await assert.rejects(read(endpoint + judges), /SOME_KEY is not set; endpoints\.e\.apiKeyVariable/);
  const inFile = `endpoints: { e: { baseUrl: 'https://example.com/v1', apiKey: secret } }\n`;
  await assert.rejects(
    read(inFile + judges),
    (error: Error) => /endpoints\.e/.test(error.message) && !error.message.includes('secret'),
  );
});

test('replicas share the limits of an endpoint', async () => {
  const limits = 'concurrency: 8, requestsPerMinute: 100, tokensPerMinute: 10000';
  const text = `replicas: 3\nendpoints: { e: { baseUrl: 'http://127.0.0.1:1/v1', ${limits} } }\n${judges}`;
  const { endpoints } = await read(text);
  const { concurrency, requestsPerMinute, tokensPerMinute } = endpoints[0]?.definition ?? {};
  assert.deepEqual([concurrency, requestsPerMinute, tokensPerMinute], [2, 33, 3333]);
  await assert.rejects(
    read(text.replace('replicas: 3', 'replicas: 9')),
    /endpoints\.e\.concurrency: is 8, which 9 replicas cannot share/,
  );
});

test('what is wrong is named, with the file', async () => {
  const good = `endpoints: { e: { baseUrl: 'http://127.0.0.1:1/v1' } }\n`;
  const table: readonly [string, RegExp][] = [
    ['endpoints: {', /judges\.yaml is not YAML/],
    [judges, /judges\.yaml: endpoints: /],
    [
      `endpoints: { e: { baseUrl: '\${NOT_THERE}/v1' } }\n${judges}`,
      /NOT_THERE is not set; endpoints\.e\.baseUrl/,
    ],
    [`endpoints: { e: { baseUrl: 'file:///etc' } }\n${judges}`, /endpoints\.e\.baseUrl/],
    [
      good + judges.replace('endpoint: e', 'endpoint: x'),
      /judges\.j\.endpoint: no endpoint is named 'x'; known are: e/,
    ],
    [good + judges.replace('mode: binary', 'mode: maybe'), /judges\.j\.mode/],
    [
      good + judges.replace(rubric, 'missing.yaml'),
      /judges\.j\.rubric .*missing\.yaml', which cannot be read/,
    ],
    [
      `${good}${judges.replace('frames:', 'votes: 3, sampling: { temperature: 0 }, frames:')}`,
      /judges\.j\.votes: at temperature 0 all votes are the same/,
    ],
    [`${good}${judges}\npanels: { p: { version: '1', judges: [j, k], rule: all } }`, /no judge is named 'k'/],
    [good + judges.replace(rubric, shipped), /rubric .*judges\.toybox\.yaml/],
  ];
  for (const [text, message] of table) await assert.rejects(read(text), message);
  await assert.rejects(
    readJudgesFile(path.join(folder, 'none.yaml'), {}),
    /PLUMB_JUDGES_FILE is '.*none\.yaml'/,
  );
});
