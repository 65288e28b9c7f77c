import { createHash } from 'node:crypto';
import { mkdir, readFile, rename, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { z } from 'zod';

const outcomeSchema = z.object({
  promptId: z.string(),
  category: z.string(),
  /** The referee's verdict. */
  accept: z.boolean(),
  /** Whether the clip passes the checks of the picture alone. */
  picture: z.boolean(),
});
/** Outcomes of the held-out clips by guidance, in the order in which they were drawn. */
const evaluationSchema = z.record(z.string(), z.array(outcomeSchema));

export type HeldOutOutcome = z.output<typeof outcomeSchema>;
export type Evaluation = z.output<typeof evaluationSchema>;

/** What a stopped benchmark has done already. */
export interface Checkpoints {
  /** @returns the bytes of the model and its outcomes, undefined when it was not finished */
  model(key: string): Promise<{ readonly model: Uint8Array; readonly evaluation: Evaluation } | undefined>;
  keepModel(key: string, model: Uint8Array, evaluation: Evaluation): Promise<void>;
  /** Outcomes of a model that others finetune: evaluated once. */
  evaluated(key: string, evaluate: () => Promise<Evaluation>): Promise<Evaluation>;
}

/**
 * Keeps finished steps in a folder, or nothing without one. Its name carries a hash of the settings and of the model, so
 * that other settings begin anew.
 *
 * @param folder made where it is missing
 */
export async function openCheckpoints(
  folder: string | undefined,
  settings: object,
  model: Uint8Array,
): Promise<Checkpoints> {
  if (folder === undefined) {
    return {
      model: () => Promise.resolve(undefined),
      keepModel: () => Promise.resolve(),
      evaluated: (_key, evaluate) => evaluate(),
    };
  }
  const identity = createHash('sha256')
    .update(JSON.stringify(settings))
    .update(model)
    .digest('hex')
    .slice(0, 12);
  const own = join(folder, identity);
  await mkdir(own, { recursive: true });
  const keep = async (name: string, content: string | Uint8Array): Promise<void> => {
    const path = join(own, name);
    await writeFile(`${path}.part`, content);
    await rename(`${path}.part`, path);
  };
  const read = async (name: string): Promise<Uint8Array | undefined> => {
    try {
      return await readFile(join(own, name));
    } catch (error) {
      if (error instanceof Error && 'code' in error && error.code === 'ENOENT') return undefined;
      throw error;
    }
  };
  const evaluation = async (key: string): Promise<Evaluation | undefined> => {
    const bytes = await read(`${key}.json`);
    return bytes === undefined
      ? undefined
      : evaluationSchema.parse(JSON.parse(Buffer.from(bytes).toString('utf8')));
  };
  return {
    async model(key) {
      const [bytes, outcomes] = [await read(`${key}.safetensors`), await evaluation(key)];
      return bytes === undefined || outcomes === undefined
        ? undefined
        : { model: bytes, evaluation: outcomes };
    },
    async keepModel(key, bytes, outcomes) {
      await keep(`${key}.safetensors`, bytes);
      await keep(`${key}.json`, JSON.stringify(outcomes));
    },
    async evaluated(key, evaluate) {
      const standing = await evaluation(key);
      if (standing !== undefined) return standing;
      const fresh = await evaluate();
      await keep(`${key}.json`, JSON.stringify(fresh));
      return fresh;
    },
  };
}
