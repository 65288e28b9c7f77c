import { createHash } from 'node:crypto';
import { mkdir, readFile, rename, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { z } from 'zod';

/** One verdict a clip, in the order in which the clips of the prompt were drawn: 1 is yes. */
const verdictsSchema = z.string().regex(/^[01]+$/);
/** Outcomes of the held-out clips by guidance, a line for each prompt. */
const recordSchema = z.record(
  z.string(),
  z.array(
    z.strictObject({
      promptId: z.string(),
      category: z.string(),
      accept: verdictsSchema,
      picture: verdictsSchema,
    }),
  ),
);

/** What became of one held-out clip. */
export interface HeldOutOutcome {
  readonly promptId: string;
  readonly category: string;
  /** The referee's verdict. */
  readonly accept: boolean;
  /** Whether the clip passes the checks of the picture alone. */
  readonly picture: boolean;
}

/** Outcomes by guidance, in the order in which the clips were drawn. */
export type Evaluation = Readonly<Record<string, readonly HeldOutOutcome[]>>;

/** What a stopped benchmark has done already. */
export interface Checkpoints {
  /** Outcomes of a finetuned model; undefined when it was not finished. */
  evaluation(key: string): Promise<Evaluation | undefined>;
  /** @throws Error when the outcomes are there and the model is not */
  model(key: string): Promise<Uint8Array>;
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
      evaluation: () => Promise.resolve(undefined),
      model: (key) => Promise.reject(new Error(`nothing is kept of ${key}`)),
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
    return bytes === undefined ? undefined : fromRecord(Buffer.from(bytes).toString('utf8'));
  };
  return {
    evaluation,
    async model(key) {
      const bytes = await read(`${key}.safetensors`);
      if (bytes !== undefined) return bytes;
      throw new Error(
        `${own} has the outcomes of ${key} and not its model, from which the next iteration begins; take ${key}.json away to train it again`,
      );
    },
    async keepModel(key, bytes, outcomes) {
      await keep(`${key}.safetensors`, bytes);
      await keep(`${key}.json`, toRecord(outcomes));
    },
    async evaluated(key, evaluate) {
      const standing = await evaluation(key);
      if (standing !== undefined) return standing;
      const fresh = await evaluate();
      await keep(`${key}.json`, toRecord(fresh));
      return fresh;
    },
  };
}

/** A line for each prompt, so that outcomes can be kept beside the code and read. */
function toRecord(evaluation: Evaluation): string {
  const byGuidance = Object.entries(evaluation).map(([guidance, outcomes]) => {
    const bits = (of: readonly HeldOutOutcome[], pick: (one: HeldOutOutcome) => boolean): string =>
      of.map((one) => (pick(one) ? '1' : '0')).join('');
    const lines = [...Map.groupBy(outcomes, ({ promptId }) => promptId)].map(([promptId, clips]) =>
      JSON.stringify({
        promptId,
        category: clips[0]?.category ?? '',
        accept: bits(clips, ({ accept }) => accept),
        picture: bits(clips, ({ picture }) => picture),
      }),
    );
    return `${JSON.stringify(guidance)}: [\n${lines.join(',\n')}\n]`;
  });
  return `{${byGuidance.join(',\n')}}\n`;
}

function fromRecord(text: string): Evaluation {
  return Object.fromEntries(
    Object.entries(recordSchema.parse(JSON.parse(text))).map(([guidance, prompts]) => [
      guidance,
      prompts.flatMap(({ promptId, category, accept, picture }) =>
        Array.from(accept, (verdict, clip) => ({
          promptId,
          category,
          accept: verdict === '1',
          picture: picture[clip] === '1',
        })),
      ),
    ]),
  );
}
