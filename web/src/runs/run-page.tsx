import { categories } from '@plumb/charts/intervals';
import { differenceText, durationText, points, rateText } from '@plumb/charts/numbers';
import { LoopService, RunState, Stage } from '@plumb/proto/plumb/loop/v1/loop_pb.js';
import type { IterationReport, Report, Run } from '@plumb/proto/plumb/loop/v1/loop_pb.js';
import type { DataSetSummary, TrainingProgress } from '@plumb/proto/plumb/trainer/v1/trainer_pb.js';
import { Split } from '@plumb/proto/plumb/prompts/v1/prompt_pb.js';
import { useRoute } from 'preact-iso';
import { useEffect, useState } from 'preact/hooks';
import { errorText, loop } from '../api.ts';
import { Chart } from '../chart.tsx';
import { useStream } from '../page/live.ts';
import { rewardsOf } from '../gallery/rewards.ts';
import { may } from '../page/caller.ts';
import { OverOptimisation } from './over-optimisation.tsx';
import { Scroll } from '../page/scroll.tsx';
import { useTitle } from '../page/title.ts';
import { DeadLetters } from './dead-letters.tsx';
import { Gate } from './gate.tsx';
import { RunFrame } from './run-frame.tsx';
import { hasEnded, rateOf, rateWords, count, shareDone } from './run-words.ts';

/** One run, as it goes on. */
export function RunPage() {
  const id = useRoute().params['id'] ?? '';
  const [run, setRun] = useState<Run | undefined>(undefined);
  const [problem, setProblem] = useState('');
  const [curve, setCurve] = useState<readonly TrainingProgress[]>([]);
  const [report, setReport] = useState<Report | undefined>(undefined);
  const [chosen, setChosen] = useState<number | undefined>(undefined);
  useTitle(run?.spec?.name ?? id);

  useStream(
    id,
    (signal) => loop.watchRun({ id }, { signal }),
    ({ run: next }) => {
      if (next === undefined) return;
      setRun(next);
      const { training } = next;
      if (training !== undefined) {
        setCurve((known) => [
          // A step that is smaller than the last is of another job.
          ...known.filter(({ step }) => step < training.step),
          training,
        ]);
      }
    },
    setProblem,
  );

  // The report changes when a stage does; what happens in between comes with the run.
  const stage = run === undefined ? undefined : `${run.iteration} ${run.stage} ${run.state}`;
  useEffect(() => {
    if (stage === undefined) return undefined;
    const abort = new AbortController();
    loop.getReport({ runId: id }, { signal: abort.signal }).then(
      (answer) => setReport(answer.report),
      (thrown: unknown) => {
        if (!abort.signal.aborted) setProblem(errorText(thrown));
      },
    );
    return () => abort.abort();
  }, [id, stage]);

  if (run === undefined) {
    return (
      <RunFrame id={id} run={undefined}>
        {problem === '' ? <p class="empty">Looking …</p> : <p class="problem">{problem}</p>}
      </RunFrame>
    );
  }
  const iteration = chosen ?? run.iteration;
  const current = report?.iterations.find((candidate) => candidate.iteration === iteration);
  const measured = current?.training ?? [];
  const live = iteration === run.iteration && run.stage === Stage.TRAIN;
  const training = live
    ? [...measured, ...curve.filter(({ step }) => step > (measured.at(-1)?.step ?? 0))]
    : measured;
  return (
    <RunFrame id={id} run={run} actions={<Actions run={run} onError={setProblem} />}>
      {problem !== '' && <p class="problem">{problem}</p>}
      {run.error !== undefined && run.state !== RunState.SUCCEEDED && (
        <p class="problem" role="alert">
          {run.error.message}
        </p>
      )}
      <Facts run={run} />
      {run.progress.some((step) => step.iteration !== 1) && (
        <div class="segments" role="group" aria-label="Iteration">
          {[...new Set(run.progress.map((step) => step.iteration))].map((each) => (
            <button
              key={each}
              type="button"
              aria-pressed={each === iteration}
              onClick={() => setChosen(each === run.iteration ? undefined : each)}
            >
              Iteration {each}
            </button>
          ))}
        </div>
      )}
      <div class="grid two-one">
        <Stages run={run} iteration={iteration} />
        <div class="side">
          {!hasEnded(run) && <Queues run={run} />}
          <SetUp run={run} />
        </div>
      </div>
      {current !== undefined && Object.keys(current.after).length > 0 && <Acceptance current={current} />}
      {report !== undefined && <LearningCurve report={report} />}
      {current?.decision !== undefined && (
        <Gate decision={current.decision} signs={current.overOptimisation} />
      )}
      {report !== undefined && <OverOptimisation report={report} iteration={iteration} />}
      {training.length > 1 && (
        <Training
          points={training}
          algorithm={run.spec?.objective?.algorithm ?? ''}
          dataSet={current?.dataSet}
        />
      )}
      <DeadLetters runId={id} state={`${run.counts?.errors ?? 0n} ${stage}`} />
    </RunFrame>
  );
}

