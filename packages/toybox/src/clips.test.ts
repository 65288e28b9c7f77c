import assert from 'node:assert/strict';
import { readFile } from 'node:fs/promises';
import { test } from 'node:test';
import fc from 'fast-check';
import { allEvents, captionOf, categories, longestCaption, parseCaption, vocabulary } from './captions.ts';
import { renderClip, sampleTrainingClip } from './clips.ts';
import { pretrainingEvents, promptSetJson, toyboxPrompts } from './prompt-split.ts';
import { wrongnessesOf } from './wrongness.ts';

const events = Object.values(allEvents).flat();
const words = (text: string): string[] => text.split(' ');

test('every caption is read back as the event it was written for', () => {
  const captions = new Set(events.map(captionOf));
  assert.equal(captions.size, events.length);
  for (const event of events) {
    const caption = captionOf(event);
    assert.deepEqual(parseCaption(` ${caption.toUpperCase().replaceAll(' ', '  ')} `), event);
    assert.ok(words(caption).length <= longestCaption);
    assert.ok(words(caption).every((word) => vocabulary.includes(word)));
  }
  assert.deepEqual(vocabulary.toSorted(), vocabulary);
  assert.equal(new Set(events.flatMap((event) => words(captionOf(event)))).size, vocabulary.length);
});

test('held-out captions are new combinations of parts that training has seen', () => {
  const held = toyboxPrompts.filter(({ split }) => split === 'heldout');
  for (const category of categories) {
    const training = pretrainingEvents(category).flat();
    const texts = new Set(training.map(captionOf));
    const inPrompts = toyboxPrompts.filter(
      (prompt) => prompt.category === category && prompt.split === 'train',
    );
    for (const { text } of held.filter((prompt) => prompt.category === category)) {
      assert.ok(!texts.has(text), text);
      const event = parseCaption(text);
      for (const source of [training, inPrompts.map((prompt) => parseCaption(prompt.text))]) {
        const seen = new Set(source.flatMap((other) => words(captionOf(other))));
        assert.ok(
          words(text).every((word) => seen.has(word)),
          text,
        );
        const sameKind = source.filter(({ kind }) => kind === event.kind);
        assert.ok(
          sameKind.some(({ object }) => object.colour === event.object.colour),
          text,
        );
        assert.ok(
          sameKind.some(({ object }) => object.shape === event.object.shape),
          text,
        );
      }
      const { colour, shape } = event.object;
      assert.ok(
        training.some(({ object }) => object.colour === colour && object.shape === shape),
        text,
      );
    }
    assert.ok(inPrompts.every(({ text }) => texts.has(text)));
  }
});

test('prompts/toybox.json is what the code makes', async () => {
  const path = new URL('../../../prompts/toybox.json', import.meta.url);
  assert.equal(
    await readFile(path, 'utf8'),
    promptSetJson(),
    'run npm run write-prompt-set -w @plumb/toybox, and raise promptSetVersion',
  );
});

test('the same request gives the same bytes, another seed another clip', () => {
  fc.assert(
    fc.property(fc.constantFrom(...events), fc.nat(), fc.integer(), (event, kind, seed) => {
      const kinds = [null, ...wrongnessesOf(event)];
      const wrongness = kinds[kind % kinds.length] ?? null;
      const request = { caption: captionOf(event), wrongness, seed };
      const clip = renderClip(request);
      assert.deepEqual(
        [clip.frames, clip.height, clip.width, clip.fps, clip.data.length],
        [8, 24, 24, 8, 13_824],
      );
      assert.deepEqual(renderClip(request), clip);
      assert.notDeepEqual(renderClip({ ...request, seed: seed ^ 1 }).data, clip.data);
    }),
    { numRuns: 60 },
  );
});

test('a prompt id stands for its caption', () => {
  for (const { id, text } of toyboxPrompts.slice(0, 10)) {
    const wrongness = null;
    assert.deepEqual(
      renderClip({ promptId: id, wrongness, seed: 4 }),
      renderClip({ caption: text, wrongness, seed: 4 }),
    );
  }
  assert.throws(() => renderClip({ promptId: 'toybox/OR/33', wrongness: null, seed: 1 }), {
    code: 'NOT_FOUND',
    message: /toybox\/OR\/33/,
  });
});

test('what cannot be drawn is a typed error that names the field', () => {
  const caption = 'squeezing the green ball';
  assert.throws(() => renderClip({ caption, wrongness: 'floating', seed: 1 }), {
    code: 'INVALID_ARGUMENT',
    message: /wrongness: is "floating".*area-change/,
  });
  assert.throws(() => renderClip({ caption, wrongness: null, seed: 1, size: 7 }), { message: /size: is 7/ });
  assert.throws(() => sampleTrainingClip(1, { wrongShare: 2 }), { message: /wrongShare: is 2/ });
  assert.throws(() => sampleTrainingClip(1, { categoryWeights: { MO: -1 } }), {
    message: /categoryWeights\.MO/,
  });
});

test('training clips follow the asked-for shares and never show a held-out caption', () => {
  const held = new Set(toyboxPrompts.filter(({ split }) => split === 'heldout').map(({ text }) => text));
  const drawn = Array.from({ length: 2000 }, (_, seed) =>
    sampleTrainingClip(seed, { wrongShare: 0.3, categoryWeights: { MO: 2 } }),
  );
  const share = (test: (clip: (typeof drawn)[number]) => boolean): number =>
    drawn.filter(test).length / drawn.length;
  assert.ok(Math.abs(share(({ wrongness }) => wrongness !== null) - 0.3) < 0.04);
  assert.ok(Math.abs(share(({ category }) => category === 'MO') - 1 / 3) < 0.04);
  assert.equal(
    share(({ caption }) => held.has(caption)),
    0,
  );
  assert.ok(
    Array.from({ length: 50 }, (_, seed) => sampleTrainingClip(seed, { split: 'heldout' })).every(
      ({ caption }) => held.has(caption),
    ),
  );
});
