/** Reward definitions: everything that a reward's value depends on besides the clip and the prompt, as data. */

import { invalidArguments } from '@plumb/kit/errors';
import { contentHash } from '@plumb/kit/content-hash';
import { z } from 'zod';

/** A file beside the definition, and what must be in it. */
const fileSchema = z.strictObject({
  /** Path from the definition's folder. */
  file: z.string().min(1),
  /** SHA-256 of the file, lower-case hexadecimal; a file with another one is refused. */
  sha256: z.string().regex(/^[0-9a-f]{64}$/, 'must be 64 lower-case hexadecimal digits'),
});

/** A clip whose value is recorded. The file is a film strip as `encodeClip` of `@plumb/media` writes it. */
const goldenClipSchema = z.strictObject({
  clip: fileSchema.extend({
    frames: z.int().min(1),
    width: z.int().min(1),
    height: z.int().min(1),
    fps: z.number().positive(),
  }),
  prompt: z.string().min(1),
  /** The value that the reward must give. */
  value: z.number(),
  /** Largest difference from it; 0 is none at all. */
  tolerance: z.number().min(0),
});

/** What every definition says. */
const general = {
  format: z.literal(1),
  /** Name under which the reward is asked for. */
  name: z.string().regex(/^[a-z][a-z0-9_]{0,62}$/, 'must be lower-case letters, digits and _'),
  /** One sentence for people. */
  description: z.string().min(1).max(500),
  /** Whether more or less of it is better. */
  direction: z.enum(['higher', 'lower']).default('higher'),
};

/** What every definition of a reward says that is scored here and not by a judge. */
const shared = {
  ...general,
  /** Version of the definition; whoever changes what a value means changes it. */
  version: z.string().min(1).max(64),
  /** Smallest and largest value that can occur; left out where there is no bound. A value outside is an error. */
  range: z
    .strictObject({ minimum: z.number().optional(), maximum: z.number().optional() })
    .refine(
      ({ minimum = -Infinity, maximum = Infinity }) => minimum < maximum,
      'minimum must be below maximum',
    )
    .default({}),
  /** Frames that are looked at: all of them, or so many spread evenly with the first and the last among them. */
  frames: z
    .union([
      z.literal('all'),
      z.strictObject({ count: z.int().min(1).max(1024), spacing: z.literal('uniform').default('uniform') }),
    ])
    .default('all'),
  /** Frames a second that clips must have; a clip with another rate gets an error. */
  fps: z.union([z.literal('any'), z.number().positive()]).default('any'),
  /** Checked at load: a reward that gives one of them another value does not become healthy. */
  golden: z.array(goldenClipSchema).max(64).default([]),
};

const triple = z.tuple([z.number(), z.number(), z.number()]);
const side = z.int().min(1).max(4096);

/** How a frame becomes the input of a vision tower, in this order: resize, crop, scale to 0..1, normalise. */
const imageSchema = z.strictObject({
  /**
   * `shortest-edge` keeps the proportions and gives the shorter side this length; `longest-edge` the longer one, centred
   * on black; `exact` squeezes to width and height.
   */
  resize: z.discriminatedUnion('mode', [
    z.strictObject({ mode: z.literal('shortest-edge'), size: side }),
    z.strictObject({ mode: z.literal('longest-edge'), size: side }),
    z.strictObject({ mode: z.literal('exact'), width: side, height: side }),
  ]),
  /** The middle of the picture that is kept; where it is larger than the picture, black surrounds it. */
  crop: z
    .strictObject({
      width: side,
      height: side,
      /** Where the middle lies when an odd number of pixels is cut: as transformers has it, or as torchvision. */
      rounding: z.enum(['down', 'half-even']).default('down'),
    })
    .optional(),
  /** As Pillow computes it: with antialiasing, in fixed point, rounded to whole levels after each axis. */
  interpolation: z.enum(['nearest', 'bilinear', 'bicubic', 'lanczos']),
  /** Of the channels red, green, blue at 0..1. */
  mean: triple,
  std: triple,
});

/** An ONNX model, of at most 2 GiB; larger ones keep their weights in a file of their own. */
const modelSchema = fileSchema.extend({
  /** The file of its external weights, in the model's folder under the name that the model gives it. */
  weights: fileSchema.optional(),
});
/** What runs a model: `cuda` needs a GPU and the runtime's libraries for it; the CPU unless given. */
const deviceSchema = z.enum(['cpu', 'cuda']).optional();

/** One tower: an ONNX file, and the names of what goes in and comes out. */
const visionSchema = modelSchema.extend({
  input: z.string().default('pixel_values'),
  /** Type of its pixels; float32 unless given. Embeddings of either type are taken. */
  inputType: z.enum(['float32', 'float16']).optional(),
  output: z.string().default('image_embeds'),
});
const textSchema = modelSchema.extend({
  /** Token ids, [batch, length]. */
  input: z.string().default('input_ids'),
  inputType: z.enum(['int64', 'int32']).default('int64'),
  /** 1 for a token and 0 for padding; left out where the model takes none. */
  mask: z.string().optional(),
  output: z.string().default('text_embeds'),
});

