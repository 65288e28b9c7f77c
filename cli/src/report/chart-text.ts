import { drawChart } from '@plumb/charts';
import type { ChartOptions } from '@plumb/charts';
import { parseHTML } from 'linkedom';

const { document } = parseHTML('<!doctype html><html><body></body></html>');

/** A chart as the text of an SVG element; undefined stays undefined. */
export function chartText<Options extends ChartOptions | undefined>(
  options: Options,
): Options extends undefined ? undefined : string;
export function chartText(options: ChartOptions | undefined): string | undefined {
  return options === undefined ? undefined : drawChart(options, document).outerHTML;
}