function Actions({ run, onError }: { readonly run: Run; readonly onError: (text: string) => void }) {
  const steer = async (call: () => Promise<unknown>): Promise<void> => {
    try {
      await call();
      onError('');
    } catch (thrown) {
      onError(errorText(thrown));
    }
  };
  const key = (verb: string): string => `${verb} ${run.id} ${crypto.randomUUID()}`;
  if (hasEnded(run)) return null;
  const { pauseRun, resumeRun, cancelRun } = LoopService.method;
  const running = run.state === RunState.RUNNING;
  return (
    <>
      {running && may(pauseRun) && (
        <button
          type="button"
          onClick={() => void steer(() => loop.pauseRun({ id: run.id, idempotencyKey: key('pause') }))}
        >
          Pause
        </button>
      )}
      {!running && may(resumeRun) && (
        <button
          type="button"
          class="primary"
          onClick={() => void steer(() => loop.resumeRun({ id: run.id, idempotencyKey: key('resume') }))}
        >
          Resume
        </button>
      )}
      {may(cancelRun) && (
        <button
          type="button"
          class="quiet"
          onClick={() => {
            if (confirm(`End ${run.spec?.name ?? run.id} for good? What it has made stays.`)) {
              void steer(() => loop.cancelRun({ id: run.id, idempotencyKey: key('cancel') }));
            }
          }}
        >
          Cancel
        </button>
      )}
    </>
  );
}

function Facts({ run }: { readonly run: Run }) {
  const { counts, spend } = run;
  const judged = counts?.scored ?? 0n;
  const facts: (readonly [string, string, string])[] = [
    ['Clips', count(counts?.generated ?? 0n), `of ${count(counts?.planned ?? 0n)} planned`],
    [
      'Judged',
      count(judged),
      judged === 0n ? '' : `${points(Number(counts?.accepted ?? 0n) / Number(judged))}% accepted`,
    ],
    [
      'Errors',
      count(counts?.errors ?? 0n),
      (counts?.reused ?? 0n) > 0n ? `${count(counts?.reused ?? 0n)} clips reused` : '',
    ],
    [
      'Judge',
      count(spend?.judgeTokens ?? 0n),
      spend?.currency === undefined || spend.currency === ''
        ? 'tokens'
        : `tokens, ${spend.cost.toFixed(2)} ${spend.currency}`,
    ],
    ['Training', count(spend?.trainingSteps ?? 0n), 'steps'],
    ['Work', durationText(run.activeSeconds), `model ${run.currentModelVersion}`],
  ];
  return (
    <dl class="facts card">
      {facts.map(([name, value, more]) => (
        <div key={name}>
          <dt>{name}</dt>
          <dd>
            {value}
            <small>{more}</small>
          </dd>
        </div>
      ))}
    </dl>
  );
}

