import { invalidArguments } from '@plumb/kit/errors';
import type { FieldViolation } from '@plumb/kit/errors';
import {
  cards,
  clipSeconds,
  cogVideoX2,
  cogVideoX5,
  largestBatch,
  reachedShare,
  samplingBytes,
  trainingBytes,
  trainingSeconds,
  wan13,
  wan14,
} from '@plumb/pipelines/cost-model';
import type { Card, DenoiserShape, VideoShape } from '@plumb/pipelines/cost-model';
import { measured } from './measured.ts';

const wanClip: VideoShape = { width: 832, height: 480, frames: 81 };
const cogClip: VideoShape = { width: 720, height: 480, frames: 49 };

/** Models whose cost is computed from their architecture (docs/gpu.md), by the names that `--model` takes. */
export const computedModels: Readonly<
  Record<string, { readonly shape: DenoiserShape; readonly clip: VideoShape }>
> = {
  'wan-2.1-1.3b': { shape: wan13, clip: wanClip },
  'wan-2.1-14b': { shape: wan14, clip: wanClip },
  'cogvideox-2b': { shape: cogVideoX2, clip: cogClip },
  'cogvideox-5b': { shape: cogVideoX5, clip: cogClip },
};

/** What an iteration is to do, and with what. Counts are whole numbers of at least 1 unless said otherwise. */
export interface PlanInput {
  /** `toybox`, a name of {@link computedModels}, or any other with `secondsPerClip` and `secondsPerStep`. */
  readonly model: string;
  readonly prompts: number;
  readonly samplesPerPrompt: number;
  readonly heldOutPrompts: number;
  /** Clips of each held-out prompt, from each of two models. */
  readonly heldOutSamples: number;
  /** Card of the computed models, by the beginning of its name: `H100`. */
  readonly card: string;
  /** Generators, each with a card of its own (or two cores, for the toybox). */
  readonly generators: number;
  /** Denoising steps, each with two passes of the denoiser. */
  readonly samplingSteps: number;
  /** Frames of a clip of a computed model; its own unless given. */
  readonly frames: number | undefined;
  /** Measured seconds of one generator for a clip, in place of a computed figure. */
  readonly secondsPerClip: number | undefined;
  readonly trainingSteps: number;
  readonly batchSize: number;
  readonly loraRank: number;
  /** Measured seconds of a training step, in place of a computed figure. */
  readonly secondsPerStep: number | undefined;
  readonly judge: {
    /** Seconds of a call. */
    readonly latency: number;
    /** Verdicts wanted for a clip: votes, or judges of a panel. At least 1. */
    readonly votes: number;
    readonly inputTokens: number;
    readonly outputTokens: number;
    /** In the currency of the prices, for a million tokens. 0 and more. */
    readonly inputPrice: number;
    readonly outputPrice: number;
    /** Calls in flight at most. */
    readonly concurrency: number;
    /** Undefined is no limit. */
    readonly requestsPerMinute: number | undefined;
  };
  /** Price of a card for an hour; 0 and more. */
  readonly cardPrice: number;
}

/** One stage of an iteration. */
export interface PlannedStage {
  readonly hours: number;
  readonly cardHours: number;
}

/** What an iteration takes. */
export interface IterationPlan {
  readonly clips: { readonly training: number; readonly heldOut: number; readonly all: number };
  readonly card: string | undefined;
  readonly generation: PlannedStage & {
    readonly secondsPerClip: number;
    readonly clipsPerSecond: number;
    /** Clips in one call of the denoiser; undefined where it is not computed. */
    readonly batch: number | undefined;
  };
  readonly judging: {
    readonly verdicts: number;
    readonly calls: number;
    readonly inputTokens: number;
    readonly outputTokens: number;
    readonly cost: number;
    /** Verdicts a second that the endpoint allows. */
    readonly verdictsPerSecond: number;
    readonly requestsPerSecond: number;
    /** Calls in flight that keep pace with the generators (Little's law: rate times latency). */
    readonly concurrencyToKeepPace: number;
    readonly hours: number;
    /** Cores of judge pods while judging. */
    readonly cores: number;
  };
  readonly scoring: {
    /** Reward pods of two cores that keep pace with the generators. */
    readonly pods: number;
  };
  readonly training: PlannedStage & { readonly secondsPerStep: number };
  /** Part of the training clips and of the held-out clips in the hours of generation. */
  readonly shares: { readonly sampling: number; readonly evaluation: number };
  readonly hours: { readonly overlapped: number; readonly inSequence: number };
  readonly cardHours: number;
  readonly cost: { readonly cards: number; readonly judge: number; readonly all: number };
}

