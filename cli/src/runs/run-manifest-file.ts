import { readFile } from 'node:fs/promises';
import { createHash } from 'node:crypto';
import { failedPrecondition, invalidArgument, notFound } from '@plumb/kit/errors';
import { artifactUri, openArtifactStore } from '@plumb/media';
import type { Run } from '@plumb/proto/plumb/loop/v1/loop_pb.js';
import { z } from 'zod';

const named = z.object({ version: z.string(), sha256: z.string() });
const count = z.object({ samples: z.int(), errors: z.int(), accepted: z.int() });
const hash = z.string();

const runManifestSchema = z.object({
  kind: z.literal('plumb.run'),
  version: z.literal(1),
  runId: z.string(),
  idempotencyKey: z.string(),
  base: named,
  promptSetHash: hash,
  seed: z.string(),
  spec: z.record(z.string(), z.json()),
  iterations: z.array(
    z.object({
      iteration: z.int(),
      before: named,
      after: named,
      dataSet: hash,
      job: hash,
      evaluation: hash,
      promoted: z.boolean(),
      counts: z.object({ train: count, before: count, after: count }),
    }),
  ),
});

/** Everything from which a run can be repeated, as the loop wrote it. */
export type RunManifest = z.infer<typeof runManifestSchema>;

/** Bytes of a manifest that are known by their hash. */
export interface ManifestFile {
  readonly bytes: Uint8Array;
  readonly sha256: string;
}

/**
 * The bytes of a manifest: a file, or an artifact by its SHA-256.
 * @throws PlumbError NOT_FOUND
 */
export async function readManifestBytes(
  name: string,
  artifactFolder: string | undefined,
): Promise<ManifestFile> {
  if (/^[0-9a-f]{64}$/.test(name)) {
    if (artifactFolder === undefined) {
      throw failedPrecondition('the artifact store of that address is out of reach; name a manifest file');
    }
    const store = await openArtifactStore(artifactFolder);
    return { bytes: await store.get(artifactUri(name), name), sha256: name };
  }
  try {
    const bytes = await readFile(name);
    return { bytes, sha256: createHash('sha256').update(bytes).digest('hex') };
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code !== 'ENOENT') throw error;
    throw notFound('manifest', name, { fix: '`./plumb run manifest <run>` writes one' });
  }
}

/**
 * The manifest of a run, or that of a file or hash.
 * @throws PlumbError FAILED_PRECONDITION for a run that has not succeeded, INVALID_ARGUMENT for what is no run manifest
 */
export async function readRunManifest(
  source: Run | string,
  artifactFolder: string | undefined,
): Promise<ManifestFile & { readonly manifest: RunManifest }> {
  const name = typeof source === 'string' ? source : source.manifest?.sha256;
  if (name === undefined) {
    throw failedPrecondition(`run '${(source as Run).id}' has no manifest: it has not succeeded yet`, {
      reason: 'RUN_CONFLICT',
    });
  }
  const file = await readManifestBytes(name, artifactFolder);
  return { ...file, manifest: parseRunManifest(file.bytes, name) };
}

/** @throws PlumbError INVALID_ARGUMENT */
export function parseRunManifest(bytes: Uint8Array, name: string): RunManifest {
  const parsed = runManifestSchema.safeParse(jsonOf(bytes));
  if (!parsed.success) {
    throw invalidArgument(name, `is no run manifest: ${z.prettifyError(parsed.error).replaceAll('\n', ' ')}`);
  }
  return parsed.data;
}

function jsonOf(bytes: Uint8Array): unknown {
  try {
    return JSON.parse(new TextDecoder().decode(bytes));
  } catch {
    // The schema says that it is none.
    return undefined;
  }
}

/** What is said of samples, and of the figures of an evaluation, at most; the rest is counted. */
const mostSamples = 5;
const mostResults = 5;

/** In what two runs differ, in sentences; empty when in nothing. Names of runs and times are no difference. */
export async function differencesOf(
  a: RunManifest,
  b: RunManifest,
  artifactFolder: string | undefined,
  otherFolder: string | undefined = artifactFolder,
): Promise<string[]> {
  const differences = valueDifferences('spec', { ...a.spec, name: '' }, { ...b.spec, name: '' });
  for (let index = 0; index < Math.max(a.iterations.length, b.iterations.length); index += 1) {
    const [one, other] = [a.iterations[index], b.iterations[index]];
    if (one === undefined || other === undefined) {
      differences.push(`iteration ${index + 1}: only one of the runs has it`);
      continue;
    }
    const { dataSet, job: _job, evaluation, ...plain } = one;
    const { dataSet: otherSet, job: _otherJob, evaluation: otherEvaluation, ...otherPlain } = other;
    differences.push(...valueDifferences(`iteration ${one.iteration}`, plain, otherPlain));
    differences.push(
      ...(await resultDifferences(
        `iteration ${one.iteration}`,
        [evaluation, artifactFolder],
        [otherEvaluation, otherFolder],
      )),
      ...(await sampleDifferences(
        `iteration ${one.iteration}, training clips`,
        [dataSet, artifactFolder],
        [otherSet, otherFolder],
      )),
      ...(await sampleDifferences(
        `iteration ${one.iteration}, held-out clips`,
        [evaluation, artifactFolder],
        [otherEvaluation, otherFolder],
      )),
    );
  }
  return differences;
}

