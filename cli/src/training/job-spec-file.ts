import { readFile } from 'node:fs/promises';
import { dirname, resolve } from 'node:path';
import { describeError, fieldPath, invalidArgument, invalidArguments, notFound } from '@plumb/kit/errors';
import {
  AdaptersSchema,
  ObjectiveSchema,
  OptimisationSchema,
  ProbeSchema,
} from '@plumb/proto/plumb/trainer/v1/trainer_pb.js';
import type { Adapters, Objective, Optimisation, Probe } from '@plumb/proto/plumb/trainer/v1/trainer_pb.js';
import { message } from '@plumb/run-spec';
import { parse } from 'yaml';
import { z } from 'zod';
import { isModelPath } from '../models/named-model.ts';

const section = z.record(z.string(), z.unknown(), { error: 'must be a mapping of settings' });

const fileSchema = z.strictObject({
  /** Path of a data-set manifest, or artifact:sha256/<hash> of one in the state folder. */
  dataSet: z.string({ error: 'is missing; give the path or the artifact URI of a data-set manifest' }).min(1),
  /** Path or registered version of the model to start from. */
  base: z
    .string({ error: 'is missing; give the path of a model file, or a version such as toybox@promoted' })
    .min(1),
  /** Path or registered version of the reference p_ref; the base unless given. */
  reference: z.string().min(1).optional(),
  objective: section,
  optimisation: section,
  adapters: section.optional(),
  probe: section.optional(),
  seed: z
    .union([z.int().min(0), z.string().regex(/^\d{1,20}$/)], {
      error: 'must be a whole number from 0 to 2^64 - 1, in quotes above 2^53',
    })
    .default(0)
    .transform(BigInt)
    .refine((seed) => seed < 2n ** 64n, 'must be below 2^64'),
});

/** What a person writes about a training job; paths are absolute. */
export interface JobSpecFile {
  /** An artifact URI or a path. */
  readonly dataSet: string;
  /** A path or a registered version, as the reference is. */
  readonly base: string;
  readonly reference: string | undefined;
  readonly objective: Objective;
  readonly optimisation: Optimisation;
  readonly adapters: Adapters | undefined;
  readonly probe: Probe | undefined;
  readonly seed: bigint;
}

/** The scheme of artifacts in a store. */
export const artifactScheme = 'artifact:';

/**
 * Reads a job spec in YAML or JSON. Its sections have the fields of the trainer's messages (camelCase or as in the
 * proto), whose values the trainer checks. Relative paths start at the file's folder.
 * @throws PlumbError NOT_FOUND for the file, INVALID_ARGUMENT naming file and field
 */
export async function readJobSpecFile(path: string): Promise<JobSpecFile> {
  let text: string;
  try {
    text = await readFile(path, 'utf8');
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code !== 'ENOENT') throw error;
    throw notFound('job spec', path, { fix: 'docs/training.md has one to start from' });
  }
  let value: unknown;
  try {
    // JSON is YAML.
    value = parse(text);
  } catch (error) {
    throw invalidArgument(path, `is neither YAML nor JSON: ${describeError(error)}`, { cause: error });
  }
  const parsed = fileSchema.safeParse(value);
  if (!parsed.success) {
    throw invalidArguments(
      parsed.error.issues.map((issue) => ({
        field: fieldPath([path, ...issue.path]),
        description: issue.message,
      })),
    );
  }
  const { dataSet, base, reference, objective, optimisation, adapters, probe, seed } = parsed.data;
  const at = (name: string): string => resolve(dirname(path), name);
  const modelAt = (name: string): string => (isModelPath(name) ? at(name) : name);
  return {
    dataSet: dataSet.startsWith(artifactScheme) ? dataSet : at(dataSet),
    base: modelAt(base),
    reference: reference === undefined ? undefined : modelAt(reference),
    objective: message(ObjectiveSchema, objective, `${path}: objective`),
    optimisation: message(OptimisationSchema, optimisation, `${path}: optimisation`),
    adapters: adapters === undefined ? undefined : message(AdaptersSchema, adapters, `${path}: adapters`),
    probe: probe === undefined ? undefined : message(ProbeSchema, probe, `${path}: probe`),
    seed,
  };
}
