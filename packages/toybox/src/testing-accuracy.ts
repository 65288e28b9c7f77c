import assert from 'node:assert/strict';
import { test } from 'node:test';
import type { Clip } from '@plumb/media';
import { allEvents, captionOf, categories, eventKindsOf } from './captions.ts';
import type { Category, Event } from './captions.ts';
import { renderClip } from './clips.ts';
import { referee } from './referee.ts';
import { wrongnesses, wrongnessesOf } from './wrongness.ts';
import type { Wrongness } from './wrongness.ts';

const clipsPerCell = 200;
const leastAccuracy = 0.97;

/** Events for a cell of the table, as many as needed, both kinds of the category in turn. */
function eventsFor(category: Category, wrongness: Wrongness | null): Event[] {
  const lists = eventKindsOf(category)
    .map((kind) => allEvents[kind])
    .filter(
      (events) => wrongness === null || events.some((event) => wrongnessesOf(event).includes(wrongness)),
    );
  if (lists.length === 0) return [];
  return Array.from({ length: clipsPerCell }, (_, index) => {
    const events = lists[index % lists.length] ?? [];
    return events[(index * 37) % events.length] as Event;
  });
}

/**
 * One test for each category and kind of wrongness: on fresh clips, the referee tells right from wrong at least 97 times
 * in 100.
 *
 * @param firstSeed of the clips; every cell takes its own
 * @param alter what is done to a clip before it is judged
 */
export function testAccuracy(firstSeed: number, alter: (clip: Clip, seed: number) => Clip): void {
  for (const [row, category] of categories.entries()) {
    for (const [column, wrongness] of [null, ...wrongnesses].entries()) {
      const events = eventsFor(category, wrongness);
      if (events.length === 0) continue;
      test(`${category}, ${wrongness ?? 'right'}: at least 97% of ${clipsPerCell} clips`, () => {
        const missed = events.flatMap((event, index) => {
          const caption = captionOf(event);
          const seed = firstSeed + (row * 10 + column) * 1000 + index;
          const { accept, reason } = referee(alter(renderClip({ caption, wrongness, seed }), seed), caption);
          return accept === (wrongness === null) ? [] : [`${caption} (seed ${seed}): ${reason}`];
        });
        const accuracy = 1 - missed.length / clipsPerCell;
        assert.ok(accuracy >= leastAccuracy, `only ${accuracy}, such as ${missed.slice(0, 3).join('; ')}`);
      });
    }
  }
}
