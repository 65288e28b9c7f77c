import { counter, meter, recentGauge } from '@plumb/kit/telemetry';
import { watchedStages } from './domain/stall.ts';
import type { StallBoard } from './reconciler/stall-board.ts';

const scope = 'plumb.loop';

/** What is said of a run is shown for a day after it was last said, in milliseconds. */
const keepMs = 24 * 60 * 60 * 1000;

/** What the loop counts. Names and units are listed in docs/metrics.md. */
export const loopMetrics = {
  samples: counter(scope, 'plumb.loop.samples', {
    description:
      'Results written into the ledger, by what happened to the sample: generated, scored or failed',
    unit: '{sample}',
  }),
  verdicts: counter(scope, 'plumb.loop.verdicts', {
    description: "Verdicts of the run's reward, by category and whether the clip was accepted",
    unit: '{sample}',
  }),
  uninformativeRatio: recentGauge(
    scope,
    'plumb.loop.uninformative_prompts.ratio',
    {
      description:
        "Share of the prompts of a run's last data set that teach nothing: all their samples are alike",
      unit: '1',
    },
    keepMs,
  ),
  gateDecisions: counter(scope, 'plumb.loop.gate.decisions', {
    description: 'Decisions of the gate, by promoted or refused',
    unit: '{decision}',
  }),
  evaluationGain: recentGauge(
    scope,
    'plumb.loop.evaluation.gain',
    {
      description: "Paired gain in acceptance of a run's last evaluation",
      unit: '1',
    },
    keepMs,
  ),
  overOptimised: recentGauge(
    scope,
    'plumb.loop.evaluation.over_optimised',
    {
      description: "1 while a run's last evaluation shows signs of over-optimisation, else 0",
      unit: '1',
    },
    keepMs,
  ),
  stalls: counter(scope, 'plumb.loop.stalls', {
    description: 'Times that a stage made no progress for longer than its budget',
    unit: '{stall}',
  }),
};

/**
 * Observes the stages that stand still now. Every stage is there from the start, with 0, so that the first stall is a
 * change; its cause is a label of its own series.
 */
export function observeStalls(board: StallBoard): void {
  for (const stage of watchedStages) loopMetrics.stalls.add(0, { 'plumb.stage': stage });
  meter(scope)
    .createObservableUpDownCounter('plumb.loop.stalled_stages', {
      description: 'Stages that stand still now, by stage and likely cause',
      unit: '{stage}',
    })
    .addCallback((result) => {
      for (const stage of watchedStages) result.observe(0, { 'plumb.stage': stage });
      const alike = Map.groupBy(board.all(), ({ stage, cause }) => `${stage} ${cause.kind}`);
      for (const stalls of alike.values()) {
        const [first] = stalls;
        if (first === undefined) continue;
        const { stage, cause } = first;
        result.observe(stalls.length, { 'plumb.stage': stage, 'plumb.stall.kind': cause.kind });
      }
    });
}
