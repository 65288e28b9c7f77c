import { createHash } from 'node:crypto';
import type { Group } from './groups.ts';

/*
 * Ids and seeds are hashes of what they stand for: a restarted loop finds what it planned, and two runs with one seed draw
 * the same noise. Parts are hashed as a JSON array, so that no two lists of parts give the same bytes.
 */
function digest(kind: string, parts: readonly (string | number)[]): Buffer {
  return createHash('sha256')
    .update(JSON.stringify([kind, ...parts]))
    .digest();
}

/** The id of the run that an idempotency key stands for. */
export function runIdOf(idempotencyKey: string): string {
  return `run-${digest('run', [idempotencyKey]).toString('hex').slice(0, 16)}`;
}

/** The id of the label that an idempotency key stands for. */
export function labelIdOf(idempotencyKey: string): string {
  return `label-${digest('label', [idempotencyKey]).toString('hex').slice(0, 16)}`;
}

/** The id of the label session that an idempotency key stands for. */
export function labelSessionIdOf(idempotencyKey: string): string {
  return `labels-${digest('label session', [idempotencyKey]).toString('hex').slice(0, 16)}`;
}

/** What a sample's id is made of. */
export interface SampleIdentity {
  readonly runId: string;
  /** From 1. */
  readonly iteration: number;
  readonly split: 'train' | 'heldout';
  readonly modelVersion: string;
  readonly promptId: string;
  /** From 0, within the prompt. */
  readonly sampleIndex: number;
}

/** 32 hexadecimal digits. */
export function sampleIdOf(identity: SampleIdentity): string {
  const { runId, iteration, split, modelVersion, promptId, sampleIndex } = identity;
  return digest('sample', [runId, iteration, split, modelVersion, promptId, sampleIndex])
    .toString('hex')
    .slice(0, 32);
}

/**
 * The seed of a sample's initial noise, uint64. Held-out prompts have the same seeds in every iteration and for both
 * models, so that differences are paired. Training prompts get fresh noise from the second iteration on: a run whose first
 * candidate was refused would otherwise train on the very same clips again.
 */
export function noiseSeedOf(options: {
  readonly runSeed: bigint;
  readonly iteration: number;
  readonly group: Group;
  readonly promptId: string;
  readonly sampleIndex: number;
}): bigint {
  const { runSeed, iteration, group, promptId, sampleIndex } = options;
  const parts = [runSeed.toString(), group === 'train' ? 'train' : 'heldout', promptId, sampleIndex];
  const fresh = group === 'train' && iteration > 1 ? [iteration] : [];
  return digest('noise', [...parts, ...fresh]).readBigUInt64BE(0);
}

/** The seed of a training job's batches, timesteps and noise, uint64. */
export function trainingSeedOf(runSeed: bigint, iteration: number): bigint {
  return digest('training', [runSeed.toString(), iteration]).readBigUInt64BE(0);
}

/** The seed of the bootstrap that gives an evaluation its intervals, a 32-bit unsigned integer. */
export function bootstrapSeedOf(runSeed: bigint, iteration: number): number {
  return digest('bootstrap', [runSeed.toString(), iteration]).readUInt32BE(0);
}

/**
 * Everything that a clip depends on: two samples with one key have the same clip, bit for bit on one machine, so one may
 * take the other's over.
 */
export function clipKeyOf(options: {
  readonly modelSha256: string;
  readonly promptText: string;
  readonly seed: bigint;
  readonly sampler: { readonly steps: number; readonly guidance: number; readonly shift: number };
}): string {
  const { modelSha256, promptText, seed, sampler } = options;
  const settings = [sampler.steps, sampler.guidance, sampler.shift];
  return digest('clip', [modelSha256, promptText, seed.toString(), ...settings]).toString('hex');
}

/** `<model name>@<first 12 digits of the weights' SHA-256>`. */
export function modelVersionOf(model: string, sha256: string): string {
  return `${model}@${sha256.slice(0, 12)}`;
}
