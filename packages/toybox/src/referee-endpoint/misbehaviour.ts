import { createHash } from 'node:crypto';
import { invalidArgument } from '@plumb/kit/errors';

/**
 * Ways in which an endpoint can fail to answer.
 *
 * server-error: HTTP 500. rate-limit: HTTP 429 with Retry-After. reset: the connection breaks in the middle of the
 * answer. truncated: the answer is cut off (finish_reason length). empty: no text. refusal: a refusal in place of an
 * answer. wrong-json: JSON of another shape. stall: no answer at all until the caller hangs up.
 */
export const faultKinds = [
  'server-error',
  'rate-limit',
  'reset',
  'truncated',
  'empty',
  'refusal',
  'wrong-json',
  'stall',
] as const;
export type FaultKind = (typeof faultKinds)[number];

/** How the endpoint misbehaves. Everything is decided by seed and content, never by chance or the clock. */
export type Misbehaviour = {
  /** Share of clips whose verdict is turned round, 0 to 1; the same clips each time. */
  readonly noiseRate: number;
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
  if (settings.faultRate > 0 && settings.faults.length === 0) {
    throw invalidArgument('faults', `is empty; name at least one of ${faultKinds.join(', ')}`);
  }
  return settings;
}

/** True if the verdict on this content is to be turned round. */
export function isNoisy({ noiseRate, seed }: Misbehaviour, contentHash: string): boolean {
  return share(`noise/${seed}/${contentHash}`) < noiseRate;
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
