import {
  bootstrapStatistic,
  cohenKappa,
  decideGate,
  defaultGate,
  detectOverOptimisation,
  holm,
  pairedDifference,
  rocAuc,
  spearman,
} from '@plumb/evaluation';
import type {
  Comparison,
  GateDecision,
  OverOptimisation,
  PairedDifference,
  PairedOutcome,
  StatisticEstimate,
} from '@plumb/evaluation';
import { shapeRewards } from '@plumb/objective';
import { mean } from 'simple-statistics';
import { feedbackOn, formOf } from './feedback.ts';
import { recipeFor } from './recipes.ts';
import type { FeedbackForm } from './recipes.ts';
import type { Arm, CellRecord, ScoredClip } from './records.ts';
import type { StudyData } from './run-study.ts';
import { armId, judgeRewards } from './spec.ts';

/** Of all bootstraps; the same data give the same intervals. */
const bootstrapSeed = 1;
/** Resamples of statistics of ranks, each of which sorts all clips. */
const rankResamples = 400;

/** One arm after another on the same held-out clips: points of ground truth by which the first is better. */
export interface Contrast {
  readonly arm: string;
  readonly against: string;
  readonly difference: Comparison['difference'];
  readonly pValue: number;
  /** Holm's correction over all contrasts of the same family. */
  readonly adjustedPValue: number;
}

/** What one arm brought, over all its seeds. */
export interface ArmResult {
  readonly id: string;
  readonly arm: Arm;
  readonly form: FeedbackForm;
  readonly seeds: readonly { readonly seed: number; readonly gain: number }[];
  /** By ground truth, before and after training. */
  readonly truth: PairedDifference;
  /** By the reward that was trained on, where it is not the ground truth itself. */
  readonly trained?: Comparison;
  /** Its change in standard deviations of its values before. */
  readonly trainedInDeviations?: number;
  /** Whether the picture checks pass. */
  readonly picture: Comparison;
  readonly guards: Readonly<Record<string, Comparison>>;
  readonly overOptimisation: OverOptimisation;
  /** What the default gate says with the trained-on reward as its judge and the ground truth as held-out judge. */
  readonly gate: GateDecision;
  /** Means over seeds. */
  readonly set: CellRecord['set'];
  readonly training: CellRecord['training'];
}

/** How a reward agrees with the ground truth on the clips that are trained on. */
export interface RewardAgreement {
  readonly reward: string;
  readonly judgeNoise?: number;
  readonly clips: number;
  /** Chance that an accepted clip scores above a rejected one, whatever their prompts. */
  readonly rocAuc: StatisticEstimate | null;
  /** The same for two clips of one prompt, which is all that training can use of a metric. */
  readonly withinPrompt: StatisticEstimate | null;
  readonly spearman: number | null;
  /** Of what `filtered-sft` would keep. */
  readonly kappa: number | null;
  /** `rocAuc` within each category of prompts; null where all clips of one are accepted, or none. */
  readonly rocAucPerCategory: Readonly<Record<string, number | null>>;
}

export interface StudyAnalysis {
  /** Acceptance by ground truth of the clips that were trained on. */
  readonly trainAcceptance: number;
  readonly trainClips: number;
  readonly heldOutClips: number;
  readonly arms: readonly ArmResult[];
  /** Every arm against the control `sft`; empty without one. */
  readonly overControl: readonly Contrast[];
  /** Binary feedback against every other reward and noise under the same algorithm and beta. */
  readonly binaryAgainst: readonly Contrast[];
  readonly agreement: readonly RewardAgreement[];
  readonly correction: 'holm';
}

/** What follows from a study's records. Pure: the same records give the same numbers. */
export function analyseStudy(data: StudyData): StudyAnalysis {
  const arms = [...Map.groupBy(data.cells, ({ arm }) => armId(arm))].map(([id, cells]) => ({ id, cells }));
  const control = arms.find(({ id }) => id === 'sft');
  const train = [...data.groups.values()].flatMap(({ train }) => train.clips);
  const overControl = arms.flatMap(({ id, cells }) =>
    control === undefined || id === control.id ? [] : contrast(id, cells, control.id, control.cells),
  );
  const binaryAgainst = arms.flatMap(({ id, cells }) => {
    const arm = cells[0]?.arm;
    if (arm?.reward !== judgeRewards.binary || arm.judgeNoise !== undefined) return [];
    return arms.flatMap((other) => {
      const same = other.cells[0]?.arm;
      const comparable = same?.algorithm === arm.algorithm && same.beta === arm.beta && other.id !== id;
      return comparable ? contrast(id, cells, other.id, other.cells) : [];
    });
  });
  return {
    trainAcceptance: mean(train.map(({ accept }) => Number(accept))),
    trainClips: train.length,
    heldOutClips: [...data.groups.values()].reduce((sum, { heldOut }) => sum + heldOut.clips.length, 0),
    arms: arms.map(({ id, cells }) => analyseArm(id, cells, data)),
    overControl: corrected(overControl),
    binaryAgainst: corrected(binaryAgainst),
    agreement: agreements(data),
    correction: 'holm',
  };
}

