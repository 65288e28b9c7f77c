/*
 * Clips are PNG film strips, the frames stacked from top to bottom. One clock plays all that are on the page, each on a
 * canvas of its own that holds one frame, so that ten thousand clips cost no more than those that are seen.
 */

/** What is needed to show a clip. */
export interface Film {
  /** Signed path. */
  readonly url: string;
  readonly mediaType: string;
  readonly width: number;
  readonly height: number;
  readonly frames: number;
  readonly fps: number;
}

/** True for clips that are drawn frame by frame; the browser itself plays others. */
export function isStrip({ mediaType }: Pick<Film, 'mediaType'>): boolean {
  return mediaType === 'image/png';
}

const mostPictures = 240;
const pictures = new Map<string, Promise<HTMLImageElement>>();

/** The strip of a clip; the most recent ones are kept. */
export async function stripOf(url: string): Promise<HTMLImageElement> {
  const known = pictures.get(url);
  const picture = known ?? load(url);
  pictures.delete(url);
  pictures.set(url, picture);
  if (pictures.size > mostPictures) {
    const [oldest] = pictures.keys();
    if (oldest !== undefined) pictures.delete(oldest);
  }
  try {
    return await picture;
  } catch (thrown) {
    pictures.delete(url);
    throw thrown;
  }
}

async function load(url: string): Promise<HTMLImageElement> {
  const image = new Image();
  image.src = url;
  await image.decode();
  return image;
}

/** A canvas that shows a clip. */
interface Screen {
  readonly film: Film;
  readonly image: HTMLImageElement;
  shown: number;
}

const screens = new Map<HTMLCanvasElement, Screen>();
let running = 0;
let startedAt = 0;

/** Plays a clip on a canvas until the function that it gives is called. */
export function play(canvas: HTMLCanvasElement, film: Film): () => void {
  let stopped = false;
  canvas.width = film.width;
  canvas.height = film.height;
  void (async () => {
    try {
      const image = await stripOf(film.url);
      if (stopped) return;
      screens.set(canvas, { film, image, shown: -1 });
      if (running === 0) {
        startedAt = performance.now();
        running = requestAnimationFrame(tick);
      }
    } catch {
      // A broken picture is drawn as one: the tile's border still says what was judged.
      if (!stopped) canvas.dataset['broken'] = '';
    }
  })();
  return () => {
    stopped = true;
    screens.delete(canvas);
  };
}

/** Draws one frame of a strip. */
export function drawFrame(
  canvas: HTMLCanvasElement,
  image: HTMLImageElement,
  film: Film,
  frame: number,
): void {
  const context = canvas.getContext('2d');
  if (context === null) return;
  context.drawImage(
    image,
    0,
    frame * film.height,
    film.width,
    film.height,
    0,
    0,
    canvas.width,
    canvas.height,
  );
}

// Who asks for less motion gets the middle of each clip, still.
const still = matchMedia('(prefers-reduced-motion: reduce)');

function tick(now: number): void {
  if (screens.size === 0) {
    running = 0;
    return;
  }
  for (const [canvas, screen] of screens) {
    const { film, image, shown } = screen;
    const frame = still.matches
      ? Math.floor(film.frames / 2)
      : Math.floor(((now - startedAt) / 1000) * film.fps) % film.frames;
    if (frame === shown) continue;
    drawFrame(canvas, image, film, frame);
    screen.shown = frame;
  }
  running = requestAnimationFrame(tick);
}
