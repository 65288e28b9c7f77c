import { createHash } from 'node:crypto';
import { invalidArgument } from '@plumb/kit/errors';
import type { Clip } from '@plumb/media';
import sharp from 'sharp';
import { z } from 'zod';

/** Largest frame that is decoded, in pixels: a 4K picture. */
const maxFramePixels = 3840 * 2160;
const maxFrames = 256;

const partSchema = z.discriminatedUnion('type', [
  z.object({ type: z.literal('text'), text: z.string() }),
  z.object({ type: z.literal('image_url'), image_url: z.object({ url: z.string() }) }),
]);

/**
 * The part of a chat completion request that the referee reads; anything else is ignored, as a model without that
 * feature would. Source: OpenAI API reference, "Create chat completion".
 */
export const chatRequestSchema = z.object({
  model: z.string(),
  messages: z
    .array(
      z.object({
        role: z.enum(['system', 'developer', 'user', 'assistant']),
        content: z.union([
          z.string().transform((text) => [{ type: 'text' as const, text }]),
          z.array(partSchema),
        ]),
      }),
    )
    .min(1),
  response_format: z
    .object({
      type: z.string(),
      json_schema: z
        .object({ schema: z.object({ properties: z.record(z.string(), z.unknown()) }) })
        .optional(),
    })
    .optional(),
  logprobs: z.boolean().nullish(),
  temperature: z.number().nullish(),
  seed: z.int().nullish(),
  stream: z.boolean().nullish(),
});

export type ChatRequest = z.output<typeof chatRequestSchema>;

/** What is asked for: accept or reject, a grade, or the better one of two clips. */
export type AnswerKind = 'accept' | 'grade' | 'better';

/** A clip as it was sent. */
export type QuestionClip = {
  /** PNG bytes of its frames in their order in time, or of one picture that holds all of them. */
  readonly pictures: readonly Uint8Array[];
  /** How that picture is divided; undefined for one picture a frame. */
  readonly grid: { readonly columns: number; readonly rows: number; readonly frames: number } | undefined;
};

/** A question, understood. */
export type Question = {
  readonly caption: string;
  readonly clips: readonly QuestionClip[];
  readonly kind: AnswerKind;
  /** SHA-256 over caption and frames. */
  readonly hash: string;
};

const captionPattern = /<caption>([^<>]*)<\/caption>/g;
const dataUri = /^data:image\/png;base64,([A-Za-z0-9+/]+={0,2})$/;
// How the judge service announces a grid.
const gridPattern = /(\d{1,3}) frames in one picture of (\d{1,3}) columns and (\d{1,3}) rows/;
const entities: Readonly<Record<string, string>> = { '&lt;': '<', '&gt;': '>', '&amp;': '&' };

/**
 * Finds caption, frames and kind of answer in a request: the caption between `<caption>` and `</caption>` in the user's
 * message, frames as data URIs of PNGs (one each, or all in a grid that the text before it announces), a text that begins with `Clip B` before the frames of a second clip.
 *
 * @throws PlumbError INVALID_ARGUMENT naming what is missing or wrong
 */
export function understand(request: ChatRequest): Question {
  const parts = request.messages.filter(({ role }) => role === 'user').flatMap(({ content }) => content);
  const clips: { pictures: Uint8Array[]; grid: QuestionClip['grid'] }[] = [{ pictures: [], grid: undefined }];
  let text = '';
  for (const part of parts) {
    if (part.type === 'text') {
      text += `${part.text}\n`;
      if (part.text.startsWith('Clip B')) clips.push({ pictures: [], grid: undefined });
      const clip = clips.at(-1);
      // A caption may say the same words, but stands between its delimiters.
      if (clip !== undefined && !part.text.includes('<caption>')) clip.grid = gridOf(part.text) ?? clip.grid;
      continue;
    }
    const base64 = dataUri.exec(part.image_url.url)?.[1];
    if (base64 === undefined) {
      throw invalidArgument(
        'messages',
        'have an image that is not a data URI of a PNG; nothing else is read',
      );
    }
    clips.at(-1)?.pictures.push(Buffer.from(base64, 'base64'));
  }
  const captions = [...text.matchAll(captionPattern)].map((match) => match[1] ?? '');
  const [caption] = captions;
  if (caption === undefined || captions.length !== 1) {
    throw invalidArgument(
      'messages',
      `have ${captions.length} captions between <caption> and </caption>; give one`,
    );
  }
  for (const { pictures, grid } of clips) {
    const frames = grid?.frames ?? pictures.length;
    if (frames < 2 || frames > maxFrames) {
      throw invalidArgument('messages', `have a clip of ${frames} frames; give 2 to ${maxFrames}`);
    }
    if (grid !== undefined && (pictures.length !== 1 || grid.columns * grid.rows < grid.frames)) {
      throw invalidArgument(
        'messages',
        `have ${pictures.length} pictures for a grid of ${grid.columns} columns and ${grid.rows} rows with ${grid.frames} frames; give one that holds them`,
      );
    }
  }
  const kind = answerKind(request);
  if ((kind === 'better' ? 2 : 1) !== clips.length) {
    throw invalidArgument(
      'messages',
      `have ${clips.length} clips, which does not fit the answer that is asked for`,
    );
  }
  const hash = createHash('sha256').update(caption);
  for (const { pictures } of clips) for (const picture of pictures) hash.update(picture);
  return {
    caption: caption.replaceAll(/&(?:lt|gt|amp);/g, (entity) => entities[entity] ?? entity).trim(),
    clips,
    kind,
    hash: hash.digest('hex'),
  };
}

