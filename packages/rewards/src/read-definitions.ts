/** Reads definitions and the files that they name. */

import { createHash } from 'node:crypto';
import { createReadStream } from 'node:fs';
import { readFile, readdir } from 'node:fs/promises';
import { dirname, join, resolve } from 'node:path';
import { alreadyExists, dataLoss, invalidArgument, PlumbError } from '@plumb/kit/errors';
import { parse } from 'yaml';
import { parseRewardDefinition } from './definition.ts';
import type { FileReference, ModelReference, RewardDefinition } from './definition.ts';

/** A definition and the folder that its paths start at. */
export interface LocatedDefinition {
  readonly definition: RewardDefinition;
  readonly folder: string;
}

/**
 * Reads one definition.
 *
 * @throws PlumbError INVALID_ARGUMENT naming the file and the field that is wrong; NOT_FOUND when there is no such file
 */
export async function readRewardDefinition(file: string): Promise<LocatedDefinition> {
  const text = await readText(file);
  let value: unknown;
  try {
    value = parse(text);
  } catch (error) {
    throw invalidArgument(file, `is no YAML: ${error instanceof Error ? error.message : String(error)}`, {
      reason: 'CONFIGURATION_INVALID',
      cause: error,
    });
  }
  return { definition: parseRewardDefinition(value, file), folder: dirname(resolve(file)) };
}

/**
 * Reads every `*.yaml` of a folder, in the order of their names; not the folders within it.
 *
 * @throws PlumbError what `readRewardDefinition` throws; ALREADY_EXISTS when two files define one name
 */
export async function readRewardDefinitions(folder: string): Promise<readonly LocatedDefinition[]> {
  let names: string[];
  try {
    names = await readdir(folder);
  } catch (error) {
    throw PlumbError.from(error);
  }
  const found: LocatedDefinition[] = [];
  for (const name of names.filter((one) => one.endsWith('.yaml')).toSorted()) {
    const located = await readRewardDefinition(join(folder, name));
    if (found.some(({ definition }) => definition.name === located.definition.name)) {
      throw alreadyExists('reward', located.definition.name);
    }
    found.push(located);
  }
  return found;
}

/**
 * The bytes of a file that a definition names.
 *
 * @throws PlumbError NOT_FOUND when it is not there; DATA_LOSS, reason MODEL_CORRUPT, when it has another hash
 */
export async function readReferenced(folder: string, reference: FileReference): Promise<Uint8Array> {
  const path = resolve(folder, reference.file);
  let bytes: Uint8Array;
  try {
    bytes = await readFile(path);
  } catch (error) {
    throw PlumbError.from(error);
  }
  checkHash(path, reference, createHash('sha256').update(bytes).digest('hex'));
  return bytes;
}

/** A model as an engine loads it. */
export interface ReferencedModel {
  readonly bytes: Uint8Array;
  /** Absolute path of the folder that its external weights lie in; undefined where it has none. */
  readonly weightsFolder: string | undefined;
}

/**
 * The model that a definition names. External weights may have any size: they are hashed as a stream and not kept.
 *
 * @throws PlumbError as `readReferenced`, for the model and for its weights; INVALID_ARGUMENT for weights in another folder
 */
export async function readModel(folder: string, model: ModelReference): Promise<ReferencedModel> {
  const bytes = await readReferenced(folder, model);
  const { weights } = model;
  if (weights === undefined) return { bytes, weightsFolder: undefined };
  const [path, weightsFolder] = [resolve(folder, weights.file), dirname(resolve(folder, model.file))];
  if (!path.startsWith(`${weightsFolder}/`)) {
    throw invalidArgument(
      'weights.file',
      `is ${weights.file}; external weights lie in the folder of their model`,
      {
        reason: 'CONFIGURATION_INVALID',
      },
    );
  }
  checkHash(path, weights, await hashFile(path));
  return { bytes, weightsFolder };
}

/** SHA-256 of a file of any size. @throws PlumbError NOT_FOUND when it is not there */
export async function hashFile(path: string): Promise<string> {
  const hash = createHash('sha256');
  try {
    for await (const part of createReadStream(path, { highWaterMark: 2 ** 20 })) hash.update(part as Buffer);
  } catch (error) {
    throw PlumbError.from(error);
  }
  return hash.digest('hex');
}

function checkHash(path: string, reference: FileReference, sha256: string): void {
  if (sha256 === reference.sha256) return;
  throw dataLoss(
    `${path} has SHA-256 ${sha256}, but its reward definition names ${reference.sha256}; ` +
      'get the right file, or put its hash into the definition if you trust it',
    { reason: 'MODEL_CORRUPT' },
  );
}

async function readText(file: string): Promise<string> {
  try {
    return await readFile(file, 'utf8');
  } catch (error) {
    throw PlumbError.from(error);
  }
}
