import type {
  GetSampleResponse,
  JudgeQuestion,
  Sample,
  SampleScore,
} from '@plumb/proto/plumb/loop/v1/loop_pb.js';
import { useEffect, useRef, useState } from 'preact/hooks';
import { errorText, loop } from '../api.ts';
import { isTyping } from '../page/keys.ts';
import { Player, Scrubber, usePlayback } from './player.tsx';
import { categoryNames, filmOf, modeWords, verdictOf } from './sample-words.ts';
import { TraceView } from './trace-view.tsx';

/** Everything that is known of one clip. */
export function SamplePanel(props: {
  readonly id: string;
  readonly reward: string;
  readonly onClose: () => void;
}) {
  const { id, reward, onClose } = props;
  const [answer, setAnswer] = useState<GetSampleResponse | undefined>(undefined);
  const [problem, setProblem] = useState('');
  const panel = useRef<HTMLElement>(null);
  useEffect(() => {
    const abort = new AbortController();
    loop.getSample({ id, evidence: true }, { signal: abort.signal }).then(setAnswer, (thrown: unknown) => {
      if (!abort.signal.aborted) setProblem(errorText(thrown));
    });
    panel.current?.focus({ preventScroll: true });
    return () => abort.abort();
  }, [id]);
  useEffect(() => {
    const onKey = (event: KeyboardEvent): void => {
      if (event.key === 'Escape' && !isTyping(event)) onClose();
    };
    addEventListener('keydown', onKey);
    return () => removeEventListener('keydown', onKey);
  }, []);
  return (
    <aside class="panel card" aria-label="Clip" ref={panel} tabIndex={-1}>
      <button type="button" class="quiet close" onClick={onClose} aria-label="Close (Esc)">
        ✕
      </button>
      {problem !== '' && <p class="problem">{problem}</p>}
      {answer?.sample === undefined ? (
        problem === '' && <p class="soft">Looking …</p>
      ) : (
        <Details answer={answer} sample={answer.sample} reward={reward} />
      )}
    </aside>
  );
}

function Details(props: {
  readonly answer: GetSampleResponse;
  readonly sample: Sample;
  readonly reward: string;
}) {
  const { answer, sample, reward } = props;
  const { partner } = answer;
  const pair =
    partner === undefined ? [sample] : sample.group === 'before' ? [sample, partner] : [partner, sample];
  const playback = usePlayback(sample.video?.frameCount ?? 1, sample.video?.fps ?? 8);
  return (
    <>
      <h2 class="prompt-text">{sample.prompt?.text}</h2>
      <p class="soft">
        {categoryNames[sample.prompt?.category ?? 0]} · {sample.prompt?.id} · sample {sample.sampleIndex} ·
        seed {String(sample.seed)}
      </p>
      <div class={pair.length === 2 ? 'players two' : 'players'}>
        {pair.map((one) => (
          <figure key={one.id} class={verdictOf(one, reward)}>
            <Player
              film={filmOf(one)}
              playback={playback}
              label={`${one.group}: ${one.prompt?.text ?? ''}`}
            />
            <figcaption>
              <span>
                {pair.length === 2 && `${one.group}, `}
                <span class="mono">{one.modelVersion}</span>
              </span>
              <span class={`verdict ${verdictOf(one, reward)}`}>{verdictOf(one, reward)}</span>
            </figcaption>
          </figure>
        ))}
      </div>
      <Scrubber playback={playback} />
      {sample.error !== undefined && <p class="problem">{sample.error.message}</p>}
      <h3>Scores</h3>
      <ul class="scores">
        {sample.scores.map((score) => (
          <Score key={score.reward} score={score} />
        ))}
      </ul>
      <Evidence questions={answer.questions} missing={answer.questionsMissing} />
      {sample.traceId !== '' && <TraceView traceId={sample.traceId} />}
      <h3>Provenance</h3>
      <dl class="hashes">
        <div>
          <dt>Sample</dt>
          <dd>{sample.id}</dd>
        </div>
        <div>
          <dt>Clip</dt>
          <dd>{sample.video?.sha256}</dd>
        </div>
        {sample.reusedFromSampleId !== '' && (
          <div>
            <dt>Clip made for</dt>
            <dd>{sample.reusedFromSampleId}</dd>
          </div>
        )}
        {answer.manifestUrl !== '' && (
          <div>
            <dt>Manifest</dt>
            <dd>
              <a href={answer.manifestUrl} target="_blank" rel="noreferrer">
                {sample.group === 'train' ? 'of the data set' : 'of the evaluation'}
              </a>
            </dd>
          </div>
        )}
      </dl>
    </>
  );
}

function Score({ score }: { readonly score: SampleScore }) {
  const { reward, version, outcome, reason, failureMode, checks } = score;
  return (
    <li>
      <div>
        <b>{reward}</b> <small class="mono">{version}</small>
      </div>
      <div class="number">
        {outcome.case === 'value' ? (
          outcome.value.toFixed(3).replace(/\.?0+$/, '')
        ) : (
          <span class="bad">error</span>
        )}
      </div>
      {(outcome.case === 'error' || reason !== '' || failureMode !== '') && (
        <p>
          {outcome.case === 'error' ? outcome.value.message : reason}
          {failureMode !== '' && <span class="tag">{modeWords(failureMode)}</span>}
        </p>
      )}
      {Object.keys(checks).length > 0 && (
        <p class="soft">
          {Object.entries(checks).map(([name, passed]) => (
            <span key={name} class="check">
              {passed ? '✓' : '✗'} {name}
            </span>
          ))}
        </p>
      )}
    </li>
  );
}

function Evidence({
  questions,
  missing,
}: {
  readonly questions: readonly JudgeQuestion[];
  readonly missing: string;
}) {
  if (questions.length === 0) {
    return missing === '' ? null : (
      <>
        <h3>What the judge saw</h3>
        <p class="soft">{missing}</p>
      </>
    );
  }
  return (
    <>
      <h3>What the judge saw</h3>
      {questions.slice(0, 4).map(({ reward, words, pictures }, index) => (
        <div key={index} class="evidence">
          <p class="soft">
            {reward}
            {questions.length > 1 && `, question ${index + 1} of ${questions.length}`}: {pictures.length}{' '}
            pictures
          </p>
          <div class="frames">
            {pictures.map((picture, place) => (
              <img key={place} src={picture} alt={`Picture ${place + 1} that the judge saw`} />
            ))}
          </div>
          <details>
            <summary>The words</summary>
            {words.map((text) => (
              <pre key={text}>{text}</pre>
            ))}
          </details>
        </div>
      ))}
    </>
  );
}
