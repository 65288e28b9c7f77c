import type { Event, NamedObject } from './captions.ts';
import type { SegmentedFrame } from './segmentation.ts';
import { foreignRegion, trackFurniture } from './tracking.ts';
import type { ForeignRegion, FurniturePlacement, Placement, Track } from './tracking.ts';
import { failed, happened } from './verdict.ts';
import type { MotionCheck } from './verdict.ts';
import { groundTop, worldSize } from './world.ts';

/**
 * Tolerances, in world units (a pixel of the default picture) unless said otherwise. They bear pixel noise of 0.04 and
 * the soft edges that a generative model makes: nothing is judged closer than about a pixel.
 */
const tolerance = {
  /** Less movement than this is standing still. */
  still: 1.5,
  /** Farthest that a box or a table may seem to move; a moved one goes at least twice as far. */
  furniture: 2.5,
  /** Least way that counts as having moved somewhere. */
  moved: 4,
  /** Farthest from a surface that still counts as resting on it. */
  rest: 2.2,
  /** Deepest overlap that soft edges can feign. */
  overlap: 2,
  /** Movement against the stated direction that is forgiven. */
  backwards: 1.6,
  /** Longest step between two of eight frames; more is a jump. */
  step: 6.5,
  /** A frame shows the object if it has this share of its usual area. */
  presentShare: 0.4,
  /** A foreign colour with this share of the object's area is a change of colour. */
  foreignShare: 0.35,
  /** Least change of width over height, as a factor, that counts as squeezed or stretched. */
  deformed: 1.4,
  /** Area of a squeezed object against its first frames, least and most. */
  areaKept: [0.72, 1.32],
} as const;

const name = ({ colour, shape }: NamedObject): string => `${colour} ${shape}`;

function median(values: readonly number[]): number {
  const sorted = values.toSorted((a, b) => a - b);
  return sorted[Math.floor(sorted.length / 2)] ?? 0;
}

/** A track with no gaps; it is shorter than the clip when the object has left through an edge of the picture. */
type WholeTrack = { readonly object: NamedObject; readonly at: readonly Placement[] };

const first = ({ at }: WholeTrack): Placement => at[0] as Placement;
const last = ({ at }: WholeTrack): Placement => at.at(-1) as Placement;

/** True if the object was on its way out through the left, right or upper edge when it was last seen. */
function leaves(placements: readonly Placement[]): boolean {
  const [before, at] = [placements.at(-2), placements.at(-1)];
  if (before === undefined || at === undefined) return false;
  // The edge cuts into it already, or another step and a half takes its middle out of the picture: one that dissolves
  // in full view near the edge has not left.
  const isCut = at.area < 0.85 * before.area || at.area < 0.7 * (placements[0] as Placement).area;
  if (isCut && (at.left < 1 || at.right > worldSize - 1 || at.top < 1)) return true;
  const x = at.x + 1.5 * (at.x - before.x);
  const y = at.y + 1.5 * (at.y - before.y);
  return x < 0 || x > worldSize || y < 0;
}

/** True if two bounding boxes touch or overlap. */
function overlap(one: Placement, two: Placement): boolean {
  return (
    Math.min(one.right, two.right) > Math.max(one.left, two.left) - 1 &&
    Math.min(one.bottom, two.bottom) > Math.max(one.top, two.top) - 1
  );
}

