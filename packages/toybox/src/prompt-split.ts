import { allEvents, captionOf, categories, eventKindsOf } from './captions.ts';
import type { Category, Event, EventKind } from './captions.ts';
import { seededRandom } from './random.ts';

/** One caption of the prompt set. */
export type ToyboxPrompt = {
  /** Such as `toybox/MO/07`. */
  readonly id: string;
  readonly text: string;
  readonly category: Category;
  readonly split: 'train' | 'heldout';
};

/** Captions of each category that are trained on, and that are held out. */
export const promptsPerCategory = { train: 24, heldout: 8 } as const;

/** Changing it changes every split, and so makes all published weights incomparable. */
const splitSeed = 24_121_761;

function shuffled<Item>(items: readonly Item[], seed: number): Item[] {
  const random = seededRandom(seed);
  const rest = [...items];
  for (let last = rest.length - 1; last > 0; last -= 1) {
    const other = random.integer(0, last);
    [rest[last], rest[other]] = [rest[other] as Item, rest[last] as Item];
  }
  return rest;
}

const objectsOf = (event: Event): string[] =>
  [event.object, ...('other' in event ? [event.other] : [])].map(({ colour, shape }) => `${colour} ${shape}`);

/**
 * Chooses the captions of one kind of event: half of its category's prompts. No object (such as "red ball") is held
 * out in more than two captions of a kind and none in both kinds of a category where the kinds name one object, so that
 * each held-out caption is a new combination of parts that training has seen.
 */
function choose(kind: EventKind, seed: number, taken: Set<string>): { train: Event[]; heldout: Event[] } {
  const heldout: Event[] = [];
  const colours = new Map<string, number>();
  const rest: Event[] = [];
  for (const event of shuffled(allEvents[kind], seed)) {
    const colour = event.object.colour;
    const fresh = objectsOf(event).every((object) => !taken.has(object)) && (colours.get(colour) ?? 0) < 1;
    if (heldout.length < promptsPerCategory.heldout / 2 && fresh) {
      heldout.push(event);
      colours.set(colour, 1);
      if (!('other' in event)) taken.add(objectsOf(event)[0] ?? '');
    } else rest.push(event);
  }
  return { train: coverFirst(rest).slice(0, promptsPerCategory.train / 2), heldout };
}

/** Events that show a colour or a shape for the first time come first, so that a few hold every part. */
function coverFirst(events: readonly Event[]): Event[] {
  const seen = new Set<string>();
  const isNew = (event: Event): boolean => {
    const parts = [
      `acting ${event.object.colour}`,
      `acting ${event.object.shape}`,
      ...('other' in event ? [`other ${event.other.colour}`, `other ${event.other.shape}`] : []),
    ];
    const fresh = parts.some((part) => !seen.has(part));
    for (const part of parts) seen.add(part);
    return fresh;
  };
  const leading = new Set(events.filter(isNew));
  return [...leading, ...events.filter((event) => !leading.has(event))];
}

function promptsOf(category: Category, categoryIndex: number): ToyboxPrompt[] {
  const taken = new Set<string>();
  const chosen = eventKindsOf(category).map((kind, index) =>
    choose(kind, splitSeed + categoryIndex * 10 + index, taken),
  );
  const numbered = (['train', 'heldout'] as const).flatMap((split) =>
    chosen.flatMap((kind) => kind[split].map((event) => ({ text: captionOf(event), split }))),
  );
  return numbered.map(({ text, split }, index) => ({
    id: `toybox/${category}/${String(index + 1).padStart(2, '0')}`,
    text,
    category,
    split,
  }));
}

/** The prompt set `toybox`: 24 training and 8 held-out captions a category; `prompts/toybox.json` is written from it. */
export const toyboxPrompts: readonly ToyboxPrompt[] = categories.flatMap(promptsOf);

/** Raised with every change of a caption or of the split. */
export const promptSetVersion = '1.0.0';

/** The bytes of `prompts/toybox.json`: one prompt a line, so that a change shows as what it is. */
export function promptSetJson(): string {
  const list = categories.map((category) => JSON.stringify(category)).join(', ');
  const lines = toyboxPrompts.map(({ id, text, category, split }) => {
    const fields = Object.entries({ id, text, category, split });
    return `    { ${fields.map(([key, value]) => `"${key}": ${JSON.stringify(value)}`).join(', ')} }`;
  });
  return `{\n  "version": "${promptSetVersion}",\n  "categories": [${list}],\n  "prompts": [\n${lines.join(',\n')}\n  ]\n}\n`;
}

const heldout = new Set(toyboxPrompts.filter(({ split }) => split === 'heldout').map(({ text }) => text));
const training = new Map<Category, readonly (readonly Event[])[]>(
  categories.map((category) => [
    category,
    eventKindsOf(category).map((kind) => allEvents[kind].filter((event) => !heldout.has(captionOf(event)))),
  ]),
);

/**
 * What a model may be pretrained on, by category and then by kind of event: everything that the captions can say,
 * except the held-out prompts.
 */
export function pretrainingEvents(category: Category): readonly (readonly Event[])[] {
  return training.get(category) ?? [];
}