/**
 * What an iteration of the loop takes: the sums of docs/sizing.md.
 * @throws PlumbError INVALID_ARGUMENT naming each bad field, or a model that the card cannot hold
 */
export function planIteration(input: PlanInput): IterationPlan {
  check(input);
  const { judge } = input;
  const training = input.prompts * input.samplesPerPrompt;
  const heldOut = 2 * input.heldOutPrompts * input.heldOutSamples;
  const all = training + heldOut;

  const { secondsPerClip, batch, card } = sampling(input);
  const clipsPerSecond = input.generators / secondsPerClip;
  const generationHours = all / clipsPerSecond / 3600;
  const cardHours = (all * secondsPerClip) / 3600;

  const verdicts = all * judge.votes;
  const calls = verdicts * measured.judgeCallsPerVerdict.value;
  const perSecond = Math.min(judge.concurrency / judge.latency, (judge.requestsPerMinute ?? Infinity) / 60);
  const verdictsPerSecond = perSecond / measured.judgeCallsPerVerdict.value;
  const judgingHours = verdicts / verdictsPerSecond / 3600;
  const pace = clipsPerSecond * judge.votes * measured.judgeCallsPerVerdict.value;
  const requestsPerSecond = Math.min(perSecond, pace);
  // Tokens are booked for the calls that were answered.
  const inputTokens = verdicts * judge.inputTokens;
  const outputTokens = verdicts * judge.outputTokens;
  const judgeCost = (inputTokens * judge.inputPrice + outputTokens * judge.outputPrice) / 1e6;

  const secondsPerStep = stepSeconds(input);
  const trainingHours = (input.trainingSteps * secondsPerStep) / 3600;

  // Judging follows sampling clip by clip: the slower of the two decides, in each of the two parts.
  const [sampled, evaluated] = [training / all, heldOut / all];
  const overlapped =
    Math.max(generationHours * sampled, judgingHours * sampled) +
    trainingHours +
    Math.max(generationHours * evaluated, judgingHours * evaluated);
  const cardsCost = (cardHours + trainingHours) * input.cardPrice;
  return {
    clips: { training, heldOut, all },
    card,
    generation: { secondsPerClip, clipsPerSecond, batch, hours: generationHours, cardHours },
    judging: {
      verdicts,
      calls,
      inputTokens,
      outputTokens,
      cost: judgeCost,
      verdictsPerSecond,
      requestsPerSecond,
      concurrencyToKeepPace: Math.ceil(pace * judge.latency),
      hours: judgingHours,
      cores: (requestsPerSecond * measured.judgeCpuMsPerVerdict.value) / 1000,
    },
    scoring: { pods: Math.ceil(clipsPerSecond / measured.rewardClipsPerSecond.value) },
    training: { hours: trainingHours, cardHours: trainingHours, secondsPerStep },
    shares: { sampling: sampled, evaluation: evaluated },
    hours: { overlapped, inSequence: generationHours + judgingHours + trainingHours },
    cardHours: cardHours + trainingHours,
    cost: { cards: cardsCost, judge: judgeCost, all: cardsCost + judgeCost },
  };
}

function sampling(input: PlanInput): {
  secondsPerClip: number;
  batch: number | undefined;
  card: string | undefined;
} {
  if (input.secondsPerClip !== undefined)
    return { secondsPerClip: input.secondsPerClip, batch: undefined, card: undefined };
  if (input.model === 'toybox') {
    const { value } = measured.toyboxClipsPerSecond;
    return { secondsPerClip: (1 / value) * (input.samplingSteps / 20), batch: undefined, card: undefined };
  }
  const { shape, clip } = computed(input);
  const card = cardOf(input);
  const batch = largestBatch(card, (clips) => samplingBytes(shape, clip, clips, 2));
  if (batch === 0) throw tooSmall(card, `to sample a clip of ${shape.name}`);
  const secondsPerClip = clipSeconds(
    shape,
    clip,
    { steps: input.samplingSteps, passes: 2 },
    card.peak * reachedShare,
  );
  return { secondsPerClip, batch, card: card.name };
}

