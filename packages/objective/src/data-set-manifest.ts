import { z } from 'zod';

const sha256 = z.string().regex(/^[0-9a-f]{64}$/, 'must be 64 lower-case hexadecimal digits');
const text = z.string().min(1);

/** Where the clip of a sample lies and how it is decoded (plumb.media.v1.Video by reference). */
const video = z.strictObject({
  uri: text,
  sha256,
  mediaType: text,
  width: z.int().positive(),
  height: z.int().positive(),
  frameCount: z.int().positive(),
  /** Frames a second. */
  fps: z.number().positive(),
});

/** A value or a typed error, never both: an error does not become a number. */
const outcome = z.union([
  z.strictObject({ value: z.number() }),
  z.strictObject({ error: z.strictObject({ code: text, reason: z.string(), message: z.string() }) }),
]);

/**
 * The frozen data set of one iteration, from which its training job can be repeated. Samples are sorted by id and the file is
 * written as canonical JSON (RFC 8785), so that equal data sets have equal hashes.
 */
export const dataSetManifestSchema = z.strictObject({
  kind: z.literal('plumb.data-set'),
  version: z.literal(1),
  runId: text,
  /** From 1. */
  iteration: z.int().positive(),
  /** The model that made the samples: p_ref. */
  model: z.strictObject({ version: text, sha256 }),
  promptSetHash: sha256,
  sampler: z.strictObject({ steps: z.int().positive(), guidance: z.number(), shift: z.number().positive() }),
  /**
   * What scored the samples; a reward whose version changed in the middle is listed once a version, and a judge with rubrics
   * for single categories once a rubric.
   */
  rewards: z.array(
    z.strictObject({
      name: text,
      version: z.string(),
      weightsHash: z.string(),
      /** Of a judge's rubric; absent for other rewards. */
      rubricHash: sha256.optional(),
    }),
  ),
  /**
   * There when people's verdicts stand in place of a reward's: which one's, for how many samples, and of how many of them
   * the reward said otherwise.
   */
  humanLabels: z.strictObject({ reward: text, samples: z.int().min(0), changed: z.int().min(0) }).optional(),
  samples: z.array(
    z.strictObject({
      sampleId: text,
      promptId: text,
      prompt: text,
      /** Category id: OR, MO, DO, DM or FD. */
      category: text,
      /** uint64 as decimal digits: JSON numbers do not hold it. */
      seed: z.string().regex(/^\d{1,20}$/),
      video,
      /** What the clip was decoded from, one safetensors tensor `latents`: of pipelines, which are trained on it. */
      latents: z.strictObject({ uri: text, sha256 }).optional(),
      /** Keyed by reward name. */
      scores: z.record(z.string(), outcome),
      /** What most raters of the clip say, with their numbers. Scores stay as they were given. */
      human: z
        .strictObject({ accept: z.boolean(), accepting: z.int().min(0), rejecting: z.int().min(0) })
        .optional(),
    }),
  ),
  excluded: z.array(z.strictObject({ sampleId: text, reason: text })),
});

export type DataSetManifest = z.infer<typeof dataSetManifestSchema>;

/** Media type of the manifest's artifact. */
export const dataSetMediaType = 'application/vnd.plumb.data-set+json';
