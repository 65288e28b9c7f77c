import { Box, Circle, Polygon, Vec2, World } from 'planck';
import type { Body } from 'planck';
import type { Event, ShapeName } from './captions.ts';
import type { ColourName, Rgb } from './palette.ts';
import { colourNames, palette } from './palette.ts';
import type { Random } from './random.ts';
import type { Wrongness } from './wrongness.ts';

/**
 * The world is 24 units wide and high, x to the right and y downwards, whatever the size of the picture; a unit is a
 * pixel of the default picture. A clip covers {@link clipSeconds} of world time, whatever its number of frames.
 */
export const worldSize = 24;
/** Top of the ground, which every scene has. */
export const groundTop = 21;
/** World time from the first to the last frame, in seconds: eight frames at 8 fps. */
export const clipSeconds = 7 / 8;

/** Units to metres for the physics engine, whose tolerances are made for bodies of about a metre. */
const metre = 0.1;
/** Downwards acceleration in units per second squared: a fall of 12 units takes 5 of 8 frames. */
const gravity = 62;
const stepsPerSecond = 128;

/** An object in one frame: centre and half sizes of its bounding box, in world units. */
export type ObjectState = {
  readonly shape: ShapeName;
  readonly colour: Rgb;
  readonly x: number;
  readonly y: number;
  readonly halfWidth: number;
  readonly halfHeight: number;
};

/** A grey axis-parallel bar, part of a box or a table, in world units. */
export type Bar = {
  readonly left: number;
  readonly top: number;
  readonly width: number;
  readonly height: number;
};

/** Everything to draw in one frame; the ground is always there. */
export type FrameState = { readonly bars: readonly Bar[]; readonly objects: readonly ObjectState[] };

type Actor = {
  readonly shape: ShapeName;
  readonly colour: ColourName;
  readonly halfWidth: number;
  readonly halfHeight: number;
};

/** What happens to an object's look from a frame on. */
type Mishap = { readonly from: number; readonly kind: 'vanish' | 'recolour'; readonly colour: ColourName };

type PlaceOptions = {
  readonly velocity?: readonly [number, number];
  /** Solid bodies collide; others pass through everything. */
  readonly solid?: boolean;
  readonly weightless?: boolean;
  readonly restitution?: number;
  readonly damping?: number;
  readonly fixed?: boolean;
};

const solidBits = 1;

/** One scene under simulation: rigid bodies in planck, furniture, and what the frames will show. */
class Stage {
  readonly world = new World({ gravity: new Vec2(0, gravity * metre) });
  readonly actors: { actor: Actor; body: Body; mishap: Mishap | undefined }[] = [];
  bars: Bar[] = [];
  /** How far the furniture has been carried, in units. */
  carried = 0;

  constructor() {
    this.bar({ left: -worldSize, top: groundTop, width: 3 * worldSize, height: 10 }, false);
  }

  /** Adds a solid bar; a visible one is drawn as furniture. */
  bar(bar: Bar, visible = true): void {
    const centre = new Vec2((bar.left + bar.width / 2) * metre, (bar.top + bar.height / 2) * metre);
    this.world
      .createBody({ type: 'static', position: centre })
      .createFixture({ shape: new Box((bar.width / 2) * metre, (bar.height / 2) * metre), friction: 0.4 });
    if (visible) this.bars.push(bar);
  }

  place(actor: Actor, x: number, y: number, options: PlaceOptions = {}): Body {
    const body = this.world.createBody({
      type: options.fixed === true ? 'static' : 'dynamic',
      position: new Vec2(x * metre, y * metre),
      linearVelocity: new Vec2((options.velocity?.[0] ?? 0) * metre, (options.velocity?.[1] ?? 0) * metre),
      fixedRotation: true,
      gravityScale: options.weightless === true ? 0 : 1,
      linearDamping: options.damping ?? 0,
      bullet: true,
    });
    const solid = options.solid ?? true;
    body.createFixture({
      shape: outline(actor),
      density: 1,
      friction: 0.4,
      restitution: options.restitution ?? 0.1,
      filterCategoryBits: solidBits,
      filterMaskBits: solid ? solidBits : 0,
    });
    this.actors.push({ actor, body, mishap: undefined });
    return body;
  }

  frame(index: number): FrameState {
    return {
      bars: this.bars.map((bar) => ({ ...bar, top: bar.top - this.carried })),
      objects: this.actors.flatMap(({ actor, body, mishap }) => {
        const struck = mishap !== undefined && index >= mishap.from ? mishap : undefined;
        if (struck?.kind === 'vanish') return [];
        const { x, y } = body.getPosition();
        return [
          {
            shape: actor.shape,
            colour: palette[struck?.colour ?? actor.colour],
            x: x / metre,
            y: y / metre,
            halfWidth: actor.halfWidth,
            halfHeight: actor.halfHeight,
          },
        ];
      }),
    };
  }
}