function stepSeconds(input: PlanInput): number {
  if (input.secondsPerStep !== undefined) return input.secondsPerStep;
  if (input.model === 'toybox') return (measured.toyboxStepSeconds.value * input.batchSize) / 32;
  const { shape, clip } = computed(input);
  const card = cardOf(input);
  if (largestBatch(card, (clips) => trainingBytes(shape, clip, clips, input.loraRank)) === 0)
    throw tooSmall(card, `to train adapters of ${shape.name}`);
  return input.batchSize * trainingSeconds(shape, clip, card.peak * reachedShare);
}

function computed(input: PlanInput): { shape: DenoiserShape; clip: VideoShape } {
  const known = computedModels[input.model];
  if (known === undefined) {
    throw invalidArguments([
      {
        field: '--model',
        description:
          `'${input.model}' is unknown; use toybox, ${Object.keys(computedModels).join(', ')}, ` +
          'or give --seconds-per-clip and --seconds-per-step of your own',
      },
    ]);
  }
  return { ...known, clip: { ...known.clip, frames: input.frames ?? known.clip.frames } };
}

function cardOf({ card }: PlanInput): Card {
  const found = cards.find(({ name }) => name.toLowerCase().startsWith(card.toLowerCase()));
  if (found !== undefined) return found;
  throw invalidArguments([
    {
      field: '--card',
      description: `'${card}' is unknown; use one of ${cards.map(({ name }) => name.split(' ').slice(0, -2).join(' ')).join(', ')}`,
    },
  ]);
}

function tooSmall({ name }: Card, what: string): Error {
  return invalidArguments([
    {
      field: '--card',
      description: `${name} is too small ${what}; use a larger card, fewer --frames, or another model (docs/gpu.md)`,
    },
  ]);
}

function check(input: PlanInput): void {
  const violations: FieldViolation[] = [];
  const require = (field: string, value: number | undefined, least: number, whole: boolean): void => {
    if (value === undefined || (value >= least && value < Infinity && (!whole || Number.isInteger(value))))
      return;
    const kind = whole ? 'a whole number' : 'a number';
    violations.push({
      field,
      description: `is ${value}; use ${kind} ${least === Number.MIN_VALUE ? 'above 0' : `from ${least}`}`,
    });
  };
  const counts = {
    '--prompts': input.prompts,
    '--samples-per-prompt': input.samplesPerPrompt,
    '--heldout-prompts': input.heldOutPrompts,
    '--heldout-samples': input.heldOutSamples,
    '--generators': input.generators,
    '--sampler-steps': input.samplingSteps,
    '--frames': input.frames,
    '--steps': input.trainingSteps,
    '--batch-size': input.batchSize,
    '--rank': input.loraRank,
    '--votes': input.judge.votes,
    '--judge-concurrency': input.judge.concurrency,
  };
  for (const [field, value] of Object.entries(counts)) require(field, value, 1, true);
  const amounts = {
    '--seconds-per-clip': input.secondsPerClip,
    '--seconds-per-step': input.secondsPerStep,
    '--judge-latency': input.judge.latency,
    '--judge-rpm': input.judge.requestsPerMinute,
  };
  for (const [field, value] of Object.entries(amounts)) require(field, value, Number.MIN_VALUE, false);
  const prices = {
    '--input-tokens': input.judge.inputTokens,
    '--output-tokens': input.judge.outputTokens,
    '--input-price': input.judge.inputPrice,
    '--output-price': input.judge.outputPrice,
    '--card-price': input.cardPrice,
  };
  for (const [field, value] of Object.entries(prices)) require(field, value, 0, false);
  if (violations.length > 0) throw invalidArguments(violations);
}
