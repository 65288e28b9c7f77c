import { dataLoss, invalidArgument } from '@plumb/kit/errors';
import { z } from 'zod';

const schema = z.strictObject({
  format: z.literal(1),
  /** Name of the line of models. */
  name: z
    .string()
    .regex(/^[a-z0-9][a-z0-9._-]{0,62}$/, { error: 'must be 1 to 63 of a-z, 0-9, dot, dash and underscore' }),
  /** Name of an endpoint that the generator knows. Address and key stand with the generator and never in a model. */
  endpoint: z.string().regex(/^[a-z][a-z0-9-]*$/),
  /** Model as the endpoint calls it. */
  model: z.string().min(1).max(200),
  width: z.int().min(1).max(8192),
  height: z.int().min(1).max(8192),
  frames: z.int().min(1).max(4096),
  fps: z.number().positive().max(240),
  /** Duration to ask for, as the endpoint writes it. */
  seconds: z.string().regex(/^\d{1,3}$/),
  /** Price of one clip, in the currency of the generator's endpoints. */
  costPerClip: z.number().min(0).default(0),
  /** Clips that the endpoint makes at a time. */
  clipsAtATime: z.int().min(1).max(256).default(4),
  /** Wait between two looks at a clip, in milliseconds. */
  pollMs: z.int().min(1).max(600_000).default(5000),
  /** Longest that one clip may take, in milliseconds. */
  longestMs: z.int().min(1).max(86_400_000).default(1_200_000),
  licence: z.string().max(200).default(''),
});

export type RemoteModel = z.output<typeof schema>;

/**
 * @param source how to call the file in errors
 * @throws PlumbError DATA_LOSS for bytes that are not JSON, INVALID_ARGUMENT naming the field
 */
export function parseRemoteModel(bytes: Uint8Array, source: string): RemoteModel {
  let json: unknown;
  try {
    json = JSON.parse(Buffer.from(bytes).toString('utf8'));
  } catch (error) {
    throw dataLoss(`${source} is not JSON: ${String(error)}`, { reason: 'MODEL_CORRUPT', cause: error });
  }
  const parsed = schema.safeParse(json);
  if (parsed.success) return parsed.data;
  const [issue] = parsed.error.issues;
  const field = issue?.path.join('.') ?? '';
  throw invalidArgument(field === '' ? 'model' : field, `${issue?.message ?? ''} (${source})`);
}
