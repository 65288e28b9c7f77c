import { points, signedPoints } from '@plumb/charts/numbers';
import type { ArmResult, StudyAnalysis } from '@plumb/study';
import { useRoute } from 'preact-iso';
import { useEffect, useState } from 'preact/hooks';
import { errorText, studies } from '../api.ts';
import { Chart } from '../chart.tsx';
import { Scroll } from '../page/scroll.tsx';
import { useTitle } from '../page/title.ts';
import { count } from '../runs/run-words.ts';
import { comparisonMatrix, parseStudyResult } from './study-result.ts';
import type { StudyResult } from './study-result.ts';

/** What one study has found. */
export function StudyPage() {
  const name = useRoute().params['name'] ?? '';
  useTitle(`Study ${name}`);
  const [result, setResult] = useState<StudyResult | undefined>(undefined);
  const [problem, setProblem] = useState('');
  useEffect(() => {
    const abort = new AbortController();
    studies.getStudy({ name }, { signal: abort.signal }).then(
      (answer) => setResult(parseStudyResult(answer.result)),
      (thrown: unknown) => {
        if (!abort.signal.aborted) setProblem(errorText(thrown));
      },
    );
    return () => abort.abort();
  }, [name]);
  return (
    <>
      <p class="kicker">
        <a href="/studies">Studies</a> / <span class="mono">{name}</span>
      </p>
      <h1>{result?.headline ?? name}</h1>
      {problem !== '' && <p class="problem">{problem}</p>}
      {result === undefined && problem === '' && <p class="empty">Looking …</p>}
      {result !== undefined && <Findings analysis={result.analysis} />}
    </>
  );
}

function Findings({ analysis }: { readonly analysis: StudyAnalysis }) {
  const { arms } = analysis;
  const seeds = new Set(arms.flatMap((arm) => arm.seeds.map(({ seed }) => seed)));
  const facts: (readonly [string, string, string])[] = [
    ['Arms', count(arms.length), `${count(seeds.size)} ${seeds.size === 1 ? 'seed' : 'seeds'} each`],
    [
      'Clips to train on',
      count(analysis.trainClips),
      `${points(analysis.trainAcceptance)}% accepted by the ground truth`,
    ],
    ['Held-out clips', count(analysis.heldOutClips), 'of each arm, on the same noise'],
    [
      'Over-optimised',
      count(arms.filter(({ overOptimisation }) => overOptimisation.detected).length),
      'arms, at the expense of the truth or of a guard',
    ],
  ];
  const noisy = arms.some(({ arm }) => arm.judgeNoise !== undefined);
  return (
    <>
      <dl class="facts card">
        {facts.map(([name, value, more]) => (
          <div key={name}>
            <dt>{name}</dt>
            <dd>
              {value}
              <small class="whole">{more}</small>
            </dd>
          </div>
        ))}
      </dl>
      <Matrix analysis={analysis} />
      <section class="card" aria-labelledby="gains">
        <h2 id="gains">What each arm brought</h2>
        <div class="grid halves">
          <figure>
            <figcaption>Gain in accepted held-out clips, points, with 95% intervals</figcaption>
            <Chart
              of={[analysis]}
              height={arms.length * 26 + 44}
              make={(charts) => charts.gainChart(analysis)}
            />
          </figure>
          {noisy && (
            <figure>
              <figcaption>Gain by noise of the judge</figcaption>
              <Chart of={[analysis]} height={300} make={(charts) => charts.noiseChart(analysis)} />
            </figure>
          )}
        </div>
      </section>
      <OverOptimisation analysis={analysis} />
      <Agreement analysis={analysis} />
    </>
  );
}

/** Algorithms by feedback: the gain of each with its interval, and what the gate says. */
function Matrix({ analysis }: { readonly analysis: StudyAnalysis }) {
  const { rows, columns, at } = comparisonMatrix(analysis);
  return (
    <section class="card" aria-labelledby="matrix">
      <h2 id="matrix">Algorithms by feedback</h2>
      <p class="soft">
        Gain in accepted held-out clips, in points, by the ground truth. Intervals are 95% and resample
        prompts. A gain whose interval reaches 0 is grey.
      </p>
      <Scroll name="Comparison matrix">
        <table class="matrix">
          <thead>
            <tr>
              <th scope="col">Algorithm</th>
              {columns.map((column) => (
                <th key={column} scope="col">
                  {column}
                </th>
              ))}
            </tr>
          </thead>
          <tbody>
            {rows.map((row) => (
              <tr key={row}>
                <th scope="row">{row}</th>
                {columns.map((column) => (
                  <MatrixCell key={column} result={at(row, column)} />
                ))}
              </tr>
            ))}
          </tbody>
        </table>
      </Scroll>
    </section>
  );
}

