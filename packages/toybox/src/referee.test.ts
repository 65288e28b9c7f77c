import assert from 'node:assert/strict';
import { describe, test } from 'node:test';
import type { Clip } from '@plumb/media';
import { PlumbError } from '@plumb/kit/errors';
import { renderClip } from './clips.ts';
import { toyboxPrompts } from './prompt-split.ts';
import { seededRandom } from './random.ts';
import { referee } from './referee.ts';
import { withNoise } from './testing-noise.ts';
import type { Wrongness } from './wrongness.ts';

const rightClip = (caption: string, seed: number): Clip => renderClip({ caption, wrongness: null, seed });

/** A clip with every pixel put through a function of its value, frame, row and column. */
function painted(
  clip: Clip,
  paint: (value: number, at: { frame: number; x: number; y: number; channel: number }) => number,
): Clip {
  const size = clip.width;
  const data = clip.data.map((value, index) => {
    const pixel = Math.floor(index / 3);
    const at = {
      channel: index % 3,
      x: pixel % size,
      y: Math.floor(pixel / size) % size,
      frame: Math.floor(pixel / size / size),
    };
    return Math.max(0, Math.min(255, Math.round(paint(value, at))));
  });
  return { ...clip, data };
}

/** Share of the prompts' right clips that are refused after they are spoilt. */
function refusedShare(spoil: (clip: Clip, seed: number) => Clip, by?: string): number {
  const verdicts = toyboxPrompts.map(({ text }, seed) => referee(spoil(rightClip(text, seed), seed), text));
  const refused = verdicts.filter(({ accept, checks }) => {
    const check =
      by === undefined ? undefined : Object.entries(checks.picture).find(([name]) => name === by)?.[1];
    return !accept && (check === undefined || !check.pass);
  });
  return refused.length / verdicts.length;
}

describe('spoilt pictures are refused', () => {
  test('tinted', () => {
    assert.equal(
      refusedShare(
        (clip) => painted(clip, (value, { channel }) => value + (channel === 0 ? 18 : -6)),
        'tint',
      ),
      1,
    );
  });
  test('darkened', () => {
    assert.equal(
      refusedShare((clip) => painted(clip, (value) => value * 0.88), 'tint'),
      1,
    );
  });
  test('striped, chequered and blotched', () => {
    const chequers = (clip: Clip) =>
      painted(clip, (value, { x, y }) => value + ((x + y) % 2 === 0 ? 26 : -26));
    const stripes = (clip: Clip) => painted(clip, (value, { x }) => value + (x % 8 < 4 ? 16 : -16));
    const blotches = (clip: Clip) =>
      painted(clip, (value, { x, y }) => value + 34 * Math.sin(x / 2.2) * Math.cos(y / 2.2));
    for (const spoil of [chequers, stripes, blotches]) assert.ok(refusedShare(spoil, 'texture') > 0.98);
  });
  test('very noisy', () => {
    assert.equal(
      refusedShare((clip, seed) => withNoise(clip, 0.12, seed), 'texture'),
      1,
    );
  });
  test('speckled', () => {
    const speckles = (clip: Clip, seed: number) => {
      const random = seededRandom(seed);
      const spots = new Set(Array.from({ length: 12 }, () => random.integer(0, 24 * 20 - 1)));
      return painted(clip, (value, { x, y, channel }) =>
        spots.has(y * 24 + x) ? (channel === 1 ? 40 : 230) : value,
      );
    };
    assert.ok(refusedShare(speckles) > 0.98);
  });
  test('blank, black and white', () => {
    for (const level of [219, 0, 255])
      assert.equal(
        refusedShare((clip) => painted(clip, () => level)),
        1,
      );
  });
  test('with a second object of the same kind', () => {
    const doubled = (clip: Clip) => {
      const size = 24;
      return painted(clip, (value, { frame, x, y, channel }) => {
        // The object's own picture again, half a picture away, wherever that is free background.
        const from = ((frame * size + y) * size + ((x + 12) % size)) * 3 + channel;
        const there = clip.data[from] ?? 0;
        const base = from - channel;
        const [red = 0, green = 0, blue = 0] = clip.data.subarray(base, base + 3);
        return Math.max(red, green, blue) - Math.min(red, green, blue) > 60 ? there : value;
      });
    };
    assert.ok(refusedShare(doubled) > 0.95);
  });
  test('hollow objects', () => {
    const hollow = (clip: Clip) =>
      painted(clip, (value, { x, y }) => ((x + y) % 2 === 0 && y < 21 ? 219 : value));
    assert.ok(refusedShare(hollow) > 0.98);
  });
});

