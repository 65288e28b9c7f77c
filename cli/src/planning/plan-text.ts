import Table from 'cli-table3';
import type { IterationPlan, PlanInput } from './plan-iteration.ts';

const whole = new Intl.NumberFormat('en-US', { maximumFractionDigits: 0 });
const short = new Intl.NumberFormat('en-US', { maximumSignificantDigits: 3 });

function hours(value: number): string {
  return value < 1 ? `${short.format(value * 60)} min` : `${short.format(value)} h`;
}

function count(number: number, noun: string): string {
  return `${whole.format(number)} ${noun}${number === 1 ? '' : 's'}`;
}

/** A plan as a person reads it, at most 100 columns wide. */
export function planText(input: PlanInput, plan: IterationPlan): string {
  const { clips, generation, judging, scoring, training, cost } = plan;
  const where = plan.card === undefined ? '' : ` on an ${plan.card.split(' ')[0] ?? ''}`;
  const rows: readonly (readonly [string, string, string])[] = [
    [
      'sampling',
      hours(generation.hours * plan.shares.sampling),
      `${whole.format(clips.training)} clips at ${short.format(generation.clipsPerSecond)}/s: ` +
        `${count(input.generators, 'generator')}, ${short.format(generation.secondsPerClip)} s a clip${where}`,
    ],
    [
      'judging',
      hours(judging.hours * plan.shares.sampling),
      `meanwhile; ${short.format(judging.requestsPerSecond)} requests/s, ` +
        `${count(judging.concurrencyToKeepPace, 'call')} in flight to keep pace`,
    ],
    [
      'training',
      hours(training.hours),
      `${whole.format(input.trainingSteps)} steps of ${input.batchSize} clips, ${short.format(training.secondsPerStep)} s each${where}`,
    ],
    [
      'evaluation',
      hours(Math.max(generation.hours, judging.hours) * plan.shares.evaluation),
      `${whole.format(clips.heldOut)} clips of two models, sampled and judged`,
    ],
  ];
  const table = new Table({
    head: ['stage', 'takes', 'what'],
    style: { head: [], border: [] },
    chars: { mid: '', 'left-mid': '', 'mid-mid': '', 'right-mid': '' },
  });
  for (const row of rows) table.push([...row]);
  const slower =
    judging.hours > generation.hours
      ? `Judging is the slower part: the endpoint allows ${short.format(judging.verdictsPerSecond)} verdicts a second.`
      : 'Judging keeps pace with the generators.';
  return [
    table.toString(),
    '',
    `One iteration: ${hours(plan.hours.overlapped)} (${hours(plan.hours.inSequence)} if one stage waited for the other).`,
    slower,
    `Pods: ${count(input.generators, 'generator')}, ${scoring.pods} reward (of 2 cores, for one CLIP-family reward), 1 judge (${short.format(judging.cores)} cores), 1 trainer.`,
    `Judge: ${whole.format(judging.verdicts)} verdicts, ${whole.format(judging.calls)} calls, ${whole.format(judging.inputTokens)} tokens in and ${whole.format(judging.outputTokens)} out.`,
    `Generators and trainer: ${short.format(plan.cardHours)} ${plan.card === undefined ? 'machine' : 'card'}-hours.`,
    `Money: ${short.format(cost.judge)} for the judge, ${short.format(cost.cards)} for cards, ${short.format(cost.all)} in all.`,
    plan.card === undefined
      ? 'Speed of the model: measured (docs/sizing.md).'
      : 'Speed of the model: computed from its architecture, not measured (docs/gpu.md).',
  ].join('\n');
}