function outline({ shape, halfWidth, halfHeight }: Actor): Circle | Polygon {
  const width = halfWidth * metre;
  const height = halfHeight * metre;
  switch (shape) {
    case 'ball':
      return new Circle(width);
    case 'block':
      return new Box(width, height);
    case 'triangle':
      return new Polygon([new Vec2(-width, height), new Vec2(width, height), new Vec2(0, -height)]);
  }
}

/** An object of about `size` units across; the shapes are made to look equally large. */
function actorOf(object: { colour: ColourName; shape: ShapeName }, size: number): Actor {
  const half = size / 2;
  switch (object.shape) {
    case 'ball':
      return { ...object, halfWidth: half * 1.06, halfHeight: half * 1.06 };
    case 'block':
      return { ...object, halfWidth: half * 0.96, halfHeight: half * 0.96 };
    case 'triangle':
      return { ...object, halfWidth: half * 1.28, halfHeight: half * 1.12 };
  }
}

/** 0 at the start, 1 at the end, with zero speed at both. */
function ease(progress: number): number {
  const p = Math.min(1, Math.max(0, progress));
  return p * p * (3 - 2 * p);
}

/** A colour that neither the object nor any other in the scene has. */
function otherColour(event: Event, random: Random): ColourName {
  const used = new Set([event.object.colour, ...('other' in event ? [event.other.colour] : [])]);
  return random.pick(colourNames.filter((colour) => !used.has(colour)));
}

/** Called before each step of the physics with the share of the clip that has passed, 0..1. */
type Drive = (progress: number, secondsPerStep: number) => void;

/** Moves a weightless body along a path exactly, as an unseen hand would. */
function follow(body: Body, path: (progress: number) => readonly [x: number, y: number]): Drive {
  return (progress, secondsPerStep) => {
    const [x, y] = path(progress + secondsPerStep / clipSeconds);
    const at = body.getPosition();
    body.setLinearVelocity(
      new Vec2((x * metre - at.x) / secondsPerStep, (y * metre - at.y) / secondsPerStep),
    );
  };
}

const wall = 1.7;

/** An open box on the ground around x: left and right wall and a floor. */
function addBox(stage: Stage, x: number, innerWidth: number, height: number): { floor: number; top: number } {
  const top = groundTop - height;
  const left = x - innerWidth / 2 - wall;
  stage.bar({ left, top, width: wall, height });
  stage.bar({ left: x + innerWidth / 2, top, width: wall, height });
  stage.bar({ left, top: groundTop - wall, width: innerWidth + 2 * wall, height: wall });
  return { floor: groundTop - wall, top };
}

/** A table around x: a top and two legs. */
function addTable(stage: Stage, x: number, width: number, top: number): void {
  const leg = 1.5;
  stage.bar({ left: x - width / 2, top, width, height: 1.9 });
  stage.bar({ left: x - width / 2 + 1, top, width: leg, height: groundTop - top });
  stage.bar({ left: x + width / 2 - 1 - leg, top, width: leg, height: groundTop - top });
}

type Setting = {
  readonly stage: Stage;
  readonly event: Event;
  readonly wrongness: Wrongness | null;
  readonly random: Random;
};

function take({ stage, event, wrongness, random }: Setting): Drive {
  const actor = actorOf(event.object, random.between(6.4, 7.2));
  const x = random.between(10, 14);
  const inBox = event.kind === 'take-out-of-box';
  let rest: number;
  let clear: number;
  if (inBox) {
    const height = random.between(6.2, 7.2);
    const { floor, top } = addBox(stage, x, 2 * actor.halfWidth + random.between(2, 2.8), height);
    rest = floor - actor.halfHeight;
    clear = top;
  } else {
    const top = random.between(15, 16.2);
    addTable(stage, x, random.between(12.5, 14), top);
    rest = top - actor.halfHeight;
    clear = top;
  }
  const body = stage.place(actor, x, rest, { weightless: true, solid: false });
  const raised = Math.min(clear - actor.halfHeight - 3.5, random.between(4, 5));
  const delay = random.between(0, 0.1);
  const aside = random.pick([-1, 1]);
  const drift = random.between(-1, 1);
  const through = random.between(8, 9);
  const down = inBox ? 0 : random.between(5.5, 7);
  return follow(body, (progress) => {
    const moved = ease((progress - delay) / 0.85);
    if (wrongness === 'static') return [x, rest];
    if (wrongness === 'passing-through')
      return inBox ? [x + aside * through * moved, rest] : [x, rest + down * moved];
    if (wrongness === 'container-moves') stage.carried = (rest - raised) * 0.75 * moved;
    const up = wrongness === 'container-moves' ? rest - stage.carried : rest + (raised - rest) * moved;
    return [x + drift * moved * moved, up];
  });
}

