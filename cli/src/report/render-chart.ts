import * as Plot from '@observablehq/plot';
import { parseHTML } from 'linkedom';

// Colours are custom properties of the page, so one picture serves the light and the dark look.
export const beforeColour = 'var(--before)';
export const afterColour = 'var(--after)';
const quietColour = 'var(--rule)';

const { document } = parseHTML('<!doctype html><html><body></body></html>');

/** Width of a chart in its own units; small enough for the labels to stay readable on a telephone. */
const width = 460;

/** A plot as an SVG element for a page with the reports' style sheet. */
export function render(options: Plot.PlotOptions): string {
  const longest = 154;
  const categorical = Array.isArray(options.y?.domain) && typeof options.y.domain[0] === 'string';
  const chart = Plot.plot({
    document,
    width,
    marginLeft: categorical ? longest : 48,
    marginRight: 16,
    marginTop: categorical ? 8 : 28,
    marginBottom: 34,
    style: { background: 'none', fontFamily: 'inherit', fontSize: '13px', overflow: 'visible' },
    className: 'chart',
    ...options,
  });
  chart.setAttribute('role', 'img');
  // The page's own style sheet has the few rules that Plot would repeat in every picture.
  for (const style of chart.querySelectorAll('style')) style.remove();
  for (const grid of chart.querySelectorAll('[aria-label$="-grid"]')) {
    grid.setAttribute('stroke', quietColour);
    grid.setAttribute('stroke-opacity', '1');
  }
  return chart.outerHTML;
}

/** A share as a tick: "52%". */
export function percent(share: number): string {
  return `${Math.round(share * 100)}%`;
}

/** A difference of shares as a tick in points: "+12". */
export function points(difference: number): string {
  const value = Math.round(difference * 100);
  return value > 0 ? `+${value}` : String(value).replace('-', '\u2212');
}