function Stages({ run, iteration }: { readonly run: Run; readonly iteration: number }) {
  const now = new Date();
  const steps = run.progress.filter((step) => step.iteration === iteration);
  return (
    <section class="card" aria-labelledby="stages">
      <h2 id="stages">Stages</h2>
      <ol class="stages">
        {steps.map((step) => {
          const share = shareDone(step);
          const rate = rateOf(step, now);
          const done = share === 1;
          const begun = share > 0 || step.startTime !== undefined;
          return (
            <li key={step.label} class={done ? 'done' : begun ? 'begun' : ''}>
              <span>{step.label.replace(', ', ': ')}</span>
              <span
                class="progress"
                role="progressbar"
                aria-label={step.label}
                aria-valuemin={0}
                aria-valuemax={Number(step.total)}
                aria-valuenow={Number(step.done)}
              >
                <span style={{ width: `${share * 100}%` }} />
              </span>
              <span class="number">
                {step.total <= 1n ? (done ? '✓' : '') : `${count(step.done)} / ${count(step.total)}`}
              </span>
              <small>
                {rate !== undefined && step.total > 1n && rateWords(rate)}
                {step.accepted !== undefined &&
                  step.done > 0n &&
                  `${rate === undefined ? '' : ', '}${points(Number(step.accepted) / Number(step.done))}% accepted`}
              </small>
            </li>
          );
        })}
      </ol>
    </section>
  );
}

function Queues({ run }: { readonly run: Run }) {
  const words: Readonly<Record<string, string>> = { generate: 'Generate', score: 'Score' };
  const deepest = Math.max(1, ...run.queues.map(({ waiting, inFlight }) => Number(waiting + inFlight)));
  return (
    <section class="card" aria-labelledby="queues">
      <h2 id="queues">Queues</h2>
      {run.queues.length === 0 ? (
        <p class="soft">Nothing waits: the run is not working.</p>
      ) : (
        <ul class="queues">
          {run.queues.map(({ queue, waiting, inFlight }) => (
            <li key={queue}>
              <span>{words[queue] ?? queue}</span>
              <span class="depth" aria-hidden="true">
                <span class="flying" style={{ width: `${(Number(inFlight) / deepest) * 100}%` }} />
                <span style={{ width: `${(Number(waiting) / deepest) * 100}%` }} />
              </span>
              <small>
                {count(inFlight)} in hand, {count(waiting)} waiting
              </small>
            </li>
          ))}
        </ul>
      )}
      <p class="note">Shared with other runs on this system.</p>
    </section>
  );
}

function SetUp({ run }: { readonly run: Run }) {
  const { spec, budgets } = run;
  if (spec === undefined) return null;
  const { objective, optimisation, sampler, evaluation } = spec;
  const prompts = (split: Split): number => spec.prompts.filter((prompt) => prompt.split === split).length;
  const limits = [
    (budgets?.samples ?? 0n) > 0n && `${count(budgets?.samples ?? 0n)} clips`,
    (budgets?.judgeTokens ?? 0n) > 0n && `${count(budgets?.judgeTokens ?? 0n)} tokens`,
    (budgets?.cost ?? 0) > 0 && `cost ${budgets?.cost}`,
    (budgets?.trainingSteps ?? 0n) > 0n && `${count(budgets?.trainingSteps ?? 0n)} steps`,
    (budgets?.seconds ?? 0) > 0 && durationText(budgets?.seconds ?? 0),
  ].filter((limit) => limit !== false);
  const rows: (readonly [string, string])[] = [
    ['Objective', `${objective?.algorithm ?? ''} on ${objective?.reward ?? ''}`],
    [
      'Training',
      `${optimisation?.steps ?? 0} steps of ${optimisation?.batchSize ?? 0}, learning rate ${optimisation?.learningRate ?? 0}`,
    ],
    ['Prompts', `${prompts(Split.TRAIN)} to train, ${prompts(Split.HELDOUT)} held out`],
    ['Clips a prompt', `${spec.samplesPerPrompt} to train, ${evaluation?.samplesPerPrompt ?? 0} held out`],
    ['Sampler', `${sampler?.steps ?? 0} steps, guidance ${sampler?.guidance ?? 0}`],
    ['Rewards', rewardsOf(run).join(', ')],
    ...(spec.labels?.use === 'override'
      ? [
          [
            'Human labels',
            `in place of the judge's${spec.labels.atLeast > 0 ? `; waits for ${count(spec.labels.atLeast)} clips` : ''}`,
          ] as const,
        ]
      : []),
    ...(limits.length > 0 ? [['Budget', limits.join(', ')] as const] : []),
    ['Seed', String(spec.seed)],
  ];
  return (
    <section class="card" aria-labelledby="set-up">
      <h2 id="set-up">Set-up</h2>
      <dl class="set-up">
        {rows.map(([name, value]) => (
          <div key={name}>
            <dt>{name}</dt>
            <dd>{value}</dd>
          </div>
        ))}
      </dl>
    </section>
  );
}

