import { z } from 'zod';

/** Where a study keeps what it has. Names are relative paths of letters, digits, dashes, dots and slashes. */
export interface StudyRecords {
  /** Undefined where there is no such record. */
  read(name: string): Promise<Uint8Array | undefined>;
  /** Whole or not at all, also when the process is killed. */
  write(name: string, bytes: Uint8Array): Promise<void>;
  remove(name: string): Promise<void>;
}

const share = z.number().min(0).max(1);

/** One clip and all that is known of it; pixels lie elsewhere, if anywhere. */
export const scoredClipSchema = z.strictObject({
  promptId: z.string(),
  category: z.string(),
  /** From 0, within the prompt. */
  index: z.int().min(0),
  /** SHA-256 of the pixels. */
  sha256: z.string(),
  /** The referee's verdict, which is the toybox's ground truth. */
  accept: z.boolean(),
  /** Its grade, 1 to 5, and the grade of a judge that errs about this clip. */
  grade: z.int().min(1).max(5),
  wrongGrade: z.int().min(1).max(5),
  /** Whether the picture checks pass, whatever moves. */
  picture: z.boolean(),
  /** By reward. */
  values: z.record(z.string(), z.number()),
});

/** A group of clips that a model drew. */
export const groupRecordSchema = z.strictObject({
  format: z.literal(1),
  /** Hash of all that the group depends on. */
  key: z.string(),
  clips: z.array(scoredClipSchema),
  seconds: z.number(),
});

/** A finished cell of the matrix. */
export const cellRecordSchema = z.strictObject({
  format: z.literal(1),
  /** Hash of all that the cell depends on. */
  key: z.string(),
  seed: z.int(),
  arm: z.strictObject({
    algorithm: z.enum(['sft', 'filtered-sft', 'rwr', 'dpo', 'kto']),
    reward: z.string().optional(),
    judgeNoise: share.optional(),
    beta: z.number().optional(),
  }),
  trainingSetHash: z.string(),
  /** SHA-256 of the weights after training. */
  weightsHash: z.string(),
  set: z.strictObject({
    items: z.int(),
    effectiveSampleSize: z.number(),
    uninformativePromptRatio: share,
    acceptanceRate: share,
  }),
  training: z.strictObject({
    steps: z.int(),
    /** Mean over the last tenth of the steps. */
    loss: z.number(),
    anchorDistance: z.number(),
    seconds: z.number(),
  }),
  heldOut: z.array(scoredClipSchema),
});

export type ScoredClip = z.infer<typeof scoredClipSchema>;
export type GroupRecord = z.infer<typeof groupRecordSchema>;
export type CellRecord = z.infer<typeof cellRecordSchema>;
/** One setting of the matrix, whatever its seed. The control `sft` has no reward. */
export type Arm = CellRecord['arm'];
