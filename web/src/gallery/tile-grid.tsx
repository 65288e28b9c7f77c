import { elementScroll, observeElementOffset, observeElementRect, Virtualizer } from '@tanstack/virtual-core';
import type { Sample } from '@plumb/proto/plumb/loop/v1/loop_pb.js';
import { useEffect, useLayoutEffect, useReducer, useRef, useState } from 'preact/hooks';
import { isTyping } from '../page/keys.ts';
import { isStrip, play } from './film.ts';
import type { SamplePages } from './sample-pages.ts';
import { filmOf, scoreOf, verdictOf } from './sample-words.ts';

/** Most tiles that are in the page at a time: with the grid itself and what gives it its height, 60 elements. */
const mostTiles = 58;
const smallestTile = 104;
const gap = 8;
/** Rows above and below what is seen. */
const overscan = 1;

/** A grid of clips of which only those are in the page that are seen. Arrow keys move, Enter opens. */
export function TileGrid(props: {
  readonly pages: SamplePages;
  readonly total: number;
  /** The reward whose value is the verdict. */
  readonly reward: string;
  readonly onOpen: (sample: Sample) => void;
}) {
  const { pages, total, reward, onOpen } = props;
  const scroller = useRef<HTMLDivElement>(null);
  const [, rerender] = useReducer((turn: number) => turn + 1, 0);
  const [size, setSize] = useState({ width: 0, height: 0 });
  const [focused, setFocused] = useState(0);
  const { columns, tile } = layout(size);
  const rows = Math.ceil(total / columns);

  const [virtualizer] = useState(
    () =>
      new Virtualizer<HTMLDivElement, Element>({
        count: 0,
        getScrollElement: () => scroller.current,
        estimateSize: () => tile + gap,
        scrollToFn: elementScroll,
        observeElementRect,
        observeElementOffset,
        onChange: () => rerender(undefined),
        overscan,
      }),
  );
  virtualizer.setOptions({
    ...virtualizer.options,
    count: rows,
    estimateSize: () => tile + gap,
  });
  useLayoutEffect(() => virtualizer._didMount(), []);
  useLayoutEffect(() => virtualizer._willUpdate());
  useLayoutEffect(() => virtualizer.measure(), [tile]);
  // A clip that is opened makes room for what is known of it, and must not get lost by that.
  useLayoutEffect(() => {
    if (focused > 0) virtualizer.scrollToIndex(Math.floor(focused / columns), { align: 'center' });
  }, [columns]);
  useLayoutEffect(() => {
    const element = scroller.current;
    if (element === null) return undefined;
    const observer = new ResizeObserver(() => {
      setSize({ width: element.clientWidth, height: element.clientHeight });
    });
    observer.observe(element);
    return () => observer.disconnect();
  }, []);

  const move = (event: KeyboardEvent): void => {
    if (isTyping(event)) return;
    const steps: Readonly<Record<string, number>> = {
      ArrowLeft: -1,
      ArrowRight: 1,
      ArrowUp: -columns,
      ArrowDown: columns,
      PageUp: -columns * 4,
      PageDown: columns * 4,
      Home: -total,
      End: total,
    };
    const step = steps[event.key];
    if (step !== undefined) {
      event.preventDefault();
      const next = Math.max(0, Math.min(total - 1, focused + step));
      setFocused(next);
      virtualizer.scrollToIndex(Math.floor(next / columns));
      // The tile may come into the page with this very scroll.
      requestAnimationFrame(() => {
        scroller.current
          ?.querySelector<HTMLElement>(`[data-index="${next}"]`)
          ?.focus({ preventScroll: true });
      });
    } else if (event.key === 'Enter') {
      const sample = pages.at(focused);
      if (sample !== undefined) onOpen(sample);
    }
  };

  const tiles = virtualizer.getVirtualItems().flatMap(({ index: row, start }) =>
    Array.from({ length: columns }, (_, column) => ({
      index: row * columns + column,
      x: column * (tile + gap),
      y: start,
    })).filter(({ index }) => index < total),
  );
  return (
    <div class="tiles" ref={scroller} onKeyDown={move} role="group" aria-label={`${total} clips`}>
      <div style={{ height: `${rows * (tile + gap)}px`, width: `${columns * (tile + gap) - gap}px` }}>
        {size.width > 0 &&
          tiles.map(({ index, x, y }) => (
            <Tile
              key={index}
              index={index}
              sample={pages.at(index)}
              reward={reward}
              place={{ transform: `translate(${x}px, ${y}px)`, width: `${tile}px`, height: `${tile}px` }}
              current={index === focused}
              onOpen={(sample) => {
                setFocused(index);
                onOpen(sample);
              }}
            />
          ))}
      </div>
    </div>
  );
}

/** One clip. A canvas and nothing else: everything that is said of it is in its border and its name. */
function Tile(props: {
  readonly index: number;
  readonly sample: Sample | undefined;
  readonly reward: string;
  readonly place: Readonly<Record<string, string>>;
  readonly current: boolean;
  readonly onOpen: (sample: Sample) => void;
}) {
  const { index, sample, reward, place, current, onOpen } = props;
  const canvas = useRef<HTMLCanvasElement>(null);
  const film = sample === undefined ? undefined : filmOf(sample);
  useEffect(() => {
    if (canvas.current === null || film === undefined || !isStrip(film)) return undefined;
    return play(canvas.current, film);
  }, [film?.url]);
  const verdict = sample === undefined ? 'pending' : verdictOf(sample, reward);
  const score = sample === undefined ? undefined : scoreOf(sample, reward);
  const value = score?.outcome.case === 'value' ? `, ${reward} ${score.outcome.value.toFixed(2)}` : '';
  const name = sample === undefined ? 'coming' : `${verdict}: ${sample.prompt?.text ?? ''}${value}`;
  const common = {
    'data-clip': sample?.id ?? '',
    'data-index': index,
    class: `tile ${verdict}`,
    style: place,
    tabIndex: current ? 0 : -1,
    role: 'button',
    title: name,
    'aria-label': name,
    onClick: () => {
      if (sample !== undefined) onOpen(sample);
    },
  } as const;
  if (film !== undefined && !isStrip(film)) {
    return film.mediaType.startsWith('video/') ? (
      <video {...common} role="application" src={film.url} muted loop autoplay playsInline />
    ) : (
      <img {...common} src={film.url} alt={name} />
    );
  }
  return <canvas {...common} ref={canvas} width={film?.width ?? 1} height={film?.height ?? 1} />;
}

/** Columns and size of tiles, so that what is seen and what waits above and below stay few enough. */
function layout({ width, height }: { readonly width: number; readonly height: number }): {
  readonly columns: number;
  readonly tile: number;
} {
  if (width === 0) return { columns: 1, tile: smallestTile };
  for (let tile = smallestTile; ; tile += 4) {
    const columns = Math.max(1, Math.floor((width + gap) / (tile + gap)));
    const fitted = Math.floor((width + gap) / columns) - gap;
    // One more than fits, for a row that is cut at either end.
    const rows = Math.ceil(height / (fitted + gap)) + 1 + 2 * overscan;
    if (columns * rows <= mostTiles || columns === 1) return { columns, tile: fitted };
  }
}
