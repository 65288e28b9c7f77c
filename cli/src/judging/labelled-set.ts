import { createHash } from 'node:crypto';
import { readFile } from 'node:fs/promises';
import { dirname, resolve } from 'node:path';
import { describeError, invalidArgument } from '@plumb/kit/errors';
import { Category } from '@plumb/proto/plumb/prompts/v1/prompt_pb.js';
import { z } from 'zod';
import { readClip } from './clip-file.ts';
import type { ReadClip } from './clip-file.ts';

const categoryNames = ['OR', 'MO', 'DO', 'DM', 'FD'] as const;

/** The categories as messages have them. */
export const categoryOf: Readonly<Record<(typeof categoryNames)[number], Category>> = {
  OR: Category.OBJECT_REMOVAL,
  MO: Category.MULTIPLE_OBJECTS,
  DO: Category.DEFORMABLE_OBJECT,
  DM: Category.DIRECTIONAL_MOVEMENT,
  FD: Category.FALLING_DOWN,
};

const labelSchema = z.strictObject({
  /** Path of the clip, from the file of labels. */
  clip: z.string().min(1),
  /** Frames of a PNG film strip. */
  frames: z.int().min(1).optional(),
  prompt: z.string().min(1),
  category: z.enum(categoryNames).optional(),
  /** What people say. */
  accept: z.boolean(),
  /** How it fails, in the words of the rubric. */
  failureMode: z.string().optional(),
});

/** A clip with what is true of it. */
export interface LabelledClip {
  readonly prompt: string;
  readonly category: (typeof categoryNames)[number] | undefined;
  readonly accept: boolean;
  /** Undefined for accepted clips, and where nobody has said. */
  readonly failureMode: string | undefined;
  readonly clip: () => Promise<ReadClip>;
}

/** Clips with labels, and the hash of where they came from. */
export interface LabelledSet {
  readonly name: string;
  readonly sha256: string;
  readonly clips: readonly LabelledClip[];
}

/**
 * Reads a file of labels: one JSON object a line.
 *
 * @throws PlumbError INVALID_ARGUMENT that names the line and the field
 */
export async function readLabels(path: string): Promise<LabelledSet> {
  const text = await readFile(path, 'utf8');
  const clips = text.split('\n').flatMap((line, index): LabelledClip[] => {
    if (line.trim() === '') return [];
    const where = `${path}, line ${index + 1}`;
    let value: unknown;
    try {
      value = JSON.parse(line);
    } catch (error) {
      throw invalidArgument('labels', `${where} is no JSON object: ${describeError(error)}`);
    }
    const result = labelSchema.safeParse(value);
    if (!result.success) throw invalidArgument('labels', `${where}: ${z.prettifyError(result.error)}`);
    const { clip, frames, prompt, category, accept, failureMode } = result.data;
    const file = clip.startsWith('toybox:') ? clip : resolve(dirname(path), clip);
    return [
      {
        prompt,
        category,
        accept,
        failureMode: accept ? undefined : failureMode,
        clip: () => readClip(file, frames),
      },
    ];
  });
  return { name: path, sha256: createHash('sha256').update(text).digest('hex'), clips };
}

// What the toybox calls its kinds of wrongness, in the words of the rubric.
const failureModes: Readonly<Record<string, string>> = {
  static: 'static',
  'wrong-direction': 'wrong_direction',
  floating: 'floating',
  'passing-through': 'interpenetrated',
  vanishing: 'vanished',
  'colour-change': 'wrong_colour',
  'container-moves': 'wrong_direction',
  'area-change': 'not_deformed',
};

/**
 * Clips of the toybox, labelled by how they were made: the truth, which no judge sees.
 *
 * @param seed of the first clip
 */
export async function toyboxLabels(count: number, seed: number): Promise<LabelledSet> {
  const clips: LabelledClip[] = [];
  for (let index = 0; index < count; index += 1) {
    const read = await readClip(`toybox:${seed + index}`, undefined);
    const { made } = read;
    if (made === undefined) throw new TypeError('a clip of the toybox without its caption');
    clips.push({
      prompt: made.caption,
      category: made.category,
      accept: made.wrongness === null,
      failureMode: made.wrongness === null ? undefined : failureModes[made.wrongness],
      clip: () => Promise.resolve(read),
    });
  }
  const name = `${count} clips of the toybox from seed ${seed}`;
  return { name, sha256: createHash('sha256').update(name).digest('hex'), clips };
}
