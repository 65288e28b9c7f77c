/** A colour as red, green and blue, each 0..1 (sRGB values, no linearisation). */
export type Rgb = readonly [red: number, green: number, blue: number];

/** The colours that captions can name. */
export const colourNames = ['red', 'yellow', 'green', 'cyan', 'blue', 'purple'] as const;
export type ColourName = (typeof colourNames)[number];

/** Strong colours with hues 45 degrees or more apart, so that a noisy pixel still belongs to one of them. */
export const palette: Readonly<Record<ColourName, Rgb>> = {
  red: [0.88, 0.16, 0.14],
  yellow: [0.95, 0.78, 0.06],
  green: [0.14, 0.66, 0.22],
  cyan: [0.08, 0.74, 0.8],
  blue: [0.16, 0.28, 0.88],
  purple: [0.62, 0.16, 0.76],
};

/**
 * Everything that is not an object is an exactly neutral grey. The referee can then read how much of a pixel an
 * object covers from its chroma alone, whatever grey lies behind it.
 */
export const greys = { background: 0.86, ground: 0.64, furniture: 0.34 } as const;

/** A CSS colour for the canvas. */
export function cssColour([red, green, blue]: Rgb): string {
  return `rgb(${Math.round(red * 255)},${Math.round(green * 255)},${Math.round(blue * 255)})`;
}

/** A grey as {@link Rgb}. */
export function grey(level: number): Rgb {
  return [level, level, level];
}
