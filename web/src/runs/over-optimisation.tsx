import type { SignalPoint } from '@plumb/charts';
import type { Report } from '@plumb/proto/plumb/loop/v1/loop_pb.js';
import { Chart } from '../chart.tsx';

/**
 * The held-out judge against the reward that is trained on: by probe during the training of one iteration, and by iteration
 * over the run. Shown where one of the two was measured more than once.
 */
export function OverOptimisation({
  report,
  iteration,
}: {
  readonly report: Report;
  readonly iteration: number;
}) {
  const probes = probePoints(report, iteration);
  const iterations = iterationPoints(report);
  if (probes.length < 2 && iterations.length < 2) return null;
  return (
    <section class="card" aria-labelledby="over-optimisation">
      <h2 id="over-optimisation">Reward against held-out judge</h2>
      <p class="soft">
        In the order of training; the dashed line is the best that the held-out judge has said. A path that
        goes on to the right and falls has been optimised too far.
      </p>
      <div class="grid halves">
        {probes.length > 1 && (
          <figure>
            <figcaption>Probes during the training of iteration {iteration}</figcaption>
            <Chart
              of={[report, iteration]}
              height={300}
              make={(charts) => charts.overOptimisationChart(probes)}
            />
          </figure>
        )}
        {iterations.length > 1 && (
          <figure>
            <figcaption>Held-out prompts, by iteration</figcaption>
            <Chart of={[report]} height={300} make={(charts) => charts.overOptimisationChart(iterations)} />
          </figure>
        )}
      </div>
    </section>
  );
}

function probePoints(report: Report, iteration: number): SignalPoint[] {
  const found = report.iterations.find((candidate) => candidate.iteration === iteration);
  return (found?.training ?? []).flatMap(({ probes }) =>
    probes.flatMap(({ step, trained, heldOut }) =>
      trained === undefined || heldOut === undefined
        ? []
        : [{ name: step === 0 ? 'base' : `step ${step}`, trained, heldOut }],
    ),
  );
}

/** What was measured before the first iteration, and after each. */
function iterationPoints({ iterations }: Report): SignalPoint[] {
  const measured = iterations.flatMap((one) => {
    // Where the verdict itself is trained on, it is no signal beside it.
    const trained = one.trained ?? verdictOf(one);
    return one.heldOut === undefined || trained === undefined
      ? []
      : [{ iteration: one.iteration, heldOut: one.heldOut, trained }];
  });
  const point = (name: string, trained: number | undefined, heldOut: number | undefined): SignalPoint[] =>
    trained === undefined || heldOut === undefined ? [] : [{ name, trained, heldOut }];
  const [first] = measured;
  return [
    ...point('base', first?.trained.before?.rate, first?.heldOut.before?.rate),
    ...measured.flatMap(({ iteration, trained, heldOut }) =>
      point(`iteration ${iteration}`, trained.after?.rate, heldOut.after?.rate),
    ),
  ];
}

function verdictOf({ before, after }: Report['iterations'][number]) {
  return after['overall'] === undefined ? undefined : { before: before['overall'], after: after['overall'] };
}
