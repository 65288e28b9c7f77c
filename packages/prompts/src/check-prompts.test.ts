import assert from 'node:assert/strict';
import { test } from 'node:test';
import { fileURLToPath } from 'node:url';
import fc from 'fast-check';
import { checkPrompts } from './check-prompts.ts';
import { categoryIds, loadPromptSet } from './prompt-set.ts';
import type { Prompt } from './prompt-set.ts';

/** Five categories with `held` held-out prompts each and four to train on, all unlike each other. */
function balanced(held = 4): Prompt[] {
  return categoryIds.flatMap((category) =>
    Array.from({ length: 4 + held }, (_, index) => ({
      id: `${category}/${index}`,
      text: `${category}one${index} ${category}two${index} ${category}three${index}`,
      category,
      split: index < 4 ? ('train' as const) : ('heldout' as const),
    })),
  );
}

const kinds = (prompts: readonly Prompt[]): string[] => checkPrompts({ prompts }).map(({ kind }) => kind);
const extra = (text: string, split: Prompt['split'] = 'train'): Prompt => ({
  id: `extra/${text.length}`,
  text,
  category: 'FD',
  split,
});

test('a balanced set of different prompts has nothing to say', () => {
  assert.deepEqual(kinds(balanced()), []);
});

test('case, punctuation and filler words make no difference; another object or another order does', () => {
  const first = extra('pushing a bottle off the table');
  assert.deepEqual(kinds([...balanced(), first, extra('Pushing the bottle off of a table!')]), ['near-duplicate']);
  assert.deepEqual(kinds([...balanced(), first, extra('pushing a lamp off the shelf')]), []);
  const swapped = [extra('the red ball lands on the blue box'), extra('the blue ball lands on some red box')];
  assert.deepEqual(kinds([...balanced(), ...swapped]), []);
});

test('likeness across the splits is a leak, and both prompts are named', () => {
  const prompts = [...balanced(), extra('a cup falls off a shelf'), extra('the cup falls off the shelf.', 'heldout')];
  const [finding, ...rest] = checkPrompts({ prompts });
  assert.equal(finding?.kind, 'leak');
  assert.match(finding.message, /extra\/28 .*extra\/23 .*would be trained on/);
  assert.deepEqual(rest, []);
});

test('unbalanced, missing and hardly held out categories are found, and texts that are cut', () => {
  assert.deepEqual(kinds(balanced(2)), Array.from({ length: 5 }, () => 'few-heldout'));
  const noDough = balanced().filter(({ category }) => category !== 'DO');
  assert.deepEqual(kinds(noDough), ['missing-category']);
  const many = Array.from({ length: 9 }, (_, i) => extra(`w${i}a w${i}b w${i}c`));
  assert.deepEqual(kinds([...balanced(), ...many.map((prompt, i) => ({ ...prompt, id: `m/${i}` }))]), ['unbalanced']);
  const long = Array.from({ length: 41 }, (_, i) => `word${i}`).join(' ');
  assert.deepEqual(kinds([...balanced(), extra(long)]), ['long']);
});

test('every prompt that is repeated is found, wherever it stands', () => {
  fc.assert(
    fc.property(fc.nat(19), fc.nat(40), (which, at) => {
      const prompts = balanced();
      const twin = { ...prompts[which], id: 'twin' } as Prompt;
      assert.ok(checkPrompts({ prompts: prompts.toSpliced(at, 0, twin) }).some(({ message }) => message.includes('twin')));
    }),
  );
});

for (const name of ['toybox', 'interactions']) {
  test(`the ${name} set has 24 training and 8 held-out prompts in each category, and nothing to say`, async () => {
    const set = await loadPromptSet(fileURLToPath(new URL(`../../../prompts/${name}.json`, import.meta.url)));
    assert.deepEqual(checkPrompts(set), []);
    for (const category of categoryIds) {
      const prompts = set.prompts.filter((prompt) => prompt.category === category);
      assert.equal(prompts.filter(({ split }) => split === 'train').length, 24);
      assert.equal(prompts.length, 32);
    }
  });
}