/** The track without gaps, or what is wrong: a change of colour, or an object that is not there. */
function whole(
  track: Track,
  other: Track | undefined,
  foreign: readonly ForeignRegion[],
): WholeTrack | MotionCheck {
  const { object, placements } = track;
  const usual = median(placements.flatMap((placement) => (placement === null ? [] : [placement.area])));
  const foreignFrame = foreign.findIndex(({ area }) => area > Math.max(8, tolerance.foreignShare * usual));
  if (foreignFrame >= 0) {
    const colour = foreign[foreignFrame]?.colour ?? 'foreign';
    return failed(
      'wrong_colour',
      `Frame ${foreignFrame + 1} shows something ${colour}, which the caption does not name.`,
    );
  }
  const seen: Placement[] = [];
  for (const [index, placement] of placements.entries()) {
    if (placement !== null && placement.area >= tolerance.presentShare * usual) {
      if (seen.length < index) break;
      seen.push(placement);
    }
  }
  if (seen.length === 0) return failed('vanished', `The ${name(object)} is not there at the start.`);
  if (seen.length < placements.length && !leaves(seen)) {
    const at = seen.at(-1) as Placement;
    if (at.bottom > groundTop + tolerance.still) {
      return failed('interpenetrated', `The ${name(object)} sinks into the ground.`);
    }
    const behind = other?.placements[seen.length - 1] ?? null;
    if (behind !== null && at.area < 0.85 * (seen[0] as Placement).area && overlap(at, behind)) {
      return failed('interpenetrated', `The ${name(object)} goes into something else.`);
    }
    return failed('vanished', `The ${name(object)} cannot be seen in frame ${seen.length + 1} and later.`);
  }
  const stepFactor = (placements.length - 1) / 7;
  for (let index = 1; index < seen.length; index += 1) {
    const [from, to] = [seen[index - 1] as Placement, seen[index] as Placement];
    if (Math.hypot(to.x - from.x, to.y - from.y) * stepFactor > tolerance.step) {
      return failed('other', `The ${name(object)} jumps between frames ${index} and ${index + 1}.`);
    }
  }
  return { object, at: seen };
}

/** The box or table as it stands in the first frame, or that there is none. */
function furnitureAtStart(
  found: readonly (FurniturePlacement | null)[],
  what: string,
): FurniturePlacement | MotionCheck {
  const [start] = found;
  if (start === undefined || start === null) return failed('wrong_count', `There is no ${what}.`);
  if (start.right - start.left < 7 || start.right - start.left > 21) {
    return failed('other', `The ${what} is ${Math.round(start.right - start.left)} wide, which none is.`);
  }
  return start;
}

/** What is wrong with the box or table over the clip: it must stay, and stay whole. */
function disturbed(found: readonly (FurniturePlacement | null)[], what: string): MotionCheck | null {
  const start = found[0] as FurniturePlacement;
  for (const [index, placement] of found.entries()) {
    if (placement === null || placement.area < 0.5 * start.area) {
      return failed('vanished', `The ${what} cannot be seen whole in frame ${index + 1}.`);
    }
    if (Math.hypot(placement.x - start.x, placement.y - start.y) > tolerance.furniture) {
      return failed('other', `The ${what} moves, where it should have stayed.`);
    }
  }
  return null;
}

const isCheck = (value: object): value is MotionCheck => 'failureMode' in value;

/** Thickness of a box's wall and floor, and of a table's top, as drawn. */
const wallThickness = 1.7;

function judgeTaking(event: Event, track: WholeTrack, frames: readonly SegmentedFrame[]): MotionCheck {
  const inBox = event.kind === 'take-out-of-box';
  const what = inBox ? 'box' : 'table';
  const it = `The ${name(event.object)}`;
  const found = trackFurniture(frames);
  const furniture = furnitureAtStart(found, what);
  if (isCheck(furniture)) return furniture;
  const [start, end] = [first(track), last(track)];
  const begins = inBox
    ? Math.abs(start.x - furniture.x) < 4 && start.bottom > furniture.top + 1.5
    : Math.abs(start.x - furniture.x) < 6.5 && Math.abs(start.bottom - furniture.top) < tolerance.rest + 1;
  if (!begins) return failed('other', `${it} is not ${inBox ? 'in the box' : 'on the table'} at the start.`);
  if (track.at.every(({ x, y }) => Math.hypot(x - start.x, y - start.y) < tolerance.still)) {
    return failed('static', `${it} stays where it was.`);
  }
  const room = (furniture.right - furniture.left) / 2 - wallThickness;
  for (const at of track.at) {
    const through = inBox
      ? at.bottom > furniture.top + 1.5 &&
        Math.abs(at.x - furniture.x) + (at.right - at.left) / 2 > room + tolerance.overlap - 0.5
      : at.bottom > furniture.top + tolerance.overlap + 0.3 &&
        Math.abs(at.x - furniture.x) < (furniture.right - furniture.left) / 2 + 2;
    if (through) return failed('interpenetrated', `${it} goes through the ${what}.`);
  }
  // Only now, because a body that goes through its container hides a part of it.
  const disturbance = disturbed(found, what);
  if (disturbance !== null) return disturbance;
  const gone = track.at.length < frames.length;
  if (!gone && end.bottom > furniture.top - 1) {
    return failed('static', `${it} has not left the ${what} at the end.`);
  }
  if (end.y > start.y - tolerance.moved) return failed('static', `${it} is not lifted.`);
  return happened(`${it} leaves the ${what}, which stays.`);
}

