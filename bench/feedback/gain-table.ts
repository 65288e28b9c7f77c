import { pairedDifference } from '@plumb/evaluation';
import type { PairedOutcome } from '@plumb/evaluation';
import type { HeldOutOutcome } from './checkpoints.ts';

const categories = ['OR', 'MO', 'DO', 'DM', 'FD'];

/** The held-out clips of one finetuning over all seeds, each beside the clip of the base on the same noise. */
export interface Gain {
  readonly algorithm: string;
  readonly iteration: number;
  readonly guidance: number;
  readonly before: readonly HeldOutOutcome[];
  readonly after: readonly HeldOutOutcome[];
}

/** Pairs the verdicts on two lists of clips, place by place. */
export function pairVerdicts(
  before: readonly HeldOutOutcome[],
  after: readonly HeldOutOutcome[],
): PairedOutcome[] {
  return after.map(({ promptId, category, accept }, place) => {
    const other = before[place];
    if (other?.promptId !== promptId) throw new TypeError('the two lists are not of the same prompts');
    return { promptId, category, before: other.accept ? 1 : 0, after: accept ? 1 : 0 };
  });
}

/** Numbers of one row, for the benchmark's figures; shares, not points. */
export function gainFigures(gain: Gain, control: Gain | undefined): Record<string, number> {
  const { before, after, difference } = pairedDifference(pairVerdicts(gain.before, gain.after), { seed: 1 });
  const over = control === undefined ? undefined : overControl(gain, control);
  return {
    before: before.value,
    after: after.value,
    gain: difference.value,
    gain_low: difference.lower,
    gain_high: difference.upper,
    ...(over === undefined
      ? {}
      : {
          over_sft: over.difference.value,
          over_sft_low: over.difference.lower,
          over_sft_high: over.difference.upper,
          ...Object.fromEntries(
            Object.entries(over.perCategory).map(([category, { difference: own }]) => [
              `over_sft_${category}`,
              own.value,
            ]),
          ),
        }),
    picture_checks_before: share(gain.before),
    picture_checks_after: share(gain.after),
  };
}

/** A Markdown table, a row for each gain: percent and points with 95% intervals that respect the grouping by prompt. */
export function gainTable(gains: readonly Gain[]): string {
  const several = new Set(gains.map(({ iteration }) => iteration)).size > 1;
  const guided = new Set(gains.map(({ guidance }) => guidance)).size > 1;
  const header = [
    'algorithm',
    ...(several ? ['iteration'] : []),
    ...(guided ? ['guidance'] : []),
    'before, %',
    'after, %',
    'gain, points [95%]',
    'over `sft`, points [95%]',
    'picture checks, %',
    ...categories.map((category) => `${category}, gain (over \`sft\`)`),
  ];
  const rows = gains.map((gain) => {
    const { before, after, difference, perCategory } = pairedDifference(
      pairVerdicts(gain.before, gain.after),
      {
        seed: 1,
      },
    );
    const control = controlOf(gain, gains);
    const over = control === undefined ? undefined : overControl(gain, control);
    return [
      `\`${gain.algorithm}\``,
      ...(several ? [String(gain.iteration)] : []),
      ...(guided ? [String(gain.guidance)] : []),
      percent(before.value),
      percent(after.value),
      interval(difference),
      over === undefined ? '' : interval(over.difference),
      `${percent(share(gain.before))} → ${percent(share(gain.after))}`,
      ...categories.map((category) => {
        const own = perCategory[category]?.difference.value;
        const more = over?.perCategory[category]?.difference.value;
        return own === undefined ? '' : `${signed(own)}${more === undefined ? '' : ` (${signed(more)})`}`;
      }),
    ];
  });
  return [header, header.map(() => '---'), ...rows].map((cells) => `| ${cells.join(' | ')} |`).join('\n');
}

/** The unfiltered finetuning of the same iteration and guidance. */
export function controlOf(gain: Gain, gains: readonly Gain[]): Gain | undefined {
  return gain.algorithm === 'sft'
    ? undefined
    : gains.find(
        ({ algorithm, iteration, guidance }) =>
          algorithm === 'sft' && iteration === gain.iteration && guidance === gain.guidance,
      );
}

/** A gain in one line, for who waits. */
export function gainLine(gain: Gain): string {
  const { before, after, difference, perCategory } = pairedDifference(pairVerdicts(gain.before, gain.after), {
    seed: 1,
  });
  const own = categories.map(
    (category) => `${category} ${signed(perCategory[category]?.difference.value ?? 0)}`,
  );
  return (
    `${percent(before.value)} -> ${percent(after.value)}%, ${interval(difference)} points (${own.join(', ')}); ` +
    `picture checks ${percent(share(gain.before))} -> ${percent(share(gain.after))}%`
  );
}

function overControl(gain: Gain, control: Gain): ReturnType<typeof pairedDifference> {
  return pairedDifference(pairVerdicts(control.after, gain.after), { seed: 1 });
}

function share(outcomes: readonly HeldOutOutcome[]): number {
  return outcomes.filter(({ picture }) => picture).length / outcomes.length;
}

function percent(value: number): string {
  return (100 * value).toFixed(1);
}

function signed(value: number): string {
  return `${value < 0 ? '−' : '+'}${percent(Math.abs(value))}`;
}

function interval({ value, lower, upper }: { value: number; lower: number; upper: number }): string {
  return `${signed(value)} [${signed(lower)}, ${signed(upper)}]`;
}