function MatrixCell({ result }: { readonly result: ArmResult | undefined }) {
  if (result === undefined) return <td />;
  const { value, lower, upper } = result.truth.difference;
  const direction = lower > 0 ? 'gain' : upper < 0 ? 'loss' : 'nothing';
  return (
    <td class={direction}>
      <b>{signedPoints(value)}</b>
      <small>
        {signedPoints(lower)} to {signedPoints(upper)}
      </small>
      {result.overOptimisation.detected && <small class="bad">over-optimised</small>}
    </td>
  );
}

function OverOptimisation({ analysis }: { readonly analysis: StudyAnalysis }) {
  const caught = analysis.arms.filter(({ overOptimisation }) => overOptimisation.detected);
  const metrics = analysis.arms.some(({ trainedInDeviations }) => trainedInDeviations !== undefined);
  if (caught.length === 0 && !metrics) return null;
  return (
    <section class="card" aria-labelledby="over-optimisation">
      <h2 id="over-optimisation">Reward against ground truth</h2>
      <p class="soft">
        What each arm did to the reward that it was trained on, and what that did to the truth: to the right
        of 0 and below it is over-optimisation.
      </p>
      <div class="grid halves">
        {metrics && <Chart of={[analysis]} height={300} make={(charts) => charts.goodhartChart(analysis)} />}
        <ul class="rules">
          {caught.flatMap(({ id, overOptimisation }) =>
            overOptimisation.findings.map(({ sentence }) => (
              <li key={id + sentence} class="rejected">
                <span class="mark" aria-hidden="true">
                  ✗
                </span>
                <span>
                  <b>{id}</b> {sentence}
                </span>
              </li>
            )),
          )}
          {caught.length === 0 && (
            <li>No arm raised its reward at the expense of the truth or of a guard.</li>
          )}
        </ul>
      </div>
    </section>
  );
}

function Agreement({ analysis }: { readonly analysis: StudyAnalysis }) {
  // Where all clips of a prompt are alike, no reward can order them.
  const ordered = analysis.agreement.filter(({ withinPrompt }) => withinPrompt !== null);
  const number = (value: number | null | undefined): string =>
    value === null || value === undefined ? '–' : value.toFixed(2);
  return (
    <section class="card" aria-labelledby="agreement">
      <h2 id="agreement">Agreement of rewards with the ground truth</h2>
      <p class="soft">On the {count(analysis.trainClips)} clips that were trained on; half is chance.</p>
      <div class="grid halves">
        {ordered.length > 0 && (
          <figure>
            <figcaption>
              Pairs of an accepted and a rejected clip of one prompt that are ordered rightly
            </figcaption>
            <Chart
              of={[analysis]}
              height={ordered.length * 26 + 44}
              make={(charts) => charts.agreementChart(ordered)}
            />
          </figure>
        )}
        <Scroll name="Agreement as a table">
          <table>
            <thead>
              <tr>
                <th scope="col">Reward</th>
                <th scope="col">AUC</th>
                <th scope="col">In a prompt</th>
                <th scope="col">Kappa</th>
              </tr>
            </thead>
            <tbody>
              {analysis.agreement.map(({ reward, judgeNoise, rocAuc, withinPrompt, kappa }) => (
                <tr key={`${reward} ${judgeNoise}`}>
                  <th scope="row">
                    {reward}
                    {judgeNoise !== undefined && <small> {points(judgeNoise)}% noise</small>}
                  </th>
                  <td>{number(rocAuc?.value)}</td>
                  <td>{number(withinPrompt?.value)}</td>
                  <td>{number(kappa)}</td>
                </tr>
              ))}
            </tbody>
          </table>
        </Scroll>
      </div>
    </section>
  );
}
