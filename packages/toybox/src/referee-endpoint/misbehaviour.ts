import { createHash } from 'node:crypto';
import { invalidArgument } from '@plumb/kit/errors';
import { categories } from '../captions.ts';
import type { Category } from '../captions.ts';
import { refereeModel } from './model.ts';

/**
 * Ways in which an endpoint can fail to answer.
 *
 * server-error: HTTP 500. rate-limit: HTTP 429 with Retry-After. reset: the connection breaks in the middle of the
 * answer. truncated: the answer is cut off (finish_reason length). empty: no text. refusal: a refusal in place of an
 * answer. wrong-json: JSON of another shape. wrong-language: a sentence in another language and no JSON. stall: no answer at all until the caller hangs up.
 */
export const faultKinds = [
  'server-error',
  'rate-limit',
  'reset',
  'truncated',
  'empty',
  'refusal',
  'wrong-json',
  'wrong-language',
  'stall',
] as const;
export type FaultKind = (typeof faultKinds)[number];

/** How the endpoint misbehaves. Everything is decided by seed and content, never by chance or the clock. */
export type Misbehaviour = {
  /** Share of clips whose verdict is turned round, 0 to 1; the same clips each time. */
  readonly noiseRate: number;
  /**
   * By category, -1 to 1: the share of its bad clips that are accepted all the same, or, below 0, the share of its good
   * clips that are rejected all the same.
   */
  readonly bias: Readonly<Partial<Record<Category, number>>>;
  /** Added to every answer, in milliseconds. */
  readonly latencyMs: number;
  /** Share of calls that fail, 0 to 1. */
  readonly faultRate: number;
  /** Kinds of faults, equally likely. */
  readonly faults: readonly FaultKind[];
  /** What a 429 asks the caller to wait, in seconds. */
  readonly retryAfterSeconds: number;
  readonly seed: number;
};

/** An endpoint that behaves. */
export const wellBehaved: Misbehaviour = {
  noiseRate: 0,
  bias: {},
  latencyMs: 0,
  faultRate: 0,
  faults: faultKinds.filter((kind) => kind !== 'stall'),
  retryAfterSeconds: 1,
  seed: 0,
};

/**
 * Checks settings.
 *
 * @throws PlumbError INVALID_ARGUMENT naming the setting that is out of range
 */
export function checkMisbehaviour(settings: Misbehaviour): Misbehaviour {
  for (const name of ['noiseRate', 'faultRate'] as const) {
    if (!(settings[name] >= 0 && settings[name] <= 1)) {
      throw invalidArgument(name, `is ${settings[name]}; give a share from 0 to 1`);
    }
  }
  for (const name of ['latencyMs', 'retryAfterSeconds'] as const) {
    if (!(settings[name] >= 0 && settings[name] <= 600_000)) {
      throw invalidArgument(name, `is ${settings[name]}; give a number from 0 to 600000`);
    }
  }
  for (const [category, bias] of Object.entries(settings.bias)) {
    if (!(bias >= -1 && bias <= 1)) {
      throw invalidArgument(`bias.${category}`, `is ${bias}; give a share from -1 to 1`);
    }
  }
  if (settings.faultRate > 0 && settings.faults.length === 0) {
    throw invalidArgument('faults', `is empty; name at least one of ${faultKinds.join(', ')}`);
  }
  return settings;
}

/**
 * True if the verdict on this content is to be turned round.
 *
 * @param content hash of the content; a caller that samples (temperature above 0) adds its seed, so that votes differ
 * @param accept the verdict as it is
 */
export function isNoisy(
  { noiseRate, bias, seed }: Misbehaviour,
  content: string,
  category: Category,
  accept: boolean,
): boolean {
  if (share(`noise/${seed}/${content}`) < noiseRate) return true;
  const lean = bias[category] ?? 0;
  return (accept ? -lean : lean) > share(`bias/${seed}/${content}`);
}

const numbers = ['noise', 'latency', 'fault', 'seed'] as const;

/**
 * Misbehaviour that a request asks for by its model's name: `toybox-referee@noise=0.2,bias.FD=0.3,seed=4`. Keys are noise
 * (noiseRate), latency (ms), fault (faultRate), seed and bias.<category>; what is not named is as the endpoint was started.
 *
 * @throws PlumbError INVALID_ARGUMENT for another model, an unknown key or a value out of range
 */
export function misbehaviourOf(model: string, standard: Misbehaviour): Misbehaviour {
  const [name, options, ...rest] = model.split('@');
  if (name !== refereeModel || rest.length > 0) {
    throw invalidArgument(
      'model',
      `is ${JSON.stringify(model.slice(0, 80))}; ${refereeModel} is the only one here, with options as in ${refereeModel}@noise=0.2`,
    );
  }
  if (options === undefined) return standard;
  const given = { ...standard, bias: { ...standard.bias } };
  for (const option of options.split(',')) {
    const [key = '', text = ''] = option.split('=');
    const value = text.trim() === '' ? Number.NaN : Number(text);
    const category = categories.find((known) => key === `bias.${known}`);
    const number = numbers.find((known) => key === known);
    if (Number.isNaN(value) || (category === undefined && number === undefined)) {
      throw invalidArgument(
        'model',
        `has the option ${JSON.stringify(option.slice(0, 40))}; known are ${numbers.join(', ')} and bias.<category>, each with a number`,
      );
    }
    if (category !== undefined) given.bias[category] = value;
    if (number === 'noise') given.noiseRate = value;
    if (number === 'latency') given.latencyMs = value;
    if (number === 'fault') given.faultRate = value;
    if (number === 'seed') given.seed = value;
  }
  return checkMisbehaviour(given);
}

/**
 * The fault of a call, or undefined if it is answered.
 *
 * @param attempt how often this content was asked about before
 */
export function faultOf(settings: Misbehaviour, contentHash: string, attempt: number): FaultKind | undefined {
  const key = `${settings.seed}/${contentHash}/${attempt}`;
  if (share(`fault/${key}`) >= settings.faultRate) return undefined;
  return settings.faults[Math.floor(share(`kind/${key}`) * settings.faults.length)];
}

/** A number from 0 up to 1 that depends on the text alone, evenly spread. */
function share(text: string): number {
  return createHash('sha256').update(text).digest().readUInt32BE(0) / 2 ** 32;
}
