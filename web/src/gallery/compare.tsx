import type { Sample } from '@plumb/proto/plumb/loop/v1/loop_pb.js';
import { useLocation, useRoute } from 'preact-iso';
import { useEffect, useState } from 'preact/hooks';
import { errorText, loop } from '../api.ts';
import { useTitle } from '../page/title.ts';
import { RunFrame } from '../runs/run-frame.tsx';
import { useRun } from '../runs/use-run.ts';
import { categoryOptions, Choice, Search } from './filters.tsx';
import { Player, Scrubber, usePlayback } from './player.tsx';
import { categoryNames, filmOf, modeWords, scoreOf, verdictOf } from './sample-words.ts';

interface Pair {
  readonly before: Sample;
  readonly after: Sample;
}

const shownAtOnce = 12;
/** Held-out samples of one call. */
const pageSize = 500;

const choices = [
  ['', 'All'],
  ['changed', 'Changed'],
  ['better', 'Better'],
  ['worse', 'Worse'],
] as const;

/** The two models' clips of the same prompts and noise, side by side and in step. */
export function Compare() {
  const id = useRoute().params['id'] ?? '';
  const { query, route, path } = useLocation();
  const { run, progress, problem } = useRun(id);
  const [pairs, setPairs] = useState<readonly Pair[] | undefined>(undefined);
  const [trouble, setTrouble] = useState('');
  const [shown, setShown] = useState(shownAtOnce);
  useTitle(`Before and after: ${run?.spec?.name ?? id}`);
  const chosen = Number(query['iteration'] ?? '') || undefined;
  const iteration = chosen ?? run?.iteration;
  useEffect(() => {
    if (iteration === undefined) return undefined;
    const abort = new AbortController();
    void (async () => {
      try {
        setPairs(await pairsOf(id, iteration, abort.signal));
        setTrouble('');
      } catch (thrown) {
        if (!abort.signal.aborted) setTrouble(errorText(thrown));
      }
    })();
    return () => abort.abort();
  }, [id, iteration, progress]);
  const set = (changes: Readonly<Record<string, string>>): void => {
    setShown(shownAtOnce);
    const next = new URLSearchParams(
      Object.entries({ ...query, ...changes }).filter(([, value]) => value !== ''),
    );
    route(next.size === 0 ? path : `${path}?${next.toString()}`, true);
  };
  const category = query['category'] ?? '';
  const words = query['prompt'] ?? '';
  const reward = run?.spec?.evaluation?.reward ?? '';
  const choice = query['show'] ?? '';
  const wanted = (pairs ?? []).filter(({ before, after }) => {
    const { prompt } = before;
    if (category !== '' && String(prompt?.category) !== category) return false;
    if (!`${prompt?.text} ${prompt?.id}`.toLowerCase().includes(words.toLowerCase())) return false;
    const [was, is] = [verdictOf(before, reward), verdictOf(after, reward)];
    if (choice === '') return true;
    if (was === is) return false;
    return choice === 'changed' || (choice === 'better') === (is === 'accepted');
  });
  const first = pairs?.find(({ before }) => before.video !== undefined)?.before.video;
  const playback = usePlayback(first?.frameCount ?? 1, first?.fps ?? 8);
  return (
    <RunFrame id={id} run={run}>
      {(problem || trouble) !== '' && <p class="problem">{problem || trouble}</p>}
      <form class="filters" role="search" aria-label="Pairs" onSubmit={(event) => event.preventDefault()}>
        <label class="wide">
          Prompt
          <Search value={words} onChange={(value) => set({ prompt: value })} />
        </label>
        <Choice
          name="Category"
          value={category}
          onChange={(value) => set({ category: value })}
          options={categoryOptions}
        />
        {run !== undefined && run.iteration > 1 && (
          <Choice
            name="Iteration"
            value={query['iteration'] ?? ''}
            any="latest"
            onChange={(value) => set({ iteration: value })}
            options={Array.from({ length: run.iteration }, (_, index) => [
              String(index + 1),
              String(index + 1),
            ])}
          />
        )}
      </form>
      <div class="compare-bar">
        <div class="segments" role="group" aria-label="Pairs">
          {choices.map(([value, name]) => (
            <button
              key={value}
              type="button"
              aria-pressed={choice === value}
              onClick={() => set({ show: value })}
            >
              {name}
            </button>
          ))}
        </div>
        <Scrubber playback={playback} />
        <p class="soft" role="status">
          {pairs === undefined ? 'Looking …' : `${wanted.length} pairs`}
        </p>
      </div>
      {pairs?.length === 0 && <p class="empty">The candidate has drawn no held-out clips yet.</p>}
      {(pairs?.length ?? 0) > 0 && wanted.length === 0 && <p class="empty">No pair is like that.</p>}
      <ul class="pairs">
        {wanted.slice(0, shown).map(({ before, after }) => {
          const changed = verdictOf(before, reward) !== verdictOf(after, reward);
          const better = changed && verdictOf(after, reward) === 'accepted';
          return (
            <li key={before.id} class={`pair card ${changed ? (better ? 'better' : 'worse') : ''}`}>
              <div class="players two">
                {[before, after].map((sample) => (
                  <a key={sample.id} href={`/runs/${id}/clips?sample=${sample.id}`}>
                    <figure class={verdictOf(sample, reward)}>
                      <Player
                        film={filmOf(sample)}
                        playback={playback}
                        label={`${sample.group}: ${sample.prompt?.text ?? ''}`}
                      />
                      <figcaption>
                        {sample.group}
                        <span class={`verdict ${verdictOf(sample, reward)}`}>
                          {verdictOf(sample, reward)}
                        </span>
                      </figcaption>
                    </figure>
                  </a>
                ))}
              </div>
              <p class="prompt">{before.prompt?.text}</p>
              <p class="soft">
                {categoryNames[before.prompt?.category ?? 0]}
                {[before, after].map((sample) => {
                  const mode = scoreOf(sample, reward)?.failureMode ?? '';
                  return mode === '' ? '' : ` · ${sample.group}: ${modeWords(mode)}`;
                })}
              </p>
            </li>
          );
        })}
      </ul>
      {wanted.length > shown && (
        <p class="more">
          <button type="button" onClick={() => setShown(shown + shownAtOnce)}>
            {shownAtOnce} more
          </button>
        </p>
      )}
    </RunFrame>
  );
}

async function pairsOf(runId: string, iteration: number, signal: AbortSignal): Promise<Pair[]> {
  const [before, after] = await Promise.all(
    ['before', 'after'].map((group) => samplesOf(runId, iteration, group, signal)),
  );
  const key = ({ prompt, sampleIndex }: Sample): string => `${prompt?.id ?? ''} ${sampleIndex}`;
  const partners = new Map((after ?? []).map((sample) => [key(sample), sample]));
  return (before ?? []).flatMap((sample) => {
    const partner = partners.get(key(sample));
    return partner === undefined ? [] : [{ before: sample, after: partner }];
  });
}

async function samplesOf(
  runId: string,
  iteration: number,
  group: string,
  signal: AbortSignal,
): Promise<Sample[]> {
  const samples: Sample[] = [];
  let pageToken = '';
  do {
    const page = await loop.listSamples(
      { runId, filter: { iteration, group }, pageSize, pageToken },
      { signal },
    );
    samples.push(...page.samples);
    pageToken = page.nextPageToken;
  } while (pageToken !== '');
  return samples;
}