function judgePushing(event: Event, track: WholeTrack): MotionCheck {
  const sign = event.kind === 'push-left' ? -1 : 1;
  const side = sign < 0 ? 'left' : 'right';
  const it = `The ${name(event.object)}`;
  const way = sign * (last(track).x - first(track).x);
  if (track.at.some(({ bottom }) => groundTop - bottom > tolerance.rest)) {
    return failed('floating', `${it} leaves the ground with nothing to hold it.`);
  }
  if (track.at.some(({ bottom }) => bottom - groundTop > tolerance.rest)) {
    return failed('interpenetrated', `${it} sinks into the ground.`);
  }
  if (way < -tolerance.still)
    return failed('wrong_direction', `${it} does not move to the ${side} but the other way.`);
  if (way < tolerance.moved) return failed('static', `${it} hardly moves.`);
  if (turnsBack(track, ({ x }) => sign * x)) return failed('other', `${it} moves to and fro.`);
  return happened(`${it} moves to the ${side}.`);
}

/** True if a coordinate that should only grow falls back by more than is forgiven. */
function turnsBack({ at }: WholeTrack, coordinate: (placement: Placement) => number): boolean {
  let most = -Infinity;
  for (const placement of at) {
    const value = coordinate(placement);
    if (value < most - tolerance.backwards) return true;
    most = Math.max(most, value);
  }
  return false;
}

/** The fall itself: down, faster and faster, to the surface and no farther, and at rest there. */
function judgeFall(track: WholeTrack, frames: number, surface: number, onto: string): MotionCheck {
  const it = `The ${name(track.object)}`;
  const [start, end] = [first(track), last(track)];
  if (track.at.some(({ bottom }) => bottom - surface > tolerance.rest)) {
    return failed('interpenetrated', `${it} sinks into the ${onto}.`);
  }
  if (track.at.every(({ x, y }) => Math.hypot(x - start.x, y - start.y) < tolerance.still)) {
    return failed('static', `${it} hangs where it was.`);
  }
  if (end.y < start.y + tolerance.still || track.at.length < frames) {
    return failed('floating', `${it} does not fall but rises.`);
  }
  if (surface - end.bottom > tolerance.rest) {
    return failed('floating', `${it} ends in the air above the ${onto}.`);
  }
  if (end.y - start.y < tolerance.moved) return failed('static', `${it} hardly falls.`);
  if (turnsBack(track, ({ y }) => y)) return failed('other', `${it} falls, rises and falls again.`);
  const steps = track.at.slice(1).map(({ y }, index) => y - (track.at[index] as Placement).y);
  if (Math.max(...steps) < 1.25 * (steps[0] ?? 0)) {
    return failed('other', `${it} does not fall faster and faster.`);
  }
  if (Math.abs(steps.at(-1) ?? 0) > tolerance.still) return failed('other', `${it} does not come to rest.`);
  return happened(`${it} falls to the ${onto} and stays there.`);
}

