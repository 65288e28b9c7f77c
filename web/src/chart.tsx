import type { ChartOptions } from '@plumb/charts';
import { useEffect, useRef } from 'preact/hooks';

type Charts = typeof import('@plumb/charts');

/** A chart of the reports, drawn here. The library is fetched when the first chart is shown. */
export function Chart(props: {
  /** Makes the chart of what it closes over. */
  readonly make: (charts: Charts) => ChartOptions | undefined;
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
      if (shown)
        place.current?.replaceChildren(...(options === undefined ? [] : [charts.drawChart(options)]));
    })();
    return () => {
      shown = false;
    };
  }, props.of as unknown[]);
  // The height is held, so that nothing jumps when the chart comes.
  return <div class="chart-place" ref={place} style={{ minHeight: `${props.height}px` }} />;
}