function corrected(contrasts: readonly Omit<Contrast, 'adjustedPValue'>[]): Contrast[] {
  const adjusted = holm(contrasts.map(({ pValue }) => pValue));
  return contrasts.map((one, index) => ({ ...one, adjustedPValue: adjusted[index] ?? 1 }));
}

/** Pairs of the same prompt, sample and seed. */
function pairsOf(
  before: readonly ScoredClip[],
  after: readonly ScoredClip[],
  value: (clip: ScoredClip) => number,
): PairedOutcome[] {
  return after.map((clip, place) => {
    const partner = before[place];
    if (partner?.promptId !== clip.promptId || partner.index !== clip.index) {
      throw new TypeError('the two groups are not of the same prompts and samples');
    }
    return { promptId: clip.promptId, category: clip.category, before: value(partner), after: value(clip) };
  });
}

const truthOf = (clip: ScoredClip): number => Number(clip.accept);

function contrast(
  arm: string,
  cells: readonly CellRecord[],
  against: string,
  others: readonly CellRecord[],
): Omit<Contrast, 'adjustedPValue'>[] {
  const pairs = cells.flatMap((cell) => {
    const other = others.find(({ seed }) => seed === cell.seed);
    return other === undefined ? [] : pairsOf(other.heldOut, cell.heldOut, truthOf);
  });
  if (pairs.length === 0) return [];
  const { difference, pValue } = pairedDifference(pairs, { seed: bootstrapSeed });
  return [{ arm, against, difference, pValue }];
}

function analyseArm(id: string, cells: readonly CellRecord[], data: StudyData): ArmResult {
  const options = { seed: bootstrapSeed };
  const arm: Arm = cells[0]?.arm ?? { algorithm: 'sft' };
  const lower = data.directions.get(arm.reward ?? '') === 'lower';
  const compare = (value: (clip: ScoredClip, seed: number) => number): PairedDifference =>
    pairedDifference(
      cells.flatMap(({ seed, heldOut }) =>
        pairsOf(data.groups.get(seed)?.heldOut.clips ?? [], heldOut, (clip) => value(clip, seed)),
      ),
      options,
    );
  const truth = compare(truthOf);
  const isTruth =
    arm.reward === undefined || (arm.reward === judgeRewards.binary && arm.judgeNoise === undefined);
  // Turned round where lower is better, so that a rise is always what was trained for.
  const trainedValue = (clip: ScoredClip, seed: number): number =>
    (lower ? -1 : 1) * feedbackOn(clip, arm, seed);
  const trained = isTruth ? undefined : compare(trainedValue);
  const picture = withoutCategories(compare(({ picture }) => Number(picture)));
  const guards = Object.fromEntries(
    data.spec.evaluation.guards
      // A guard that is trained on guards nothing.
      .filter((name) => name !== arm.reward)
      .map((name) => [name, withoutCategories(compare(({ values }) => values[name] ?? Number.NaN))]),
  );
  const watched = { picture, ...guards };
  const point = (step: number, side: 'before' | 'after') => ({
    step,
    trained: (trained ?? truth)[side].value,
    heldOut: truth[side].value,
    guards: Object.fromEntries(Object.entries(watched).map(([name, found]) => [name, found[side].value])),
  });
  const steps = cells[0]?.training.steps ?? 1;
  // As the loop service reads it: guards are means in units of their own, and may fall by a tenth of what they were.
  const overOptimisation = detectOverOptimisation([point(0, 'before'), point(steps, 'after')], {
    relativeGuards: true,
    guardTolerance: 0.1,
  });
  const beforeValues = cells.flatMap(({ seed }) =>
    (data.groups.get(seed)?.heldOut.clips ?? []).map((clip) => trainedValue(clip, seed)),
  );
  return {
    id,
    arm,
    form: formOf(arm.reward),
    seeds: cells.map(({ seed, heldOut }) => {
      const before = data.groups.get(seed)?.heldOut.clips ?? [];
      return { seed, gain: mean(heldOut.map(truthOf)) - mean(before.map(truthOf)) };
    }),
    truth,
    ...(trained === undefined
      ? {}
      : {
          trained: withoutCategories(trained),
          trainedInDeviations: trained.difference.value / (deviation(beforeValues) || 1),
        }),
    picture,
    guards,
    overOptimisation,
    gate: decideGate(defaultGate(), {
      signals: { judge: trained ?? truth, 'held-out': truth },
      guards: watched,
      overOptimisation,
    }),
    set: {
      items: Math.round(mean(cells.map(({ set }) => set.items))),
      effectiveSampleSize: mean(cells.map(({ set }) => set.effectiveSampleSize)),
      uninformativePromptRatio: mean(cells.map(({ set }) => set.uninformativePromptRatio)),
      acceptanceRate: mean(cells.map(({ set }) => set.acceptanceRate)),
    },
    training: {
      steps,
      loss: mean(cells.map(({ training }) => training.loss)),
      anchorDistance: mean(cells.map(({ training }) => training.anchorDistance)),
      seconds: mean(cells.map(({ training }) => training.seconds)),
    },
  };
}

