import { LoopService } from '@plumb/proto/plumb/loop/v1/loop_pb.js';
import type { DeadLetter } from '@plumb/proto/plumb/loop/v1/loop_pb.js';
import { useEffect, useState } from 'preact/hooks';
import { errorText, loop } from '../api.ts';
import { may } from '../page/caller.ts';
import { useTitle } from '../page/title.ts';
import { agoWords } from './run-words.ts';

const pageSize = 100;

/** Messages of the run that were given up, with the way back into their queue; nothing where there are none. */
export function DeadLetters(props: {
  readonly runId: string;
  /** The list is read again when it changes. */
  readonly state: string;
}) {
  const { letters, problem, replay, more } = useDeadLetters(props.runId, props.state);
  if ((letters ?? []).length === 0 && problem === '') return null;
  return (
    <section class="card" aria-labelledby="dead">
      <h2 id="dead">Given up</h2>
      <Letters letters={letters ?? []} problem={problem} replay={replay} more={more} />
    </section>
  );
}

/** Everything on this system that was given up, also what belongs to no run that could be read from it. */
export function AllDeadLetters() {
  useTitle('Given up');
  const { letters, problem, replay, more } = useDeadLetters('', '');
  return (
    <section aria-labelledby="dead">
      <h1 id="dead">Given up</h1>
      {letters === undefined && problem === '' && <p class="empty">Looking …</p>}
      {letters?.length === 0 && <p class="empty">No message was given up.</p>}
      {((letters?.length ?? 0) > 0 || problem !== '') && (
        <div class="card">
          <Letters letters={letters ?? []} problem={problem} replay={replay} more={more} withRun />
        </div>
      )}
    </section>
  );
}

interface DeadLetterList {
  readonly letters: readonly DeadLetter[] | undefined;
  readonly problem: string;
  readonly replay: (sequence: bigint) => Promise<void>;
  /** Reads the next page; undefined where there is none. */
  readonly more: (() => void) | undefined;
}

function useDeadLetters(runId: string, state: string): DeadLetterList {
  const [letters, setLetters] = useState<readonly DeadLetter[] | undefined>(undefined);
  const [next, setNext] = useState('');
  const [problem, setProblem] = useState('');
  const [turn, setTurn] = useState(0);
  const read = async (pageToken: string, signal?: AbortSignal): Promise<void> => {
    try {
      const page = await loop.listDeadLetters({ runId, pageSize, pageToken }, { ...(signal && { signal }) });
      setLetters((known) => [...(pageToken === '' ? [] : (known ?? [])), ...page.deadLetters]);
      setNext(page.nextPageToken);
    } catch (thrown) {
      if (signal?.aborted !== true) setProblem(errorText(thrown));
    }
  };
  useEffect(() => {
    const abort = new AbortController();
    void read('', abort.signal);
    return () => abort.abort();
  }, [runId, state, turn]);
  return {
    letters,
    problem,
    replay: async (sequence) => {
      try {
        await loop.replayDeadLetter({ sequence });
        setProblem('');
      } catch (thrown) {
        setProblem(errorText(thrown));
      }
      setTurn((before) => before + 1);
    },
    more: next === '' ? undefined : () => void read(next),
  };
}

function Letters(
  props: Omit<DeadLetterList, 'letters'> & {
    readonly letters: readonly DeadLetter[];
    readonly withRun?: boolean;
  },
) {
  const { letters, problem, replay, more, withRun = false } = props;
  const now = new Date();
  return (
    <>
      <p class="soft">
        Messages that no worker could process. Replayed, they go back to where they came from.
      </p>
      {problem !== '' && (
        <p class="problem" role="alert">
          {problem}
        </p>
      )}
      <ul class="letters">
        {letters.map(
          ({ sequence, subject, code, reason, message, deliveries, createTime, sampleId, runId }) => (
            <li key={String(sequence)}>
              <div>
                <b>{subject}</b>{' '}
                <small>
                  {code}, {reason}, after {deliveries} deliveries, {agoWords(createTime, now)}
                </small>
                <p>{message}</p>
                <p class="soft">
                  {withRun && runId !== '' && <a href={`/runs/${runId}`}>{runId}</a>}
                  {withRun && runId !== '' && sampleId !== '' && ', '}
                  {sampleId !== '' && (
                    <a href={`/runs/${runId}/clips?sample=${sampleId}`}>sample {sampleId.slice(0, 12)}</a>
                  )}
                </p>
              </div>
              {may(LoopService.method.replayDeadLetter) && (
                <button type="button" onClick={() => void replay(sequence)}>
                  Replay
                </button>
              )}
            </li>
          ),
        )}
      </ul>
      {more !== undefined && (
        <p class="more">
          <button type="button" onClick={more}>
            More
          </button>
        </p>
      )}
    </>
  );
}
