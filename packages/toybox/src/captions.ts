import { invalidArgument } from '@plumb/kit/errors';
import { colourNames } from './palette.ts';
import type { ColourName } from './palette.ts';

/** The five categories of interaction: object removal, multiple objects, deformable object, directional movement, falling down. */
export const categories = ['OR', 'MO', 'DO', 'DM', 'FD'] as const;
export type Category = (typeof categories)[number];

/** The shapes that captions can name. */
export const shapeNames = ['ball', 'block', 'triangle'] as const;
export type ShapeName = (typeof shapeNames)[number];

/** What a caption calls an object. */
export type NamedObject = { readonly colour: ColourName; readonly shape: ShapeName };

/** What a caption says must happen. The first object is the one that acts. */
export type Event =
  | { readonly kind: 'take-out-of-box' | 'take-off-table'; readonly object: NamedObject }
  | { readonly kind: 'hit' | 'land-on'; readonly object: NamedObject; readonly other: NamedObject }
  | { readonly kind: 'squeeze' | 'stretch'; readonly object: NamedObject }
  | { readonly kind: 'push-left' | 'push-right'; readonly object: NamedObject }
  | { readonly kind: 'fall-to-ground' | 'fall-into-box'; readonly object: NamedObject };
export type EventKind = Event['kind'];

/** One sentence form for each kind of event; X is the acting object and Y the other one, as "red ball". */
const sentences: Readonly<Record<EventKind, { category: Category; template: string }>> = {
  'take-out-of-box': { category: 'OR', template: 'taking the X out of the box' },
  'take-off-table': { category: 'OR', template: 'taking the X off the table' },
  hit: { category: 'MO', template: 'the X hits the Y' },
  'land-on': { category: 'MO', template: 'the X lands on the Y' },
  squeeze: { category: 'DO', template: 'squeezing the X' },
  stretch: { category: 'DO', template: 'stretching the X' },
  'push-left': { category: 'DM', template: 'pushing the X to the left' },
  'push-right': { category: 'DM', template: 'pushing the X to the right' },
  'fall-to-ground': { category: 'FD', template: 'the X falls to the ground' },
  'fall-into-box': { category: 'FD', template: 'the X falls into the box' },
};
const eventKinds = Object.keys(sentences) as EventKind[];

/** Every word that a caption can hold, sorted. A model's tokeniser is made from this list. */
export const vocabulary: readonly string[] = [
  ...new Set([
    ...colourNames,
    ...shapeNames,
    ...eventKinds.flatMap((kind) =>
      sentences[kind].template.split(' ').filter((word) => word !== 'X' && word !== 'Y'),
    ),
  ]),
].toSorted();

/** Words of the longest caption ("taking the red ball out of the box", "the red ball lands on the blue block"). */
export const longestCaption = 8;

/** The category of an event. */
export function categoryOf(event: Event): Category {
  return sentences[event.kind].category;
}

/** The caption of an event, lower case, without punctuation. */
export function captionOf(event: Event): string {
  const { template } = sentences[event.kind];
  return template
    .replace('X', `${event.object.colour} ${event.object.shape}`)
    .replace('Y', 'other' in event ? `${event.other.colour} ${event.other.shape}` : '');
}

const objects: readonly NamedObject[] = colourNames.flatMap((colour) =>
  shapeNames.map((shape) => ({ colour, shape })),
);

/** Pairs of objects of two colours; a triangle's slopes make no clean collision and no flat top. */
function pairs(kind: 'hit' | 'land-on'): Event[] {
  const actors = kind === 'hit' ? objects.filter(({ shape }) => shape !== 'triangle') : objects;
  const others = objects.filter(({ shape }) => (kind === 'hit' ? shape !== 'triangle' : shape === 'block'));
  return actors.flatMap((object) =>
    others.filter(({ colour }) => colour !== object.colour).map((other): Event => ({ kind, object, other })),
  );
}

function eventsOf(kind: EventKind): Event[] {
  if (kind === 'hit' || kind === 'land-on') return pairs(kind);
  return objects.map((object): Event => ({ kind, object }));
}

/** Every event of the world, in a fixed order, by kind. */
export const allEvents: Readonly<Record<EventKind, readonly Event[]>> = Object.fromEntries(
  eventKinds.map((kind) => [kind, eventsOf(kind)]),
) as unknown as Record<EventKind, Event[]>;

const eventsByCaption: ReadonlyMap<string, Event> = new Map(
  eventKinds.flatMap((kind) => allEvents[kind].map((event) => [captionOf(event), event] as const)),
);

/** The two kinds of event of a category, in a fixed order. */
export function eventKindsOf(category: Category): EventKind[] {
  return eventKinds.filter((kind) => sentences[kind].category === category);
}

/**
 * What a caption says. Case and spacing do not matter.
 *
 * @throws PlumbError INVALID_ARGUMENT naming the unknown word, or, where every word is known, the sentence forms.
 */
export function parseCaption(caption: string): Event {
  const words = caption.toLowerCase().trim().split(/\s+/);
  const event = eventsByCaption.get(words.join(' '));
  if (event !== undefined) return event;
  const unknown = words.find((word) => !vocabulary.includes(word));
  if (unknown !== undefined) {
    throw invalidArgument(
      'caption',
      `the toybox does not know the word "${unknown}" in "${caption}"; use only: ${vocabulary.join(', ')}`,
      { reason: 'PROMPT_UNKNOWN_WORD', metadata: { word: unknown } },
    );
  }
  const forms = eventKinds.map((kind) => `"${sentences[kind].template}"`).join(', ');
  throw invalidArgument(
    'caption',
    `"${caption}" is not a sentence of the toybox; write one of ${forms}, where X and Y are a colour and a shape ` +
      `of two different colours (no triangle hits or is hit, and only a block is landed on)`,
  );
}