function hit({ stage, event, wrongness, random }: Setting): Drive {
  if (event.kind !== 'hit') return () => {};
  const size = random.between(6.3, 7);
  const agent = actorOf(event.object, size);
  const target = actorOf(event.other, size);
  const retreats = wrongness === 'wrong-direction';
  const targetX = random.between(13.2, 14.4);
  const agentX = retreats ? targetX - size - random.between(0.8, 1.6) : random.between(3.4, 4.4);
  const speed = wrongness === 'static' ? 0 : retreats ? -random.between(8, 10) : random.between(14, 16.5);
  const restitution = random.between(0.5, 0.8);
  const damping = random.between(0.8, 1.4);
  const solid = wrongness !== 'passing-through';
  const agentBody = stage.place(agent, agentX, groundTop - agent.halfHeight, {
    velocity: [speed, 0],
    weightless: true,
    restitution,
    damping: solid ? 0.2 : 0,
    solid,
  });
  const targetBody = stage.place(target, targetX, groundTop - target.halfHeight, {
    weightless: true,
    restitution,
    damping,
    solid,
  });
  // Weightless bodies slide on the ground as if it were polished; without this, its contact would brake them.
  stage.world.on('pre-solve', (contact) => {
    const bodies = new Set([contact.getFixtureA().getBody(), contact.getFixtureB().getBody()]);
    if (!(bodies.has(agentBody) && bodies.has(targetBody))) contact.setEnabled(false);
  });
  const lift = random.between(15, 20);
  return () => {
    if (wrongness === 'floating' && targetBody.getLinearVelocity().x > 0.1) {
      targetBody.setLinearVelocity(new Vec2(targetBody.getLinearVelocity().x, -lift * metre));
    }
  };
}

function landOn({ stage, event, wrongness, random }: Setting): Drive {
  if (event.kind !== 'land-on') return () => {};
  const actor = actorOf(event.object, random.between(6.2, 6.8));
  const base: Actor = {
    ...event.other,
    halfWidth: random.between(4.4, 5.2),
    halfHeight: random.between(2.9, 3.3),
  };
  const x = random.between(8, 16);
  stage.place(base, x, groundTop - base.halfHeight, { fixed: true });
  const start = random.between(3.6, 4.4);
  const rest = groundTop - 2 * base.halfHeight - actor.halfHeight;
  return drop({ stage, event, wrongness, random }, actor, x + random.between(-1.2, 1.2), start, rest);
}

function fall({ stage, event, wrongness, random }: Setting): Drive {
  const actor = actorOf(event.object, random.between(6.5, 7.5));
  let x = random.between(7, 17);
  const start = random.between(3.8, 5);
  let support = groundTop;
  if (event.kind === 'fall-into-box') {
    const boxX = random.between(9.5, 14.5);
    const innerWidth = 2 * actor.halfWidth + random.between(2, 2.8);
    support = addBox(stage, boxX, innerWidth, random.between(5.2, 6.2)).floor;
    const intoWall = wrongness === 'passing-through' && random.chance(0.5);
    x = boxX + (intoWall ? random.pick([-1, 1]) * (innerWidth / 2 + 0.8) : random.between(-0.6, 0.6));
    if (intoWall) {
      // It cuts through the wall but stops at the ground.
      const body = stage.place(actor, x, start, { solid: false });
      return () => {
        if (body.getPosition().y / metre > groundTop - actor.halfHeight) {
          body.setGravityScale(0);
          body.setLinearVelocity(new Vec2(0, 0));
        }
      };
    }
  }
  return drop({ stage, event, wrongness, random }, actor, x, start, support - actor.halfHeight);
}

/** A fall from `start` to `rest` (y of the centre), or one of the ways to get it wrong. */
function drop(
  { stage, wrongness, random }: Setting,
  actor: Actor,
  x: number,
  start: number,
  rest: number,
): Drive {
  const nudge = random.between(0, 6);
  if (wrongness === 'static') {
    stage.place(actor, x, start, { weightless: true });
    return () => {};
  }
  if (wrongness === 'floating') {
    if (random.chance(0.5)) {
      // It rises from where it should have come to rest.
      const body = stage.place(actor, x, rest - 0.3, { weightless: true, solid: false });
      const top = Math.min(start, rest - 6);
      return follow(body, (progress) => [x, rest - 0.3 + (top - rest) * ease(progress / 0.9)]);
    }
    // It stops in the air on the way down.
    const body = stage.place(actor, x, start, { velocity: [0, nudge] });
    const stop = start + (rest - start) * random.between(0.3, 0.5);
    return () => {
      if (body.getPosition().y / metre < stop) return;
      body.setGravityScale(0);
      body.setLinearVelocity(new Vec2(0, 0));
    };
  }
  stage.place(actor, x, start, {
    velocity: [0, nudge],
    restitution: random.between(0, 0.15),
    solid: wrongness !== 'passing-through',
  });
  return () => {};
}