function judgeFalling(event: Event, track: WholeTrack, frames: readonly SegmentedFrame[]): MotionCheck {
  if (event.kind === 'fall-to-ground') {
    return judgeFall(track, frames.length, groundTop, 'ground');
  }
  const found = trackFurniture(frames);
  const box = furnitureAtStart(found, 'box');
  if (isCheck(box)) return box;
  const room = (box.right - box.left) / 2 - wallThickness;
  const cuts = track.at.some(
    ({ x, bottom, left, right }) =>
      bottom > box.top + 2 && Math.abs(x - box.x) + (right - left) / 2 > room + tolerance.overlap - 0.5,
  );
  if (cuts) return failed('interpenetrated', `The ${name(event.object)} cuts through the wall of the box.`);
  return (
    disturbed(found, 'box') ?? judgeFall(track, frames.length, groundTop - wallThickness, 'floor of the box')
  );
}

function judgeLanding(track: WholeTrack, base: WholeTrack, frames: number): MotionCheck {
  const under = first(base);
  if (
    base.at.length < frames ||
    base.at.some(({ x, y }) => Math.hypot(x - under.x, y - under.y) > tolerance.still + 0.3)
  ) {
    const hidden = track.at.some(({ bottom }) => bottom > under.top + tolerance.overlap);
    return hidden
      ? failed('interpenetrated', `The ${name(track.object)} sinks into the ${name(base.object)}.`)
      : failed('other', `The ${name(base.object)} does not stay where it is.`);
  }
  if (Math.abs(under.bottom - groundTop) > tolerance.rest) {
    return failed('floating', `The ${name(base.object)} does not stand on the ground.`);
  }
  const fall = judgeFall(track, frames, under.top, name(base.object));
  if (!fall.pass) return fall;
  if (Math.abs(last(track).x - under.x) > (under.right - under.left) / 2 + 1) {
    return failed(
      'floating',
      `The ${name(track.object)} comes to rest beside the ${name(base.object)}, on nothing.`,
    );
  }
  return fall;
}

function judgeHit(agent: WholeTrack, target: WholeTrack, clipFrames: number): MotionCheck {
  const [a, b] = [`The ${name(agent.object)}`, `the ${name(target.object)}`];
  const sign = first(target).x >= first(agent).x ? 1 : -1;
  const frames = Math.min(agent.at.length, target.at.length);
  const gaps = Array.from({ length: frames }, (_, index) => {
    const [one, two] = [agent.at[index] as Placement, target.at[index] as Placement];
    return sign > 0 ? two.left - one.right : one.left - two.right;
  });
  const travel = (track: WholeTrack, from: number, to: number): number =>
    sign * ((track.at[to] as Placement).x - (track.at[from] as Placement).x);
  for (const track of [agent, target]) {
    if (track.at.some(({ bottom }) => groundTop - bottom > tolerance.rest + 0.3)) {
      return failed('floating', `The ${name(track.object)} leaves the ground with nothing to hold it.`);
    }
  }
  // A body that slides behind another one is hidden little by little.
  const hidden = [agent, target].some(({ at }) =>
    at.some(
      ({ area, left, right }, index) =>
        area < 0.66 * (at[0] as Placement).area &&
        left > 1 &&
        right < worldSize - 1 &&
        (gaps[index] ?? 9) < 3,
    ),
  );
  const crossed = gaps.some((gap) => gap < -tolerance.overlap) || hidden;
  if (crossed) return failed('interpenetrated', `${a} and ${b} overlap.`);
  const agentWay = travel(agent, 0, frames - 1);
  const targetWay = travel(target, 0, frames - 1);
  const contact = gaps.findIndex((gap) => gap <= Math.min(...gaps) + 0.5);
  const approach = Math.max(travel(agent, 0, contact), travel(agent, 0, Math.min(contact + 1, frames - 1)));
  if (agentWay < -tolerance.still) return failed('wrong_direction', `${a} moves away from ${b}.`);
  if (agent.at.length < clipFrames) return failed('vanished', `${a} leaves the picture.`);
  if (Math.max(Math.abs(agentWay), approach) < 1.2 && Math.abs(targetWay) < tolerance.still) {
    return failed('static', `Neither ${a.toLowerCase()} nor ${b} moves.`);
  }
  if (Math.min(...gaps) > 1.6) return failed('other', `${a} never touches ${b}.`);
  if (approach < 1.1) return failed('static', `${a} does not come up to ${b}.`);
  if (contact > 1 && Math.abs(travel(target, 0, contact - 1)) > tolerance.still) {
    return failed('other', `${b[0]?.toUpperCase()}${b.slice(1)} moves before it is hit.`);
  }
  if (targetWay < -tolerance.still) return failed('wrong_direction', `After the hit ${b} comes back at it.`);
  if (targetWay < 2.2) return failed('static', `${a} hits ${b}, which stays where it was.`);
  if (travel(agent, contact, frames - 1) > travel(target, contact, frames - 1) + 0.5) {
    return failed('other', `${a} does not slow down when it hits ${b}.`);
  }
  return happened(`${a} hits ${b} and sets it moving.`);
}

