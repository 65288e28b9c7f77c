import { createCanvas } from '@napi-rs/canvas';
import type { SKRSContext2D } from '@napi-rs/canvas';
import type { Clip } from '@plumb/media';
import { cssColour, grey, greys } from './palette.ts';
import type { FrameState, ObjectState } from './world.ts';
import { groundTop, worldSize } from './world.ts';

/** One canvas holds all frames of a clip, one below the other, so that pixels are read back once. */
let strip: { size: number; frames: number; context: SKRSContext2D } | undefined;

function stripOf(size: number, frames: number): SKRSContext2D {
  if (strip?.size !== size || strip.frames !== frames) {
    const context = createCanvas(size, size * frames).getContext('2d');
    strip = { size, frames, context };
  }
  return strip.context;
}

function trace(context: SKRSContext2D, { shape, x, y, halfWidth, halfHeight }: ObjectState): void {
  context.beginPath();
  switch (shape) {
    case 'ball':
      context.ellipse(x, y, halfWidth, halfHeight, 0, 0, 2 * Math.PI);
      break;
    case 'block':
      context.rect(x - halfWidth, y - halfHeight, 2 * halfWidth, 2 * halfHeight);
      break;
    case 'triangle':
      context.moveTo(x - halfWidth, y + halfHeight);
      context.lineTo(x + halfWidth, y + halfHeight);
      context.lineTo(x, y - halfHeight);
      context.closePath();
      break;
  }
  context.fill();
}

/** Draws frames with antialiased edges. The clip is `size` by `size` pixels. */
export function draw(states: readonly FrameState[], size: number, fps: number): Clip {
  const context = stripOf(size, states.length);
  const scale = size / worldSize;
  states.forEach((state, index) => {
    context.save();
    context.beginPath();
    context.rect(0, index * size, size, size);
    context.clip();
    context.translate(0, index * size);
    context.scale(scale, scale);
    context.fillStyle = cssColour(grey(greys.background));
    context.fillRect(0, 0, worldSize, worldSize);
    context.fillStyle = cssColour(grey(greys.ground));
    context.fillRect(0, groundTop, worldSize, worldSize - groundTop);
    context.fillStyle = cssColour(grey(greys.furniture));
    for (const bar of state.bars) context.fillRect(bar.left, bar.top, bar.width, bar.height);
    for (const object of state.objects) {
      context.fillStyle = cssColour(object.colour);
      trace(context, object);
    }
    context.restore();
  });
  const rgba = context.getImageData(0, 0, size, size * states.length).data;
  const pixels = size * size * states.length;
  const data = new Uint8Array(pixels * 3);
  for (let pixel = 0; pixel < pixels; pixel += 1) {
    data[pixel * 3] = rgba[pixel * 4] ?? 0;
    data[pixel * 3 + 1] = rgba[pixel * 4 + 1] ?? 0;
    data[pixel * 3 + 2] = rgba[pixel * 4 + 2] ?? 0;
  }
  return { frames: states.length, height: size, width: size, fps, data };
}
