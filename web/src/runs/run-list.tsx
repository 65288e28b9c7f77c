import { percent, points, signedPoints } from '@plumb/charts/numbers';
import { RunState } from '@plumb/proto/plumb/loop/v1/loop_pb.js';
import type { Run } from '@plumb/proto/plumb/loop/v1/loop_pb.js';
import { useEffect, useState } from 'preact/hooks';
import { loop } from '../api.ts';
import { useStream } from '../page/live.ts';
import { useTitle } from '../page/title.ts';
import { acceptedShare, agoWords, count, shareOfRun, stageWords, stateWords } from './run-words.ts';

/** All runs, newest first, as they go on. */
export function RunList() {
  useTitle('Runs');
  const [runs, setRuns] = useState<ReadonlyMap<string, Run> | undefined>(undefined);
  const [problem, setProblem] = useState('');
  useStream(
    'runs',
    (signal) => loop.watchRuns({ pageSize: 100 }, { signal }),
    ({ run }) => {
      if (run !== undefined) setRuns((known) => new Map(known).set(run.id, run));
    },
    setProblem,
  );
  // A service without any run says nothing: after a moment, silence means that there is none.
  const [quiet, setQuiet] = useState(false);
  useEffect(() => {
    const timer = setTimeout(() => setQuiet(true), 1500);
    return () => clearTimeout(timer);
  }, []);
  const now = new Date();
  const newestFirst = [...(runs ?? new Map<string, Run>()).values()].toSorted(
    (a, b) => Number(b.createTime?.seconds ?? 0n) - Number(a.createTime?.seconds ?? 0n),
  );
  return (
    <section class="runs" aria-labelledby="runs">
      <h1 id="runs">Runs</h1>
      {problem !== '' && <p class="problem">{problem}</p>}
      {newestFirst.length === 0 && problem === '' && (
        <div class="empty">
          {quiet ? (
            <p>
              No runs yet. <code>plumb run create specs/toybox.yaml</code> starts one.
            </p>
          ) : (
            <p>Looking …</p>
          )}
        </div>
      )}
      <ul class="run-list">
        {newestFirst.map((run) => (
          <li key={run.id}>
            <RunRow run={run} now={now} />
          </li>
        ))}
      </ul>
      <p class="soft more">
        <a href="/given-up">Messages that were given up</a>
      </p>
    </section>
  );
}

function RunRow({ run, now }: { readonly run: Run; readonly now: Date }) {
  const last = run.iteration;
  const before = acceptedShare(run, last, 'held-out prompts, before');
  const after = acceptedShare(run, last, 'held-out prompts, after');
  const training = acceptedShare(run, last, 'train prompts');
  const running = run.state === RunState.RUNNING;
  const share = shareOfRun(run);
  return (
    <a class="run-row card" href={`/runs/${run.id}`}>
      <span class="what">
        <b>{run.spec?.name === '' ? run.id : run.spec?.name}</b>
        <small>
          {run.id} · {run.spec?.objective?.algorithm}
        </small>
      </span>
      <span class="how">
        <span class={`state ${stateWords[run.state]}`}>{stateWords[run.state]}</span>
        <small>
          {running ? stageWords[run.stage] : agoWords(run.createTime, now)}
          {(run.spec?.iterations ?? 1) > 1 && `, iteration ${run.iteration} of ${run.spec?.iterations}`}
        </small>
        <span
          class="progress"
          role="progressbar"
          aria-label={`Progress of ${run.spec?.name ?? run.id}`}
          aria-valuemin={0}
          aria-valuemax={100}
          aria-valuenow={Math.round(share * 100)}
        >
          <span style={{ width: percent(share) }} />
        </span>
      </span>
      <span class="figure">
        <b>
          {before !== undefined && after !== undefined
            ? `${points(before)} → ${points(after)}%`
            : training === undefined
              ? '–'
              : `${points(training)}%`}
        </b>
        <small>
          {before !== undefined && after !== undefined
            ? `accepted, ${signedPoints(after - before)} points`
            : 'accepted, training prompts'}
        </small>
      </span>
      <span class="figure">
        <b>{count(run.counts?.generated ?? 0n)}</b>
        <small>
          clips
          {(run.counts?.errors ?? 0n) > 0n && <i class="bad">, {count(run.counts?.errors ?? 0n)} errors</i>}
        </small>
      </span>
    </a>
  );
}
