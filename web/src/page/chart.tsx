import type { ChartOptions } from '@plumb/charts';
import { useEffect, useRef } from 'preact/hooks';

/** A chart of the reports, drawn here. The library is fetched when the first chart is shown. */
export function Chart({ options, height }: { readonly options: ChartOptions; readonly height: number }) {
  const place = useRef<HTMLDivElement>(null);
  useEffect(() => {
    let shown = true;
    void (async () => {
      const { drawChart } = await import('@plumb/charts');
      if (shown) place.current?.replaceChildren(drawChart(options));
    })();
    return () => {
      shown = false;
    };
  }, [options]);
  // The height is held, so that nothing jumps when the chart comes.
  return <div class="chart-place" ref={place} style={{ minHeight: `${height}px` }} />;
}