function judgeDeforming(event: Event, track: WholeTrack): MotionCheck {
  const it = `The ${name(event.object)}`;
  const start = first(track);
  const steady = median(track.at.slice(0, 2).map(({ area }) => area));
  const ratios = track.at.map(({ spreadX, spreadY }) => Math.log(spreadX / spreadY));
  const wanted = event.kind === 'squeeze' ? 1 : -1;
  const change = wanted * (((ratios.at(-1) ?? 0) + (ratios.at(-2) ?? 0)) / 2 - (ratios[0] ?? 0));
  if (change < -Math.log(tolerance.deformed) / 2) {
    return failed('wrong_direction', `${it} is ${wanted > 0 ? 'stretched' : 'squeezed'} instead.`);
  }
  for (const { area } of track.at) {
    const kept = area / steady;
    if (kept < tolerance.areaKept[0] || kept > tolerance.areaKept[1]) {
      return failed('other', `${it} ${kept > 1 ? 'grows' : 'shrinks'}, where only its form should change.`);
    }
  }
  if (change < Math.log(tolerance.deformed)) return failed('not_deformed', `${it} keeps its form.`);
  if (track.at.some(({ bottom }) => Math.abs(groundTop - bottom) > tolerance.rest)) {
    return failed('floating', `${it} does not stay on the ground.`);
  }
  if (track.at.some(({ x }) => Math.abs(x - start.x) > 2.5)) {
    return failed('other', `${it} moves away, where only its form should change.`);
  }
  return happened(`${it} is ${wanted > 0 ? 'squeezed flat' : 'stretched'} and keeps its size.`);
}

/**
 * Judges whether what happens is what the caption says, the way physics would have it.
 *
 * @param tracks of the objects that the caption names, in its order
 */
export function judgeMotion(
  event: Event,
  frames: readonly SegmentedFrame[],
  tracks: readonly Track[],
): MotionCheck {
  const [first, second] = tracks as [Track, Track | undefined];
  const expected = tracks.map(({ object }) => object.colour);
  const foreign = frames.map((frame) => foreignRegion(frame, expected));
  const track = whole(first, second, foreign);
  if (isCheck(track)) return track;
  switch (event.kind) {
    case 'take-out-of-box':
    case 'take-off-table':
      return judgeTaking(event, track, frames);
    case 'push-left':
    case 'push-right':
      return judgePushing(event, track);
    case 'fall-to-ground':
    case 'fall-into-box':
      return judgeFalling(event, track, frames);
    case 'squeeze':
    case 'stretch':
      return judgeDeforming(event, track);
    case 'hit':
    case 'land-on': {
      const other = whole(second as Track, first, foreign);
      if (isCheck(other)) return other;
      return event.kind === 'hit'
        ? judgeHit(track, other, frames.length)
        : judgeLanding(track, other, frames.length);
    }
  }
}