function withoutCategories({ before, after, difference, winRate, pValue }: PairedDifference): Comparison {
  return { before, after, difference, winRate, pValue };
}

function deviation(values: readonly number[]): number {
  const centre = mean([...values]);
  return Math.sqrt(mean(values.map((value) => (value - centre) ** 2)));
}

/** One clip as a reward sees it, with the truth. */
interface Rated {
  /** Seed and prompt: the clips that are compared with each other. */
  readonly group: string;
  readonly truth: boolean;
  readonly score: number;
  readonly kept: boolean;
  readonly category: string;
}

function agreements(data: StudyData): RewardAgreement[] {
  const metrics = Object.keys(data.rewardHashes).map((reward) => ({ reward }));
  const noises = new Set(data.cells.flatMap(({ arm }) => arm.judgeNoise ?? []));
  const noisy = [...noises]
    .toSorted((a, b) => a - b)
    .map((judgeNoise) => ({ reward: judgeRewards.binary, judgeNoise }));
  const judges = [{ reward: judgeRewards.binary }, { reward: judgeRewards.graded }];
  return [...judges, ...noisy, ...metrics].map((rewarded) => agreementOf(rewarded, data));
}

function agreementOf(
  rewarded: Pick<RewardAgreement, 'reward' | 'judgeNoise'>,
  data: StudyData,
): RewardAgreement {
  const lowerIsBetter = data.directions.get(rewarded.reward) === 'lower';
  const { shaping, acceptThreshold } = recipeFor('filtered-sft', formOf(rewarded.reward), {
    lowerIsBetter,
  }).objective;
  const clips = [...data.groups].flatMap(([seed, { train }]) => train.clips.map((clip) => ({ seed, clip })));
  const groups = clips.map(({ seed, clip }) => `${seed} ${clip.promptId}`);
  const raw = clips.map(({ seed, clip }) => feedbackOn(clip, rewarded, seed));
  const shaped = shapeRewards(raw, groups, shaping);
  const rated = clips.map(({ clip }, place): Rated => ({
    group: groups[place] ?? '',
    truth: clip.accept,
    score: (lowerIsBetter ? -1 : 1) * (raw[place] ?? Number.NaN),
    kept: (shaped[place] ?? Number.NaN) >= acceptThreshold,
    category: clip.category,
  }));
  const byPrompt = [...Map.groupBy(rated.keys(), (place) => clips[place]?.clip.promptId ?? '').values()].map(
    (places) => [...places].flatMap((place) => rated[place] ?? []),
  );
  const bootstrap = (statistic: (samples: readonly Rated[]) => number | null): StatisticEstimate | null =>
    bootstrapStatistic(byPrompt, statistic, { seed: bootstrapSeed, resamples: rankResamples });
  const truths = rated.map(({ truth }) => truth);
  return {
    ...rewarded,
    clips: rated.length,
    rocAuc: bootstrap(aucOf),
    withinPrompt: bootstrap(orderedWithinGroups),
    spearman: spearman(
      truths.map(Number),
      rated.map(({ score }) => score),
    ),
    kappa: cohenKappa(
      truths,
      rated.map(({ kept }) => kept),
    ),
    rocAucPerCategory: Object.fromEntries(
      [...Map.groupBy(rated, ({ category }) => category)]
        .toSorted(([a], [b]) => (a < b ? -1 : 1))
        .map(([category, members]) => [category, aucOf(members)]),
    ),
  };
}

function aucOf(samples: readonly Rated[]): number | null {
  return rocAuc(
    samples.map(({ truth }) => truth),
    samples.map(({ score }) => score),
  );
}

/** Share of pairs of an accepted and a rejected clip of one group that the score orders rightly, ties half. */
function orderedWithinGroups(samples: readonly Rated[]): number | null {
  let right = 0;
  let pairs = 0;
  for (const members of Map.groupBy(samples, ({ group }) => group).values()) {
    for (const good of members) {
      if (!good.truth) continue;
      for (const bad of members) {
        if (bad.truth) continue;
        pairs += 1;
        right += good.score > bad.score ? 1 : good.score === bad.score ? 0.5 : 0;
      }
    }
  }
  return pairs === 0 ? null : right / pairs;
}
