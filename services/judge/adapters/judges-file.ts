/** Reads the judges file and the rubrics that it names. */

import { readFile } from 'node:fs/promises';
import { dirname, resolve } from 'node:path';
import { parse } from 'yaml';
import { z } from 'zod';
import { PlumbError, describeError } from '@plumb/kit/errors';
import { parseCalibration } from '../domain/calibration.ts';
import type { Calibration } from '../domain/calibration.ts';
import { defineJudge, definePanel, judgesFileSchema, shareOf } from '../domain/judge-definition.ts';
import type { EndpointDefinition, Judge, Panel } from '../domain/judge-definition.ts';
import { categories, parseRubric } from '../domain/rubric.ts';
import type { Category, Rubric } from '../domain/rubric.ts';
import type { Budget } from '@plumb/endpoint';

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
  readonly panels: readonly Panel[];
  /** ISO 4217 code of all prices and budgets. */
  readonly currency: string;
  /** Budget of a run for which nobody has set one. */
  readonly budget: Budget;
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
  const endpoints = Object.entries(file.endpoints).map(([name, whole]): ConfiguredEndpoint => {
    const definition = shareOf(whole, file.replicas);
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
  const known = new Map<string, Promise<Rubric>>();
  const rubricAt = (relative: string, setting: string): Promise<Rubric> => {
    const rubricPath = resolve(dirname(path), relative);
    const rubric = known.get(rubricPath) ?? readRubric(rubricPath, `${setting} in ${path}`);
    known.set(rubricPath, rubric);
    return rubric;
  };
  const judges: Judge[] = [];
  for (const [name, definition] of Object.entries(file.judges)) {
    const rubrics: Partial<Record<Category, Rubric>> = {};
    for (const category of categories) {
      const relative = definition.rubrics[category];
      if (relative === undefined) continue;
      rubrics[category] = await rubricAt(relative, `judges.${name}.rubrics.${category}`);
    }
    const rubric = await rubricAt(definition.rubric, `judges.${name}.rubric`);
    const uncalibrated = defineJudge(name, definition, { rubric, rubrics });
    if (definition.calibration === undefined) {
      judges.push(uncalibrated);
      continue;
    }
    const setting = `judges.${name}.calibration in ${path}`;
    const calibration = await readCalibration(resolve(dirname(path), definition.calibration), setting);
    if (calibration.askHash !== uncalibrated.askHash || calibration.votes !== definition.votes) {
      throw wrong(
        `${setting} was fitted to another judge: model, rubric, frames, sampling or votes have changed since; run \`plumb judge calibrate\` again, or leave it out`,
      );
    }
    judges.push(defineJudge(name, definition, { rubric, rubrics, calibration }));
  }
  const panels = Object.entries(file.panels).map(([name, definition]) =>
    definePanel(
      name,
      definition,
      // The schema has seen that every member is there.
      definition.judges.flatMap((member) => judges.find((judge) => judge.name === member) ?? []),
    ),
  );
  return { endpoints, judges, panels, currency: file.currency, budget: file.budget };
}

async function readCalibration(path: string, setting: string): Promise<Calibration> {
  const text = await readText(path, setting);
  try {
    return parseCalibration(text);
  } catch (error) {
    throw wrong(`calibration ${path}: ${describeError(error)}`, error);
  }
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
    // Merge keys (<<) let judges share settings.
    return parse(text, { merge: true });
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