function push({ stage, event, wrongness, random }: Setting): Drive {
  const actor = actorOf(event.object, random.between(7, 8.2));
  const named = event.kind === 'push-left' ? -1 : 1;
  const direction = wrongness === 'wrong-direction' ? -named : named;
  const distance = random.between(9, 11.5);
  const middle = random.between(11, 13);
  const from = wrongness === 'static' ? random.between(6, 18) : middle - (direction * distance) / 2;
  const rest = groundTop - actor.halfHeight;
  const rise = wrongness === 'floating' ? random.between(6, 9) : 0;
  const body = stage.place(actor, from, rest, { weightless: true, solid: false });
  return follow(body, (progress) => [
    wrongness === 'static' ? from : from + direction * distance * progress,
    rest - rise * ease(progress),
  ]);
}

/** How a soft object's width and height are multiplied over the clip. */
function deform({ stage, event, wrongness, random }: Setting): Drive {
  const actor = actorOf(event.object, random.between(7.8, 8.8));
  const x = random.between(9, 15);
  const squeezes = (event.kind === 'squeeze') !== (wrongness === 'wrong-direction');
  const factor = random.between(1.42, 1.6) ** (squeezes ? 1 : -1);
  const delay = random.between(0, 0.1);
  const swell = random.pick([
    [1.45, 1.45],
    [0.62, 0.62],
    event.kind === 'squeeze' ? [1.7, 1] : [1, 1.7],
  ] as const);
  const body = stage.place(actor, x, groundTop - actor.halfHeight, { weightless: true, solid: false });
  const soft = stage.actors.at(-1);
  return (progress, secondsPerStep) => {
    const moved = ease((progress + secondsPerStep / clipSeconds - delay) / 0.85);
    let [wide, high] = [factor ** moved, factor ** -moved];
    if (wrongness === 'static') [wide, high] = [1, 1];
    if (wrongness === 'area-change') [wide, high] = [swell[0] ** moved, swell[1] ** moved];
    const halfHeight = actor.halfHeight * high;
    // A soft body is outside rigid-body physics: its outline follows the squeeze, standing on the ground.
    if (soft !== undefined) soft.actor = { ...actor, halfWidth: actor.halfWidth * wide, halfHeight };
    body.setPosition(new Vec2(x * metre, (groundTop - halfHeight) * metre));
  };
}

function direct(setting: Setting): Drive {
  switch (setting.event.kind) {
    case 'take-out-of-box':
    case 'take-off-table':
      return take(setting);
    case 'hit':
      return hit(setting);
    case 'land-on':
      return landOn(setting);
    case 'squeeze':
    case 'stretch':
      return deform(setting);
    case 'push-left':
    case 'push-right':
      return push(setting);
    case 'fall-to-ground':
    case 'fall-into-box':
      return fall(setting);
  }
}

/**
 * Plays an event, right or wrong in the named way, and records what each frame shows.
 *
 * @param frames number of frames, 2 or more, spread evenly over {@link clipSeconds}
 */
export function play(
  event: Event,
  wrongness: Wrongness | null,
  random: Random,
  frames: number,
): FrameState[] {
  const stage = new Stage();
  const drive = direct({ stage, event, wrongness, random });
  if (wrongness === 'vanishing' || wrongness === 'colour-change') {
    // At least two frames before and two after, so that there is something to see.
    const from = random.integer(Math.ceil(frames * 0.25), Math.max(2, Math.floor(frames * 0.7)));
    const struck = random.pick(stage.actors);
    struck.mishap = {
      from,
      kind: wrongness === 'vanishing' ? 'vanish' : 'recolour',
      colour: otherColour(event, random),
    };
  }
  const steps = Math.max(1, Math.round((clipSeconds * stepsPerSecond) / (frames - 1)));
  const secondsPerStep = clipSeconds / (frames - 1) / steps;
  const states = [stage.frame(0)];
  for (let index = 1; index < frames; index += 1) {
    for (let step = 0; step < steps; step += 1) {
      drive((index - 1 + step / steps) / (frames - 1), secondsPerStep);
      stage.world.step(secondsPerStep, 6, 3);
    }
    states.push(stage.frame(index));
  }
  return states;
}
