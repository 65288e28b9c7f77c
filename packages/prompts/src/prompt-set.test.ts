import assert from 'node:assert/strict';
import { createHash } from 'node:crypto';
import { mkdtemp, readFile, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { test } from 'node:test';
import { fileURLToPath } from 'node:url';
import { PlumbError } from '@plumb/kit/errors';
import fc from 'fast-check';
import { loadPromptSet, parsePromptSet } from './prompt-set.ts';

const good = {
  version: '1.0.0',
  categories: ['FD'],
  prompts: [
    { id: 'mine/1', text: 'the cup falls off the table', category: 'FD', split: 'train' },
    { id: 'mine/2', text: 'the pen falls to the ground', category: 'FD', split: 'heldout' },
  ],
};
const [first, second] = good.prompts as [object, object];
const bytesOf = (value: unknown): Uint8Array => new TextEncoder().encode(JSON.stringify(value));

/** What is said about a bad prompt set. */
function complaint(value: unknown): string {
  try {
    parsePromptSet(bytesOf(value), 'mine.json');
  } catch (error) {
    assert.ok(error instanceof PlumbError, String(error));
    assert.equal(error.code, 'INVALID_ARGUMENT');
    return error.message;
  }
  return assert.fail('it was accepted');
}

test('a good set is read with the hash of its file', () => {
  const bytes = bytesOf(good);
  const set = parsePromptSet(bytes);
  assert.deepEqual(set, { ...good, sha256: createHash('sha256').update(bytes).digest('hex') });
});

test('errors name the prompt and the fix', () => {
  const withSecond = (change: object) => ({ ...good, prompts: [first, { ...second, ...change }] });
  assert.match(complaint(withSecond({ id: 'mine/1' })), /prompts\[1\] \(mine\/1\)\.id: is used twice; give/);
  assert.match(
    complaint(withSecond({ text: 'The cup  falls off the table ' })),
    /prompts\[1\] \(mine\/2\)\.text: is the same as that of mine\/1 in the other split.*remove one/,
  );
  assert.match(
    complaint({ ...good, prompts: [...good.prompts, { ...first, id: 'mine/3' }] }),
    /\(mine\/3\)\.text: is the same as that of mine\/1; remove one/,
  );
  assert.match(complaint(withSecond({ text: ' ' })), /\(mine\/2\)\.text: is empty/);
  assert.match(
    complaint(withSecond({ text: 'x'.repeat(2001) })),
    /\(mine\/2\)\.text: is too long; use at most 2000/,
  );
  assert.match(complaint(withSecond({ category: 'XX' })), /\(mine\/2\)\.category: must be one of OR, MO/);
  assert.match(
    complaint(withSecond({ category: 'DM' })),
    /\(mine\/2\)\.category: is DM, which categories does not list/,
  );
  assert.match(complaint(withSecond({ split: 'test' })), /\(mine\/2\)\.split: must be "train" or "heldout"/);
  assert.match(complaint(withSecond({ id: '../x' })), /prompts\[1\] \(\.\.\/x\)\.id: must begin/);
  assert.match(complaint(withSecond({ weight: 2 })), /mine\.json: prompts\[1\] \(mine\/2\).*weight/);
  assert.match(complaint({ ...good, author: 'me' }), /author/);
  assert.match(complaint({ ...good, prompts: [first] }), /categories\[0\]: FD has no heldout prompt/);
  assert.match(complaint({ ...good, categories: ['FD', 'FD'] }), /categories\[1\]: repeats FD/);
  assert.match(complaint({ ...good, categories: ['FD', 'OR'] }), /OR has no train prompt/);
  assert.match(complaint({ ...good, prompts: [] }), /prompts: is empty/);
  assert.match(complaint({ ...good, version: 3 }), /version/);
  assert.match(complaint(null), /mine\.json/);
});

test('whatever the file holds, the answer is a set or a typed error', () => {
  fc.assert(
    fc.property(fc.oneof(fc.json(), fc.string()), (text) => {
      assert.throws(() => parsePromptSet(new TextEncoder().encode(text)), { code: 'INVALID_ARGUMENT' });
    }),
  );
  assert.throws(() => parsePromptSet(new Uint8Array([0xff, 0xfe])), { code: 'INVALID_ARGUMENT' });
});

test('files are loaded, and missing ones named', async () => {
  const folder = await mkdtemp(join(tmpdir(), 'plumb-prompts-'));
  try {
    const path = join(folder, 'mine.json');
    await writeFile(path, bytesOf(good));
    assert.equal((await loadPromptSet(path)).prompts.length, 2);
    await assert.rejects(loadPromptSet(join(folder, 'other.json')), {
      code: 'NOT_FOUND',
      message: /other\.json' cannot be read/,
    });
    await assert.rejects(loadPromptSet(folder), PlumbError);
  } finally {
    await rm(folder, { recursive: true });
  }
});

test('the toybox set has 24 training and 8 held-out prompts in each of five categories', async () => {
  const path = fileURLToPath(new URL('../../../prompts/toybox.json', import.meta.url));
  const set = await loadPromptSet(path);
  assert.equal(
    set.sha256,
    createHash('sha256')
      .update(await readFile(path))
      .digest('hex'),
  );
  for (const category of set.categories) {
    const prompts = set.prompts.filter((prompt) => prompt.category === category);
    assert.equal(prompts.filter(({ split }) => split === 'train').length, 24);
    assert.equal(prompts.filter(({ split }) => split === 'heldout').length, 8);
  }
  assert.equal(set.prompts.length, 160);
});
