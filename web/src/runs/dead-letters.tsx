import type { DeadLetter } from '@plumb/proto/plumb/loop/v1/loop_pb.js';
import { useEffect, useState } from 'preact/hooks';
import { errorText, loop } from '../api.ts';
import { agoWords } from './run-words.ts';

/** Messages of the run that were given up, with the way back into their queue. */
export function DeadLetters(props: {
  readonly runId: string;
  /** Samples of the run that ended in an error: the list is read again when their number changes. */
  readonly errors: bigint;
  readonly canReplay: boolean;
}) {
  const { runId, errors, canReplay } = props;
  const [letters, setLetters] = useState<readonly DeadLetter[]>([]);
  const [problem, setProblem] = useState('');
  const [turn, setTurn] = useState(0);
  useEffect(() => {
    const abort = new AbortController();
    loop.listDeadLetters({ runId, pageSize: 100 }, { signal: abort.signal }).then(
      (page) => setLetters(page.deadLetters),
      (thrown: unknown) => {
        if (!abort.signal.aborted) setProblem(errorText(thrown));
      },
    );
    return () => abort.abort();
  }, [runId, errors, turn]);
  const replay = async (sequence: bigint): Promise<void> => {
    try {
      await loop.replayDeadLetter({ sequence });
      setProblem('');
    } catch (thrown) {
      setProblem(errorText(thrown));
    }
    setTurn((before) => before + 1);
  };
  if (letters.length === 0 && problem === '') return null;
  const now = new Date();
  return (
    <section class="card" aria-labelledby="dead">
      <h2 id="dead">Given up</h2>
      <p class="soft">
        Messages that no worker could process. Replayed, they go back to where they came from.
      </p>
      {problem !== '' && <p class="problem">{problem}</p>}
      <ul class="letters">
        {letters.map(({ sequence, subject, code, reason, message, deliveries, createTime, sampleId }) => (
          <li key={String(sequence)}>
            <div>
              <b>{subject}</b>{' '}
              <small>
                {code}, {reason}, after {deliveries} deliveries, {agoWords(createTime, now)}
              </small>
              <p>{message}</p>
              {sampleId !== '' && (
                <a href={`/runs/${runId}/clips?sample=${sampleId}`}>sample {sampleId.slice(0, 12)}</a>
              )}
            </div>
            {canReplay && (
              <button type="button" onClick={() => void replay(sequence)}>
                Replay
              </button>
            )}
          </li>
        ))}
      </ul>
    </section>
  );
}
