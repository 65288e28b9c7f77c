import { useEffect, useRef, useState } from 'preact/hooks';
import { isTyping } from '../page/keys.ts';
import { drawFrame, isStrip, stripOf } from './film.ts';
import type { Film } from './film.ts';

/** Where a group of clips stands; all of them show the same frame. */
export interface Playback {
  readonly frame: number;
  readonly frames: number;
  readonly playing: boolean;
  readonly toggle: () => void;
  readonly show: (frame: number) => void;
}

/** A clock for clips that are looked at together. Space plays and stops, comma and full stop go frame by frame. */
export function usePlayback(frames: number, fps: number, playing = true): Playback {
  const [state, setState] = useState({ frame: 0, playing });
  useEffect(() => {
    if (!state.playing || frames < 2) return undefined;
    const timer = setInterval(
      () => {
        setState((before) => ({ ...before, frame: (before.frame + 1) % frames }));
      },
      1000 / Math.max(1, fps),
    );
    return () => clearInterval(timer);
  }, [state.playing, frames, fps]);
  const show = (frame: number): void =>
    setState({ frame: ((frame % frames) + frames) % Math.max(1, frames), playing: false });
  useEffect(() => {
    const onKey = (event: KeyboardEvent): void => {
      if (isTyping(event)) return;
      if (event.key === ' ' && !(event.target instanceof HTMLButtonElement)) {
        event.preventDefault();
        setState((before) => ({ ...before, playing: !before.playing }));
      } else if (event.key === ',' || event.key === '.') {
        const step = event.key === ',' ? frames - 1 : 1;
        setState((before) => ({ frame: (before.frame + step) % Math.max(1, frames), playing: false }));
      }
    };
    addEventListener('keydown', onKey);
    return () => removeEventListener('keydown', onKey);
  }, [frames]);
  return {
    ...state,
    frames,
    toggle: () => setState((before) => ({ ...before, playing: !before.playing })),
    show,
  };
}

/** One clip at the frame that the clock says. */
export function Player({
  film,
  playback,
  label,
}: {
  readonly film: Film | undefined;
  readonly playback: Playback;
  readonly label: string;
}) {
  const canvas = useRef<HTMLCanvasElement>(null);
  const [image, setImage] = useState<HTMLImageElement | undefined>(undefined);
  const [broken, setBroken] = useState(false);
  const strip = film !== undefined && isStrip(film);
  useEffect(() => {
    if (film === undefined || !strip) return undefined;
    let shown = true;
    void (async () => {
      try {
        const made = await stripOf(film.url);
        if (shown) setImage(made);
      } catch {
        if (shown) setBroken(true);
      }
    })();
    return () => {
      shown = false;
    };
  }, [film?.url]);
  useEffect(() => {
    if (canvas.current !== null && film !== undefined && image !== undefined) {
      drawFrame(canvas.current, image, film, Math.min(playback.frame, film.frames - 1));
    }
  }, [image, playback.frame]);
  if (film === undefined || broken) return <div class="no-clip">no clip</div>;
  if (strip) {
    return (
      <canvas
        ref={canvas}
        class="player"
        data-strip={film.url}
        data-frames={film.frames}
        data-fps={film.fps}
        width={film.width}
        height={film.height}
        role="img"
        aria-label={label}
      />
    );
  }
  return film.mediaType.startsWith('video/') ? (
    <Movie film={film} frame={playback.frame} label={label} />
  ) : (
    <img class="player" src={film.url} alt={label} />
  );
}

/**
 * A video at the frame that the clock says. It never plays by itself: it is sought, so that it stays in step with the clips
 * beside it. All its bytes are there before that, because a browser seeks in nothing less without asking for ranges.
 */
function Movie(props: { readonly film: Film; readonly frame: number; readonly label: string }) {
  const { film, frame, label } = props;
  const video = useRef<HTMLVideoElement>(null);
  const [source, setSource] = useState('');
  const [broken, setBroken] = useState(false);
  useEffect(() => {
    const abort = new AbortController();
    let url = '';
    void (async () => {
      try {
        const response = await fetch(film.url, { signal: abort.signal });
        if (!response.ok) throw new Error(`status ${response.status}`);
        url = URL.createObjectURL(await response.blob());
        if (abort.signal.aborted) URL.revokeObjectURL(url);
        else setSource(url);
      } catch {
        if (!abort.signal.aborted) setBroken(true);
      }
    })();
    return () => {
      abort.abort();
      URL.revokeObjectURL(url);
    };
  }, [film.url]);
  const seek = (): void => {
    const element = video.current;
    // In the middle of a frame: at its edge rounding decides between two. While one is sought, the newest waits for it.
    if (element === null || element.readyState === 0 || element.seeking) return;
    const wanted = (Math.min(frame, film.frames - 1) + 0.5) / film.fps;
    if (Math.abs(element.currentTime - wanted) > 0.25 / film.fps) element.currentTime = wanted;
  };
  useEffect(seek, [frame, source]);
  if (broken) return <div class="no-clip">no clip</div>;
  return (
    <video
      ref={video}
      class="player"
      data-source={film.url}
      {...(source === '' ? {} : { src: source })}
      width={film.width}
      height={film.height}
      aria-label={label}
      muted
      playsInline
      preload="auto"
      onLoadedData={seek}
      onSeeked={seek}
      onError={() => setBroken(true)}
    />
  );
}

/** Play, stop, and every frame. */
export function Scrubber({ playback }: { readonly playback: Playback }) {
  const { frame, frames, playing, toggle, show } = playback;
  if (frames < 2) return null;
  return (
    <div class="scrubber">
      <button type="button" onClick={toggle} aria-label={playing ? 'Stop' : 'Play'}>
        {playing ? '❚❚' : '▶'}
      </button>
      <button type="button" onClick={() => show(frame - 1)} aria-label="One frame back">
        ‹
      </button>
      <input
        type="range"
        min={0}
        max={frames - 1}
        value={frame}
        aria-label="Frame"
        onInput={(event) => show(Number(event.currentTarget.value))}
      />
      <button type="button" onClick={() => show(frame + 1)} aria-label="One frame forward">
        ›
      </button>
      <small class="number">
        {frame + 1} / {frames}
      </small>
    </div>
  );
}