function gridOf(text: string): QuestionClip['grid'] {
  const [, frames, columns, rows] = gridPattern.exec(text) ?? [];
  if (frames === undefined) return undefined;
  return { frames: Number(frames), columns: Number(columns), rows: Number(rows) };
}

/** The schema of the answer says what is asked for; without one, the system text's description of the answer does. */
function answerKind(request: ChatRequest): AnswerKind {
  const properties = request.response_format?.json_schema?.schema.properties;
  const system = request.messages
    .filter(({ role }) => role === 'system' || role === 'developer')
    .flatMap(({ content }) => content)
    .map((part) => (part.type === 'text' ? part.text : ''))
    .join('\n');
  for (const kind of ['accept', 'grade', 'better'] as const) {
    if (properties === undefined ? system.includes(`"${kind}":`) : kind in properties) return kind;
  }
  throw invalidArgument(
    'response_format',
    'asks for neither accept, grade nor better, which is all that the referee can say',
  );
}

/**
 * Frames as a clip.
 *
 * @throws PlumbError INVALID_ARGUMENT for a picture that is no PNG, too large, of another size than the first one, or that
 *   cannot be divided as announced
 */
export async function clipOf({ pictures: encoded, grid }: QuestionClip): Promise<Clip> {
  const decoded = await Promise.allSettled(
    encoded.map((frame) =>
      sharp(frame, { limitInputPixels: maxFramePixels * (grid?.frames ?? 1), failOn: 'warning' })
        .removeAlpha()
        .toColourspace('srgb')
        .raw()
        .toBuffer({ resolveWithObject: true }),
    ),
  );
  // In their order, whichever failed first, so that the same request always gets the same answer.
  const pictures = decoded.map((frame, index) => {
    if (frame.status === 'fulfilled') return frame.value;
    throw invalidArgument('messages', `frame ${index + 1} is no PNG that can be read`, {
      cause: frame.reason,
    });
  });
  const [first] = pictures;
  const { width, height } = first?.info ?? { width: 0, height: 0 };
  for (const [index, { info }] of pictures.entries()) {
    if (info.width !== width || info.height !== height || info.channels !== 3) {
      throw invalidArgument('messages', `frame ${index + 1} has another size or form than the first one`);
    }
  }
  const data = Buffer.concat(pictures.map((picture) => picture.data));
  if (grid !== undefined) return divided(data, width, height, grid);
  // The rate is not in the request and the referee does not look at it; 8 is the toybox's own.
  return { frames: encoded.length, width, height, fps: 8, data: new Uint8Array(data) };
}

function divided(
  data: Uint8Array,
  wide: number,
  high: number,
  { frames, columns, rows }: NonNullable<QuestionClip['grid']>,
): Clip {
  if (wide % columns !== 0 || high % rows !== 0) {
    throw invalidArgument(
      'messages',
      `have a picture of ${wide}x${high} pixels, which ${columns} columns and ${rows} rows do not divide`,
    );
  }
  const [width, height] = [wide / columns, high / rows];
  const out = new Uint8Array(frames * width * height * 3);
  for (let frame = 0; frame < frames; frame += 1) {
    const top = Math.floor(frame / columns) * height;
    for (let y = 0; y < height; y += 1) {
      const from = ((top + y) * wide + (frame % columns) * width) * 3;
      out.set(data.subarray(from, from + width * 3), (frame * height + y) * width * 3);
    }
  }
  return { frames, width, height, fps: 8, data: out };
}