function Acceptance({ current }: { readonly current: IterationReport }) {
  const acceptance = { before: current.before, after: current.after, difference: current.difference };
  const shown = [
    ...categories.filter(({ id }) => current.after[id] !== undefined),
    { id: 'overall', name: 'Overall' },
  ];
  return (
    <section class="card" aria-labelledby="acceptance">
      <h2 id="acceptance">Acceptance on held-out prompts</h2>
      <p class="soft">
        <span class="key before">{current.beforeVersion}</span> and{' '}
        <span class="key after">{current.afterVersion}</span>, the same prompts and noise; 95% intervals
      </p>
      <div class="grid halves">
        <Chart
          of={[current]}
          height={300}
          make={(charts) =>
            charts.acceptanceChart(
              acceptance,
              categories.filter(({ id }) => current.after[id] !== undefined),
            )
          }
        />
        <Chart
          of={[current]}
          height={300}
          make={(charts) =>
            charts.differenceChart(
              acceptance,
              categories.filter(({ id }) => current.after[id] !== undefined),
            )
          }
        />
      </div>
      <details>
        <summary>As a table</summary>
        <Scroll name="Acceptance as a table">
          <table>
            <thead>
              <tr>
                <th scope="col">Category</th>
                <th scope="col">Before, %</th>
                <th scope="col">After, %</th>
                <th scope="col">Difference, points</th>
              </tr>
            </thead>
            <tbody>
              {shown.map(({ id, name }) => (
                <tr key={id}>
                  <th scope="row">{name}</th>
                  <td>{current.before[id] && rateText(current.before[id])}</td>
                  <td>{current.after[id] && rateText(current.after[id])}</td>
                  <td>{current.difference[id] && differenceText(current.difference[id])}</td>
                </tr>
              ))}
            </tbody>
          </table>
        </Scroll>
      </details>
    </section>
  );
}

function LearningCurve({ report }: { readonly report: Report }) {
  const evaluated = report.iterations.filter(({ after }) => after['overall'] !== undefined);
  const first = evaluated[0]?.before['overall'];
  if (first === undefined || evaluated.length < 2) return null;
  const curve = [
    { iteration: 0, ...first },
    ...evaluated.flatMap(({ iteration, after }) =>
      after['overall'] === undefined ? [] : [{ iteration, ...after['overall'] }],
    ),
  ];
  return (
    <section class="card" aria-labelledby="curve">
      <h2 id="curve">Learning curve</h2>
      <Chart of={[report]} height={240} make={(charts) => charts.learningCurve(curve)} />
    </section>
  );
}

function Training({
  points,
  algorithm,
  dataSet,
}: {
  readonly points: readonly TrainingProgress[];
  readonly algorithm: string;
  readonly dataSet: DataSetSummary | undefined;
}) {
  // One point is no curve.
  const anchored = points.filter(({ anchorDistance }) => anchorDistance !== undefined).length > 1;
  return (
    <section class="card" aria-labelledby="training">
      <h2 id="training">Training</h2>
      <p class="soft">
        {algorithm}, step {count(points.at(-1)?.step ?? 0)}
        {dataSet !== undefined && `, ${count(dataSet.used)} of ${count(dataSet.samples)} clips used`}
        {dataSet !== undefined &&
          dataSet.humanLabels > 0 &&
          `, ${count(dataSet.humanLabels)} labelled by people, who differ from the judge on ${count(dataSet.humanLabelsChanged)}`}
      </p>
      <div class="grid halves">
        <figure>
          <figcaption>Loss: each measured step, and their running mean</figcaption>
          <Chart of={[points]} height={240} make={(charts) => charts.lossChart(points)} />
        </figure>
        {anchored && (
          <figure>
            <figcaption>
              Anchor distance: how far predictions moved from the model that training started from
            </figcaption>
            <Chart of={[points]} height={240} make={(charts) => charts.anchorChart(points)} />
          </figure>
        )}
      </div>
    </section>
  );
}
