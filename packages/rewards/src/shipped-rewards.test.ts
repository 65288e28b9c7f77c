// The definitions that ship: rewards/*.yaml with the weights of models/toybox-clip, and the presets.

import assert from 'node:assert/strict';
import { readFile, readdir } from 'node:fs/promises';
import { join } from 'node:path';
import { test } from 'node:test';
import { fileURLToPath } from 'node:url';
import { allEvents, captionOf, renderClip } from '@plumb/toybox';
import { captionTokens } from '@plumb/toybox-clip';
import { checkGoldenClips } from './golden.ts';
import { readReferenced, readRewardDefinition, readRewardDefinitions } from './read-definitions.ts';
import { openRewardModule } from './reward-module.ts';
import { openTokeniser } from '@plumb/tokeniser';

const folder = fileURLToPath(new URL('../../../rewards', import.meta.url));
const shipped = await readRewardDefinitions(folder);

test('all eight rewards are defined, with golden clips where pixels decide', () => {
  const expected =
    'aif clip_score colour_stability hpsv2 motion_floor object_persistence optical_flow pickscore';
  assert.deepEqual(
    shipped.map(({ definition }) => definition.name),
    expected.split(' '),
  );
  for (const { definition } of shipped) {
    assert.equal(definition.golden.length, definition.kind === 'ai-feedback' ? 0 : 4, definition.name);
  }
});

test('each gives its golden clips their values, and the same bits in any order and company', async () => {
  const captions = [
    'the red ball falls to the ground',
    'pushing the blue block to the left',
    'stretching the green ball',
  ];
  const inputs = captions.flatMap((prompt) =>
    Array.from({ length: 7 }, (_, seed) => ({
      prompt,
      clip: renderClip({ caption: prompt, wrongness: null, seed }),
    })),
  );
  for (const located of shipped) {
    if (located.definition.kind === 'ai-feedback') continue;
    const reward = await openRewardModule(located, { intraOpThreads: 1 });
    await checkGoldenClips(located, (batch) => reward.score(batch));
    const value = async (batch: typeof inputs): Promise<number[]> =>
      (await reward.score(batch)).map((result) => {
        if ('error' in result) throw result.error;
        return result.score.value;
      });
    const together = await value(inputs);
    assert.deepEqual((await value(inputs.toReversed())).toReversed(), together, located.definition.name);
    assert.deepEqual(await value(inputs.slice(9, 10)), together.slice(9, 10), located.definition.name);
    assert.ok(new Set(together).size > 3, `${located.definition.name} tells clips apart`);
    await reward.close();
  }
});

test("toybox-clip's tokenizer.json gives the tokens that it was trained on, for every caption", async () => {
  const located = shipped.find(({ definition }) => definition.name === 'clip_score');
  assert.ok(located?.definition.kind === 'clip-score');
  const { tokenizer } = located.definition;
  const tokenise = openTokeniser(await readReferenced(folder, tokenizer), tokenizer.file, tokenizer);
  const captions = Object.values(allEvents).flatMap((events) => events.map((event) => captionOf(event)));
  for (const caption of captions) {
    assert.deepEqual(tokenise(caption).ids, [...captionTokens(caption, tokenizer.maxLength)], caption);
    assert.deepEqual(tokenise(` ${caption.toUpperCase()} `).ids, tokenise(caption).ids);
  }
  assert.throws(() => tokenise('the red dog falls to the ground'), { reason: 'PROMPT_UNKNOWN_WORD' });
});

test('presets are definitions, and stand for the hashes that they do not have with zeros', async () => {
  const presets = join(folder, 'presets');
  for (const name of await readdir(presets)) {
    const { definition } = await readRewardDefinition(join(presets, name));
    assert.ok(definition.kind === 'clip-score' || definition.kind === 'preference');
    assert.match(await readFile(join(presets, name), 'utf8'), /export_clip\.py/);
  }
});
