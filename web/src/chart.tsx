import type * as Charts from '@plumb/charts';
import { useEffect, useRef } from 'preact/hooks';

/** Widths that charts are made for, in pixels. */
const narrowest = 320;
const widest = 660;

/** A chart of the reports, drawn here. The library is fetched when the first chart is shown. */
export function Chart(props: {
  /** Makes the chart of what it closes over. */
  readonly make: (charts: typeof Charts) => Charts.ChartOptions | undefined;
  /** What it closes over: the chart is drawn anew when one of these changes. */
  readonly of: readonly unknown[];
  readonly height: number;
}) {
  const place = useRef<HTMLDivElement>(null);
  useEffect(() => {
    let shown = true;
    void (async () => {
      const charts = await import('@plumb/charts');
      const options = props.make(charts);
      const element = place.current;
      if (!shown || element === null) return;
      // In its own size up to a point: letters stay as large as those of the page.
      const width = Math.max(narrowest, Math.min(widest, element.clientWidth));
      if (options === undefined) element.replaceChildren();
      else element.replaceChildren(charts.drawChart({ width, ...fitted(options, width) }));
    })();
    return () => {
      shown = false;
    };
  }, [...props.of]);
  // The height is held, so that nothing jumps when the chart comes.
  return <div class="chart-place" ref={place} style={{ minHeight: `${props.height}px` }} />;
}

/** Fewer ticks where there is little room for their labels. */
function fitted(options: Charts.ChartOptions, width: number): Charts.ChartOptions {
  const ticks = options.x?.ticks;
  return width > 420 || typeof ticks !== 'number' ? options : { ...options, x: { ...options.x, ticks: 3 } };
}