const clipFamily = {
  ...shared,
  /** A vision and a text tower. Where one file holds both, both name it and their own inputs and outputs. */
  model: z.strictObject({ vision: visionSchema, text: textSchema, device: deviceSchema }),
  /** tokenizer.json of the model (Hugging Face tokenizers). */
  tokenizer: fileSchema.extend({
    /** Longest prompt in tokens, with those for begin and end. Longer ones are cut and keep their last token. */
    maxLength: z.int().min(2).max(4096).default(77),
    /** Shorter prompts are filled up to maxLength with this token; left out, they stay as long as they are. */
    padId: z.int().min(0).optional(),
    /** A prompt in which this token occurs is refused; left out where the tokeniser knows every word. */
    unknownId: z.int().min(0).optional(),
  }),
  /** Written out, or read from the model's preprocessor_config.json. */
  image: z.union([imageSchema, fileSchema]),
  /** The value is this times the cosine between picture and prompt, averaged over frames. */
  logitScale: z.number().positive(),
  /** Frames that share a pass of the vision tower. Passes are always filled up to it, so that no value depends on others. */
  framesPerPass: z.int().min(1).max(1024).default(8),
};

const farnebackSchema = z.strictObject({
  method: z.literal('farneback'),
  /** Parameters of cv::calcOpticalFlowFarneback, under its names. */
  pyramidScale: z.number().gt(0).lt(1).default(0.5),
  levels: z.int().min(1).max(16).default(3),
  windowSize: z.int().min(3).max(255).default(15),
  iterations: z.int().min(1).max(64).default(3),
  polyN: z.union([z.literal(5), z.literal(7)]).default(5),
  polySigma: z.number().positive().default(1.2),
});

const flowModelSchema = modelSchema.extend({
  method: z.literal('onnx'),
  device: deviceSchema,
  /** Two frames [1, 3, height, width] in, flow in pixels [1, 2, height, width] (x, then y) out. */
  first: z.string().default('image1'),
  second: z.string().default('image2'),
  output: z.string().default('flow'),
  /** Values of a black and of a white pixel. */
  pixels: z.strictObject({ black: z.number(), white: z.number() }).default({ black: -1, white: 1 }),
  /** Width and height are filled up to a multiple of this by repeating the edge; the flow is cut back. */
  multipleOf: z.int().min(1).max(256).default(8),
  /** Frames with a shorter side below this are first enlarged (RAFT needs 128); the flow is scaled back. */
  smallestSide: z.int().min(1).max(4096).default(128),
});

/** A reward, by its kind. */
export const rewardDefinitionSchema = z.discriminatedUnion('kind', [
  z.strictObject({ kind: z.literal('clip-score'), ...clipFamily }),
  z.strictObject({ kind: z.literal('preference'), ...clipFamily }),
  z.strictObject({
    kind: z.literal('optical-flow'),
    ...shared,
    estimator: z.discriminatedUnion('method', [farnebackSchema, flowModelSchema]),
    /** A pixel moves when its flow is longer than this, in pixels a frame. */
    movingAbove: z.number().positive().default(0.5),
  }),
  z.strictObject({ kind: z.literal('motion-floor'), ...shared }),
  z.strictObject({ kind: z.literal('object-persistence'), ...shared }),
  z.strictObject({ kind: z.literal('colour-stability'), ...shared }),
  /** A judge's verdict; scored by the judge service, whose settings say version, frames and range. */
  z.strictObject({
    kind: z.literal('ai-feedback'),
    ...general,
    /** Name of the judge, in the judge service's configuration. */
    judge: z.string().min(1).default('default'),
    golden: z
      .array(goldenClipSchema)
      .max(0, 'is not for ai-feedback: whether a judge still answers as before, its calibration says')
      .default([]),
  }),
]);

export type RewardDefinition = z.infer<typeof rewardDefinitionSchema>;
/** Definitions of one kind. */
export type DefinitionOf<K extends RewardDefinition['kind']> = Extract<RewardDefinition, { kind: K }>;
/** Definitions of rewards that are scored here and not by a judge. */
export type ScoredDefinition = Exclude<RewardDefinition, { kind: 'ai-feedback' }>;
export type FileReference = z.infer<typeof fileSchema>;
export type ModelReference = z.infer<typeof modelSchema>;
export type GoldenClip = z.infer<typeof goldenClipSchema>;
export type ImagePreprocessing = z.infer<typeof imageSchema>;

/** @throws PlumbError INVALID_ARGUMENT with one violation for each wrong field; `source` says what is being read */
export function parseRewardDefinition(input: unknown, source: string): RewardDefinition {
  const parsed = rewardDefinitionSchema.safeParse(input);
  if (parsed.success) return parsed.data;
  throw invalidArguments(
    parsed.error.issues.map((issue) => ({
      field: [source, ...issue.path].join('.'),
      description: issue.message,
    })),
    { reason: 'CONFIGURATION_INVALID' },
  );
}

/** SHA-256 of a whole definition, golden clips included. */
export function definitionHash(definition: RewardDefinition): string {
  return contentHash(definition);
}

/**
 * SHA-256 over everything that a value depends on besides clip and prompt. Files are in it through their own hashes;
 * golden clips and words for people are not.
 */
export function weightsHash(definition: RewardDefinition): string {
  return contentHash({ ...definition, golden: undefined, description: undefined });
}
