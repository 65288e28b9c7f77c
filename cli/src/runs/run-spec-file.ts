import { readFile } from 'node:fs/promises';
import { dirname, resolve } from 'node:path';
import { describeError, fieldPath, invalidArgument, invalidArguments, notFound } from '@plumb/kit/errors';
import { checkedRunSpec, isRegisteredVersion, runSpecSchema } from '@plumb/run-spec';
import type { CheckedRunSpec } from '@plumb/run-spec';
import { parse } from 'yaml';

/** A run spec that was read and checked; its paths are absolute. */
export interface RunSpecFile extends CheckedRunSpec {
  /** Absolute path of a weights file, or a registered version. */
  readonly model: { readonly path: string } | { readonly version: string };
  readonly prompts: {
    readonly path: string;
    readonly train: number | undefined;
    readonly heldout: number | undefined;
  };
}

/**
 * Reads a run spec in YAML or JSON.
 * @throws PlumbError NOT_FOUND for the file; INVALID_ARGUMENT naming the file, each bad field and its fix. What fields say
 * together is checked by the loop, which sees every spec.
 */
export async function readRunSpecFile(path: string): Promise<RunSpecFile> {
  let text: string;
  try {
    text = await readFile(path, 'utf8');
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code !== 'ENOENT') throw error;
    throw notFound('run spec', path, { fix: 'specs/ has some to start from' });
  }
  return parseRunSpec(text, path);
}

/** As {@link readRunSpecFile}, from the text; relative paths start at the folder of `path`. */
export function parseRunSpec(text: string, path: string): RunSpecFile {
  let value: unknown;
  try {
    // JSON is YAML.
    value = parse(text);
  } catch (error) {
    throw invalidArgument(path, `is neither YAML nor JSON: ${describeError(error)}`, { cause: error });
  }
  const parsed = runSpecSchema.safeParse(value);
  if (!parsed.success) {
    throw invalidArguments(
      parsed.error.issues.map((issue) => ({
        field: `${path}: ${issue.path.length === 0 ? '(whole)' : fieldPath(issue.path)}`,
        description: issue.message,
      })),
    );
  }
  const data = parsed.data;
  const at = (file: string): string => resolve(dirname(path), file);
  return {
    model: isRegisteredVersion(data.model) ? { version: data.model } : { path: at(data.model) },
    prompts: {
      path: at(data.prompts.set),
      train: data.prompts.trainPerCategory,
      heldout: data.prompts.heldoutPerCategory,
    },
    ...checkedRunSpec(data, (field) => `${path}: ${field}`),
  };
}
