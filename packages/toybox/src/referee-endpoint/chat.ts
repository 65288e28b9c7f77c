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
  stream: z.boolean().nullish(),
});

export type ChatRequest = z.output<typeof chatRequestSchema>;

/** What is asked for: accept or reject, a grade, or the better one of two clips. */
export type AnswerKind = 'accept' | 'grade' | 'better';

/** A question, understood. */
export type Question = {
  readonly caption: string;
  /** PNG bytes of each clip's frames, in their order in time. */
  readonly clips: readonly (readonly Uint8Array[])[];
  readonly kind: AnswerKind;
  /** SHA-256 over caption and frames. */
  readonly hash: string;
};

const captionPattern = /<caption>([^<>]*)<\/caption>/g;
const dataUri = /^data:image\/png;base64,([A-Za-z0-9+/]+={0,2})$/;
const entities: Readonly<Record<string, string>> = { '&lt;': '<', '&gt;': '>', '&amp;': '&' };

/**
 * Finds caption, frames and kind of answer in a request: the caption between `<caption>` and `</caption>` in the user's
 * message, frames as data URIs of PNGs, a text that begins with `Clip B` before the frames of a second clip.
 *
 * @throws PlumbError INVALID_ARGUMENT naming what is missing or wrong
 */
export function understand(request: ChatRequest): Question {
  const parts = request.messages.filter(({ role }) => role === 'user').flatMap(({ content }) => content);
  const clips: Uint8Array[][] = [[]];
  let text = '';
  for (const part of parts) {
    if (part.type === 'text') {
      text += `${part.text}\n`;
      if (part.text.startsWith('Clip B')) clips.push([]);
      continue;
    }
    const base64 = dataUri.exec(part.image_url.url)?.[1];
    if (base64 === undefined) {
      throw invalidArgument(
        'messages',
        'have an image that is not a data URI of a PNG; nothing else is read',
      );
    }
    clips.at(-1)?.push(Buffer.from(base64, 'base64'));
  }
  const captions = [...text.matchAll(captionPattern)].map((match) => match[1] ?? '');
  const [caption] = captions;
  if (caption === undefined || captions.length !== 1) {
    throw invalidArgument(
      'messages',
      `have ${captions.length} captions between <caption> and </caption>; give one`,
    );
  }
  for (const frames of clips) {
    if (frames.length < 2 || frames.length > maxFrames) {
      throw invalidArgument('messages', `have a clip of ${frames.length} frames; give 2 to ${maxFrames}`);
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
  for (const frame of clips.flat()) hash.update(frame);
  return {
    caption: caption.replaceAll(/&(?:lt|gt|amp);/g, (entity) => entities[entity] ?? entity).trim(),
    clips,
    kind,
    hash: hash.digest('hex'),
  };
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
 * @throws PlumbError INVALID_ARGUMENT for a frame that is no PNG, too large, or of another size than the first one
 */
export async function clipOf(frames: readonly Uint8Array[]): Promise<Clip> {
  const decoded = await Promise.allSettled(
    frames.map((frame) =>
      sharp(frame, { limitInputPixels: maxFramePixels, failOn: 'warning' })
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
  // The rate is not in the request and the referee does not look at it; 8 is the toybox's own.
  return {
    frames: frames.length,
    width,
    height,
    fps: 8,
    data: new Uint8Array(Buffer.concat(pictures.map(({ data }) => data))),
  };
}
