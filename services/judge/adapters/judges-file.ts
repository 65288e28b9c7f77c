/** Reads the judges file and the rubrics that it names. */

import { readFile } from 'node:fs/promises';
import { dirname, resolve } from 'node:path';
import { parse } from 'yaml';
import { z } from 'zod';
import { PlumbError, describeError } from '@plumb/kit/errors';
import { defineJudge, judgesFileSchema } from '../domain/judge-definition.ts';
import type { EndpointDefinition, Judge } from '../domain/judge-definition.ts';
import { parseRubric } from '../domain/rubric.ts';
import type { Rubric } from '../domain/rubric.ts';

/** The environment as Node gives it. */
export type Environment = Readonly<Record<string, string | undefined>>;

/** A configured endpoint with its key, which is held here and in the client only. */
export interface ConfiguredEndpoint {
  readonly name: string;
  readonly definition: EndpointDefinition;
  readonly apiKey: string | undefined;
}

/** Everything that the judges file configures. */
export interface ConfiguredJudges {
  readonly endpoints: readonly ConfiguredEndpoint[];
  readonly judges: readonly Judge[];
}

/**
 * Reads a judges file. Base URLs may hold ${VARIABLE} or ${VARIABLE:-default}; keys are read from the variables that the
 * file names.
 *
 * @throws PlumbError INVALID_ARGUMENT, reason CONFIGURATION_INVALID, naming the file, the setting and the fix
 */
export async function readJudgesFile(path: string, env: Environment): Promise<ConfiguredJudges> {
  const document = parseYaml(await readText(path, 'PLUMB_JUDGES_FILE'), path);
  const result = judgesFileSchema.safeParse(substituteBaseUrls(document, env, path));
  if (!result.success) {
    const [issue] = result.error.issues;
    throw wrong(`${path}: ${issue?.path.join('.') ?? ''}: ${issue?.message ?? ''}`);
  }
  const file = result.data;
  const endpoints = Object.entries(file.endpoints).map(([name, definition]): ConfiguredEndpoint => {
    const variable = definition.apiKeyVariable;
    if (variable === undefined) return { name, definition, apiKey: undefined };
    const apiKey = env[variable];
    if (apiKey === undefined || apiKey === '') {
      throw wrong(
        `${variable} is not set; endpoints.${name}.apiKeyVariable in ${path} says that it holds the API key`,
      );
    }
    return { name, definition, apiKey };
  });
  const rubrics = new Map<string, Promise<Rubric>>();
  const judges: Judge[] = [];
  for (const [name, definition] of Object.entries(file.judges)) {
    const rubricPath = resolve(dirname(path), definition.rubric);
    const rubric = rubrics.get(rubricPath) ?? readRubric(rubricPath, `judges.${name}.rubric in ${path}`);
    rubrics.set(rubricPath, rubric);
    judges.push(defineJudge(name, definition, await rubric));
  }
  return { endpoints, judges };
}

async function readRubric(path: string, setting: string): Promise<Rubric> {
  const text = await readText(path, setting);
  try {
    return parseRubric(text);
  } catch (error) {
    throw wrong(`rubric ${path}: ${describeError(error)}`, error);
  }
}

async function readText(path: string, setting: string): Promise<string> {
  try {
    return await readFile(path, 'utf8');
  } catch (error) {
    throw wrong(`${setting} is '${path}', which cannot be read (${PlumbError.from(error).message})`, error);
  }
}

function parseYaml(text: string, path: string): unknown {
  try {
    return parse(text);
  } catch (error) {
    throw wrong(`${path} is not YAML: ${describeError(error)}`, error);
  }
}

const looseFile = z.looseObject({
  endpoints: z.record(z.string(), z.looseObject({ baseUrl: z.string().optional() })),
});

function substituteBaseUrls(document: unknown, env: Environment, path: string): unknown {
  const loose = looseFile.safeParse(document);
  // Not even roughly of the right shape: the strict schema says what is wrong.
  if (!loose.success) return document;
  const endpoints = Object.entries(loose.data.endpoints).map(([name, endpoint]) => {
    if (endpoint.baseUrl === undefined) return [name, endpoint];
    const baseUrl = endpoint.baseUrl.replaceAll(
      /\$\{([A-Z_][A-Z0-9_]*)(?::-([^}]*))?\}/g,
      (_, variable: string, fallback: string | undefined) => {
        const value = env[variable];
        if (value !== undefined && value !== '') return value;
        if (fallback !== undefined) return fallback;
        throw wrong(`${variable} is not set; endpoints.${name}.baseUrl in ${path} needs it`);
      },
    );
    return [name, { ...endpoint, baseUrl }];
  });
  return { ...loose.data, endpoints: Object.fromEntries(endpoints) };
}

function wrong(message: string, cause?: unknown): PlumbError {
  return new PlumbError({ code: 'INVALID_ARGUMENT', reason: 'CONFIGURATION_INVALID', message, cause });
}
