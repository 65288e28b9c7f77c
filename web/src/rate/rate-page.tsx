import { LabelKind } from '@plumb/proto/plumb/loop/v1/label_pb.js';
import type { GetRatingQueueResponse, RatingClip, RatingItem } from '@plumb/proto/plumb/loop/v1/label_pb.js';
import { useEffect, useLayoutEffect, useRef, useState } from 'preact/hooks';
import { errorText, labels, signedOut } from '../api.ts';
import { stripOf } from '../gallery/film.ts';
import type { Film } from '../gallery/film.ts';
import { Player, Scrubber, usePlayback } from '../gallery/player.tsx';
import { isTyping } from '../page/keys.ts';
import { useTitle } from '../page/title.ts';
import { AnswerQueue, holdUp, waiting } from './answer-queue.ts';

/** Why a clip is rejected, by the key that says so. */
const modes = [
  ['1', 'static', 'nothing moves'],
  ['2', 'wrong_direction', 'wrong direction'],
  ['3', 'vanished', 'something vanished'],
  ['4', 'interpenetrated', 'things pass through each other'],
  ['5', 'wrong_colour', 'wrong colour'],
  ['6', 'wrong_count', 'wrong count'],
  ['7', 'other', 'something else'],
] as const;

/** Clips that are fetched before they are seen. */
const ahead = 6;

interface Given {
  readonly accept?: boolean;
  readonly preferred?: number;
  readonly failureMode: string;
}

/** One rater's page: a clip, a key, the next clip. It says nothing of models, verdicts or truths. */
export function RatePage() {
  useTitle('Rating');
  const [queue, setQueue] = useState<GetRatingQueueResponse | undefined>(undefined);
  const [problem, setProblem] = useState('');
  const [answers, setAnswers] = useState<ReadonlyMap<number, Given>>(new Map());
  const [at, setAt] = useState(0);
  const store = useRef<AnswerQueue | undefined>(undefined);

  useEffect(() => {
    const abort = new AbortController();
    void (async () => {
      try {
        const found = await labels.getRatingQueue({}, { signal: abort.signal });
        const opened = await AnswerQueue.open(found.sessionId, found.rater);
        if (abort.signal.aborted) {
          opened.close();
          return;
        }
        store.current = opened;
        const known = new Map<number, Given>();
        for (const { item, answer } of found.items) {
          const value = answer?.answer;
          if (value?.case === 'accept')
            known.set(item, { accept: value.value, failureMode: answer?.failureMode ?? '' });
          if (value?.case === 'preferred') known.set(item, { preferred: value.value, failureMode: '' });
        }
        // What this browser has not sent yet is newer than what the service knows.
        for (const { item, accept, preferred, failureMode, withdrawn } of await opened.left()) {
          if (withdrawn === true) known.delete(item);
          else
            known.set(item, {
              failureMode,
              ...(accept === undefined ? {} : { accept }),
              ...(preferred === undefined ? {} : { preferred }),
            });
        }
        setAnswers(known);
        setAt(firstOpen(found.items, known, 0));
        setQueue(found);
      } catch (thrown) {
        if (!abort.signal.aborted) setProblem(errorText(thrown));
      }
    })();
    return () => {
      abort.abort();
      store.current?.close();
    };
  }, []);

  if (signedOut.value || problem !== '') {
    return (
      <main class="sign-in">
        <h1>{signedOut.value ? 'This link does not hold any more' : 'This does not work'}</h1>
        <p>
          {signedOut.value
            ? 'Ask whoever sent it to you for a new one. Answers that you gave are safe.'
            : problem}
        </p>
      </main>
    );
  }
  if (queue === undefined) return <main class="rate" aria-busy="true" />;
  const { items } = queue;
  const item = items[at];
  const done = items.filter((one) => answers.has(one.item)).length;

  const give = (given: Given): void => {
    if (item === undefined) return;
    const next = new Map(answers).set(item.item, given);
    void store.current?.add({ item: item.item, ...given });
    setAnswers(next);
    setAt(firstOpen(items, next, at + 1));
  };
  const undo = (): void => {
    const last = previousAnswered(items, answers, at);
    if (last === undefined) return;
    const next = new Map(answers);
    const place = items[last];
    if (place === undefined) return;
    next.delete(place.item);
    void store.current?.add({ item: place.item, withdrawn: true, failureMode: '' });
    setAnswers(next);
    setAt(last);
  };
  return (
    <main class="rate">
      <Keys kind={queue.kind} give={give} undo={undo} />
      <header>
        <h1>{queue.name}</h1>
        <span
          class="progress"
          role="progressbar"
          aria-label="Answered"
          aria-valuemin={0}
          aria-valuemax={items.length}
          aria-valuenow={done}
        >
          <span style={{ width: `${(done / Math.max(1, items.length)) * 100}%` }} />
        </span>
        <span class="number">
          {done} / {items.length}
        </span>
        <span class={`saved ${waiting.value > 0 ? 'waiting' : ''}`} role="status">
          {waiting.value === 0
            ? 'all saved'
            : `${waiting.value} kept here${holdUp.value === '' ? '' : `: ${holdUp.value}`}`}
        </span>
      </header>
      {item === undefined ? (
        <section class="thanks">
          <h2>That was all. Thank you.</h2>
          <p>
            {waiting.value === 0
              ? 'Every answer has arrived; this page can be closed.'
              : 'Leave this page open until all answers are saved.'}
          </p>
          <button type="button" onClick={undo}>
            Undo the last answer (u)
          </button>
        </section>
      ) : (
        <Question
          key={item.item}
          item={item}
          upcoming={items.slice(at + 1, at + 1 + ahead)}
          kind={queue.kind}
          give={give}
        />
      )}
    </main>
  );
}