test('a clip of another caption is refused', () => {
  let refused = 0;
  let tried = 0;
  for (const [index, { text }] of toyboxPrompts.entries()) {
    for (const step of [1, 13, 57, 101]) {
      const other = toyboxPrompts[(index + step) % toyboxPrompts.length];
      if (other === undefined || other.text === text) continue;
      tried += 1;
      if (!referee(rightClip(text, index * 7 + step), other.text).accept) refused += 1;
    }
  }
  assert.ok(refused / tried > 0.985, `${refused} of ${tried}`);
});

test('shapes are told apart', () => {
  const shapes = ['ball', 'block', 'triangle'];
  for (const shown of shapes) {
    for (const said of shapes) {
      const verdicts = Array.from({ length: 30 }, (_, seed) =>
        referee(
          rightClip(`pushing the green ${shown} to the left`, seed),
          `pushing the green ${said} to the left`,
        ),
      );
      const accepted = verdicts.filter(({ accept }) => accept).length;
      assert.ok(shown === said ? accepted === 30 : accepted <= 1, `${shown} for ${said}: ${accepted} of 30`);
    }
  }
});

test('other sizes and lengths are judged as well', () => {
  for (const picture of [{ size: 32 }, { size: 64, frames: 16, fps: 16 }, { size: 24, frames: 12 }]) {
    for (const { text } of toyboxPrompts.filter((_, index) => index % 4 === 0)) {
      const verdict = referee(renderClip({ caption: text, wrongness: null, seed: 5, ...picture }), text);
      assert.ok(verdict.accept, `${text} at ${JSON.stringify(picture)}: ${verdict.reason}`);
    }
  }
});

test('a verdict says what was seen', () => {
  const caption = 'pushing the red block to the left';
  const good = referee(rightClip(caption, 1), caption);
  assert.deepEqual(
    [good.accept, good.failureMode, good.reason],
    [true, null, 'The red block moves to the left.'],
  );
  const modes: [string, Wrongness, string][] = [
    [caption, 'static', 'static'],
    [caption, 'wrong-direction', 'wrong_direction'],
    [caption, 'floating', 'floating'],
    [caption, 'vanishing', 'vanished'],
    [caption, 'colour-change', 'wrong_colour'],
    ['the red ball hits the blue block', 'passing-through', 'interpenetrated'],
    ['squeezing the green ball', 'static', 'not_deformed'],
  ];
  for (const [text, wrongness, mode] of modes) {
    const verdict = referee(renderClip({ caption: text, wrongness, seed: 3 }), text);
    assert.deepEqual([verdict.accept, verdict.failureMode], [false, mode], verdict.reason);
    assert.match(verdict.reason, /^[A-Z].*\.$/);
  }
});

test('what cannot be judged is a typed error that names the thing', () => {
  const clip = rightClip('squeezing the green ball', 1);
  assert.throws(() => referee(clip, 'squeezing the orange ball'), {
    code: 'INVALID_ARGUMENT',
    reason: 'PROMPT_UNKNOWN_WORD',
    message: /"orange"/,
  });
  assert.throws(() => referee(clip, 'the ball green squeezing'), {
    code: 'INVALID_ARGUMENT',
    message: /sentence/,
  });
  assert.throws(() => referee(clip, 'the red triangle hits the blue block'), { code: 'INVALID_ARGUMENT' });
  assert.throws(() => referee({ ...clip, width: 12, height: 48 }, 'squeezing the green ball'), PlumbError);
  assert.throws(() => referee({ ...clip, data: clip.data.subarray(1) }, 'squeezing the green ball'), {
    code: 'INVALID_ARGUMENT',
    message: /clip\.data/,
  });
});
