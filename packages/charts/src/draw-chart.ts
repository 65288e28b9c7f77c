import * as Plot from '@observablehq/plot';

// Colours are custom properties of the page, so one picture serves the light and the dark look.
export const beforeColour = 'var(--before)';
export const afterColour = 'var(--after)';
const quietColour = 'var(--rule)';

/** What a chart shows, before anybody draws it. */
export type ChartOptions = Plot.PlotOptions;

/** Width of a chart in its own units; small enough for the labels to stay readable on a telephone. */
const width = 460;

/**
 * Draws a chart as an SVG element for a page with the reports' style sheet.
 * @param document whose element it becomes; the page's own without it
 */
export function drawChart(
  options: ChartOptions,
  document?: Plot.PlotOptions['document'],
): ReturnType<typeof Plot.plot> {
  const longest = 154;
  const categorical = Array.isArray(options.y?.domain) && typeof options.y.domain[0] === 'string';
  const chart = Plot.plot({
    ...(document === undefined ? {} : { document }),
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
  // One picture with one name: what it is made of is nothing that a screen reader could use.
  for (const part of chart.querySelectorAll('[aria-label], [aria-description]')) {
    part.removeAttribute('aria-label');
    part.removeAttribute('aria-description');
  }
  return chart;
}
