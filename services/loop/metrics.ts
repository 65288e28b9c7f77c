import { counter, gauge, upDownCounter } from '@plumb/kit/telemetry';

const scope = 'plumb.loop';

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
  uninformativeRatio: gauge(scope, 'plumb.loop.uninformative_prompts.ratio', {
    description: 'Share of the prompts of the last data set that teach nothing: all their samples are alike',
    unit: '1',
  }),
  gateDecisions: counter(scope, 'plumb.loop.gate.decisions', {
    description: 'Decisions of the gate, by promoted or refused',
    unit: '{decision}',
  }),
  evaluationGain: gauge(scope, 'plumb.loop.evaluation.gain', {
    description: 'Paired gain in acceptance of the last evaluation',
    unit: '1',
  }),
  overOptimised: gauge(scope, 'plumb.loop.evaluation.over_optimised', {
    description: '1 while the last evaluation shows signs of over-optimisation, else 0',
    unit: '1',
  }),
  stalls: counter(scope, 'plumb.loop.stalls', {
    description: 'Times that a stage made no progress for longer than its budget',
    unit: '{stall}',
  }),
  stalledStages: upDownCounter(scope, 'plumb.loop.stalled_stages', {
    description: 'Stages that stand still now',
    unit: '{stage}',
  }),
};
