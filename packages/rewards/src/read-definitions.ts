/** Reads definitions and the files that they name. */

import { createHash } from 'node:crypto';
import { readFile, readdir } from 'node:fs/promises';
import { dirname, join, resolve } from 'node:path';
import { alreadyExists, dataLoss, invalidArgument, PlumbError } from '@plumb/kit/errors';
import { parse } from 'yaml';
import { parseRewardDefinition } from './definition.ts';
import type { FileReference, RewardDefinition } from './definition.ts';

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
  const sha256 = createHash('sha256').update(bytes).digest('hex');
  if (sha256 !== reference.sha256) {
    throw dataLoss(
      `${path} has SHA-256 ${sha256}, but its reward definition names ${reference.sha256}; ` +
        'get the right file, or put its hash into the definition if you trust it',
      { reason: 'MODEL_CORRUPT' },
    );
  }
  return bytes;
}

async function readText(file: string): Promise<string> {
  try {
    return await readFile(file, 'utf8');
  } catch (error) {
    throw PlumbError.from(error);
  }
}