function Question(props: {
  readonly item: RatingItem;
  readonly upcoming: readonly RatingItem[];
  readonly kind: LabelKind;
  readonly give: (given: Given) => void;
}) {
  const { item, upcoming, kind, give } = props;
  const first = item.clips[0];
  const playback = usePlayback(first?.frameCount ?? 1, first?.fps ?? 8);
  useEffect(() => {
    for (const { clips } of upcoming) {
      // One that cannot be had is shown as missing when its turn comes.
      for (const { url, mediaType } of clips)
        if (mediaType === 'image/png') stripOf(url).catch(() => undefined);
    }
  }, []);
  const verdict = kind === LabelKind.VERDICT;
  return (
    <section class="question" aria-labelledby="prompt">
      <h2 id="prompt">{item.prompt}</h2>
      <div class={verdict ? 'players' : 'players two'}>
        {item.clips.map((clip, index) => (
          <figure key={clip.url}>
            <Player
              film={filmOf(clip)}
              playback={playback}
              label={verdict ? 'The clip' : index === 0 ? 'Left clip' : 'Right clip'}
            />
          </figure>
        ))}
      </div>
      <Scrubber playback={playback} />
      {verdict ? (
        <div class="answers">
          <button type="button" class="accept" onClick={() => give({ accept: true, failureMode: '' })}>
            <kbd>a</kbd> Accept: it shows what it says, as the world would
          </button>
          <div class="modes" role="group" aria-label="Reject, because">
            {modes.map(([key, mode, words]) => (
              <button
                key={key}
                type="button"
                class="reject"
                onClick={() => give({ accept: false, failureMode: mode })}
              >
                <kbd>{key}</kbd> {words}
              </button>
            ))}
          </div>
        </div>
      ) : (
        <div class="answers pair">
          <button type="button" onClick={() => give({ preferred: 0, failureMode: '' })}>
            <kbd>←</kbd> The left one is better
          </button>
          <button type="button" onClick={() => give({ preferred: 1, failureMode: '' })}>
            The right one is better <kbd>→</kbd>
          </button>
        </div>
      )}
      <p class="soft keys">
        <kbd>u</kbd> undo · <kbd>space</kbd> play, stop · <kbd>,</kbd> <kbd>.</kbd> frame by frame
      </p>
    </section>
  );
}

/** Answers by key. One listener for all clips: between one clip and the next no key is lost. */
function Keys(props: {
  readonly kind: LabelKind;
  readonly give: (given: Given) => void;
  readonly undo: () => void;
}) {
  const latest = useRef(props);
  latest.current = props;
  useLayoutEffect(() => {
    const onKey = (event: KeyboardEvent): void => {
      if (isTyping(event) || event.repeat) return;
      const { kind, give, undo } = latest.current;
      const key = event.key.toLowerCase();
      const mode = modes.find(([digit]) => digit === key)?.[1];
      if (key === 'u' || key === 'backspace') undo();
      else if (kind === LabelKind.VERDICT && key === 'a') give({ accept: true, failureMode: '' });
      else if (kind === LabelKind.VERDICT && mode !== undefined) give({ accept: false, failureMode: mode });
      else if (kind === LabelKind.PREFERENCE && key === 'arrowleft') give({ preferred: 0, failureMode: '' });
      else if (kind === LabelKind.PREFERENCE && key === 'arrowright') give({ preferred: 1, failureMode: '' });
      else return;
      event.preventDefault();
    };
    addEventListener('keydown', onKey);
    return () => removeEventListener('keydown', onKey);
  }, []);
  return null;
}

function filmOf({ url, mediaType, width, height, frameCount, fps }: RatingClip): Film {
  return { url, mediaType, width, height, frames: frameCount, fps };
}

/** The next item without an answer from a place on, then from the beginning; past the end when there is none. */
function firstOpen(items: readonly RatingItem[], answers: ReadonlyMap<number, Given>, from: number): number {
  for (let step = 0; step < items.length; step += 1) {
    const place = (from + step) % items.length;
    const item = items[place];
    if (item !== undefined && !answers.has(item.item)) return place;
  }
  return items.length;
}

function previousAnswered(
  items: readonly RatingItem[],
  answers: ReadonlyMap<number, Given>,
  at: number,
): number | undefined {
  for (let place = Math.min(at, items.length) - 1; place >= 0; place -= 1) {
    const item = items[place];
    if (item !== undefined && answers.has(item.item)) return place;
  }
  return undefined;
}