type Located = readonly [sha256: string, artifactFolder: string | undefined];

/** Means, intervals and the gate's reasons, where two evaluations differ in them. */
async function resultDifferences(place: string, a: Located, b: Located): Promise<string[]> {
  if (a[0] === b[0] || a[1] === undefined || b[1] === undefined) return [];
  const [one, other] = [await resultOf(...a), await resultOf(...b)];
  const differences = valueDifferences(place, one, other);
  const more = differences.length - mostResults;
  return more > 0
    ? [...differences.slice(0, mostResults), `${place}: ${more} more figures of the evaluation differ`]
    : differences;
}

const resultSchema = z.object({
  result: z.object({ verdict: z.json(), heldOut: z.json().optional() }),
  decision: z.json().optional(),
});

async function resultOf(sha256: string, artifactFolder: string | undefined): Promise<unknown> {
  const { bytes } = await readManifestBytes(sha256, artifactFolder);
  const { result, decision } = resultSchema.parse(jsonOf(bytes));
  return { result, decision };
}

async function sampleDifferences(place: string, a: Located, b: Located): Promise<string[]> {
  if (a[0] === b[0]) return [];
  if (a[1] === undefined || b[1] === undefined)
    return [`${place}: manifests ${short(a[0])} and ${short(b[0])}`];
  const [first, second] = [await scoredSamples(...a), await scoredSamples(...b)];
  const differences: string[] = [];
  const versions = valueDifferences(`${place}: version of reward`, first.rewards, second.rewards);
  const [one, other] = [first.samples, second.samples];
  for (const key of new Set([...one.keys(), ...other.keys()])) {
    const [x, y] = [one.get(key), other.get(key)];
    if (x === y) continue;
    differences.push(`${place}, ${key}: ${x ?? 'no sample'} and ${y ?? 'no sample'}`);
  }
  const more = differences.length - mostSamples;
  return more > 0
    ? [...versions, ...differences.slice(0, mostSamples), `${place}: ${more} more samples differ`]
    : [...versions, ...differences];
}

const sampleSchema = z.object({
  promptId: z.string(),
  seed: z.string(),
  sha256: z.string().optional(),
  video: z.object({ sha256: z.string() }).optional(),
  scores: z.record(
    z.string(),
    z.object({
      value: z.number().optional(),
      version: z.string().optional(),
      weightsHash: z.string().optional(),
    }),
  ),
});
const samplesSchema = z.object({
  // Data sets list them; evaluations have them with each score.
  rewards: z.array(z.object({ name: z.string(), version: z.string(), weightsHash: z.string() })).optional(),
  samples: z.union([
    z.array(sampleSchema),
    z.object({ before: z.array(sampleSchema), after: z.array(sampleSchema) }),
  ]),
});

interface ScoredSamples {
  /** Version and hash by reward. */
  readonly rewards: Readonly<Record<string, string>>;
  /** By prompt, seed and model, each with the hash of its clip and its scores. */
  readonly samples: ReadonlyMap<string, string>;
}

async function scoredSamples(sha256: string, artifactFolder: string | undefined): Promise<ScoredSamples> {
  const { bytes } = await readManifestBytes(sha256, artifactFolder);
  const { samples, rewards: listed = [] } = samplesSchema.parse(jsonOf(bytes));
  const groups = Array.isArray(samples) ? { train: samples } : samples;
  const found = new Map<string, string>();
  const rewards: Record<string, string> = {};
  for (const { name, version, weightsHash } of listed) rewards[name] = `${version} (${short(weightsHash)})`;
  for (const [group, list] of Object.entries(groups)) {
    for (const { promptId, seed, sha256: own, video, scores } of list) {
      const values = Object.entries(scores).map(([reward, { value, version, weightsHash }]) => {
        if (version !== undefined) rewards[reward] = `${version} (${short(weightsHash ?? '')})`;
        return `${reward} ${value ?? 'error'}`;
      });
      found.set(
        `${group} ${promptId} seed ${seed}`,
        `clip ${short(own ?? video?.sha256 ?? '')} ${values.join(' ')}`,
      );
    }
  }
  return { rewards, samples: found };
}

function short(sha256: string): string {
  return sha256.slice(0, 12);
}

/** Where two JSON values differ, by their path; at most some. */
export function valueDifferences(path: string, a: unknown, b: unknown): string[] {
  if (isRecord(a) && isRecord(b)) {
    const keys = [...new Set([...Object.keys(a), ...Object.keys(b)])];
    return keys.flatMap((key) => valueDifferences(`${path}.${key}`, a[key], b[key])).slice(0, 50);
  }
  if (a === b) return [];
  return [`${path}: ${shown(a)} and ${shown(b)}`];
}

function isRecord(value: unknown): value is Readonly<Record<string, unknown>> {
  return typeof value === 'object' && value !== null;
}

function shown(value: unknown): string {
  if (value === undefined) return 'nothing';
  const text = JSON.stringify(value);
  return text.length <= 80 ? text : `${text.slice(0, 77)}...`;
}
