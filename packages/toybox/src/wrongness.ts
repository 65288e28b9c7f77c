import { categoryOf } from './captions.ts';
import type { Event, EventKind } from './captions.ts';

/**
 * The ways in which a clip can fail its caption:
 * static: nothing happens; wrong-direction: the opposite happens; floating: something rises or hangs with nothing to
 * hold it; passing-through: solids overlap; vanishing: an object disappears; colour-change: an object turns another
 * colour; container-moves: the container leaves with its content; area-change: a squeezed object grows or shrinks.
 */
export const wrongnesses = [
  'static',
  'wrong-direction',
  'floating',
  'passing-through',
  'vanishing',
  'colour-change',
  'container-moves',
  'area-change',
] as const;
export type Wrongness = (typeof wrongnesses)[number];

const meaningful: Readonly<Record<EventKind, readonly Wrongness[]>> = {
  'take-out-of-box': ['static', 'passing-through', 'vanishing', 'colour-change', 'container-moves'],
  'take-off-table': ['static', 'passing-through', 'vanishing', 'colour-change', 'container-moves'],
  hit: ['static', 'wrong-direction', 'floating', 'passing-through', 'vanishing', 'colour-change'],
  'land-on': ['static', 'floating', 'passing-through', 'vanishing', 'colour-change'],
  squeeze: ['static', 'wrong-direction', 'vanishing', 'colour-change', 'area-change'],
  stretch: ['static', 'wrong-direction', 'vanishing', 'colour-change', 'area-change'],
  'push-left': ['static', 'wrong-direction', 'floating', 'vanishing', 'colour-change'],
  'push-right': ['static', 'wrong-direction', 'floating', 'vanishing', 'colour-change'],
  'fall-to-ground': ['static', 'floating', 'passing-through', 'vanishing', 'colour-change'],
  'fall-into-box': ['static', 'floating', 'passing-through', 'vanishing', 'colour-change'],
};

/** The kinds of wrongness that make sense for an event; never empty. */
export function wrongnessesOf(event: Event): readonly Wrongness[] {
  return meaningful[event.kind];
}

/** A sentence for an error message. */
export function describeMeaningful(event: Event): string {
  return `${categoryOf(event)} captions of this form can be wrong by ${wrongnessesOf(event).join(', ')}`;
}
