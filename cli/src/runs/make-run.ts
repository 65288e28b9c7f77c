import { createHash } from 'node:crypto';
import { create, toBinary } from '@bufbuild/protobuf';
import type { MessageInitShape } from '@bufbuild/protobuf';
import { failedPrecondition, internal, PlumbError } from '@plumb/kit/errors';
import { RunSpecSchema, RunState } from '@plumb/proto/plumb/loop/v1/loop_pb.js';
import type { Run } from '@plumb/proto/plumb/loop/v1/loop_pb.js';
import { readModel, requireKnownWords, storeModel } from '../demo/shipped-model.ts';
import { ModelVersionSchema } from '@plumb/proto/plumb/models/v1/model_pb.js';
import type { ModelVersion } from '@plumb/proto/plumb/models/v1/model_pb.js';
import { persistently } from './loop-client.ts';
import type { LoopClient, RegistryClient } from './loop-client.ts';
import { readPrompts } from './run-prompts.ts';
import type { RunPrompts } from './run-prompts.ts';
import type { RunSpecFile } from './run-spec-file.ts';
import type { RunSpecInit } from '@plumb/run-spec';

/** A run spec whose files were read and checked. */
export interface PreparedRun {
  readonly file: RunSpecFile;
  readonly prompts: RunPrompts;
  readonly model: Awaited<ReturnType<typeof readModel>> | { readonly version: string };
}

/** A spec that a run can be made from. */
export type CompleteSpec = RunSpecInit & { readonly base: ModelVersion };

/**
 * Reads the files that a spec names, before anything is started.
 * @throws PlumbError as `readModel` and `readPrompts` do, and for prompts with words that the model does not know
 */
export async function prepareRun(file: RunSpecFile): Promise<PreparedRun> {
  const prompts = await readPrompts(file.prompts.path, file.prompts);
  if ('version' in file.model) return { file, prompts, model: file.model };
  const model = await readModel(file.model.path);
  requireKnownWords(model.config, prompts.prompts, file.prompts.path);
  return { file, prompts, model };
}

/**
 * Puts the model into the artifact store, or finds it in the registry, and gives the whole spec.
 * @param artifactFolder the folder of the artifact store; undefined where it is out of reach
 */
export async function completeSpec(
  prepared: PreparedRun,
  artifactFolder: string | undefined,
  registry: RegistryClient,
  signal: AbortSignal,
): Promise<CompleteSpec> {
  const { file, prompts, model } = prepared;
  let base: ModelVersion;
  if ('version' in model) {
    const { modelVersion } = await persistently(
      () => registry.getModelVersion({ version: model.version }, { signal }),
      signal,
    );
    if (modelVersion === undefined) throw internal(new Error('the registry gave no version'));
    base = modelVersion;
  } else {
    if (artifactFolder === undefined) {
      throw failedPrecondition(
        'the model is a file, and the artifact store of that address is out of reach; set PLUMB_ARTIFACTS to it, or name a registered version in `model`',
      );
    }
    base = create(ModelVersionSchema, await storeModel(model, artifactFolder));
  }
  return { ...file.specFor(base), base, prompts: [...prompts.prompts], promptSetHash: prompts.hash };
}

/** Registers the base, and promotes it if no version of its line is promoted yet. */
export async function registerBase(
  registry: RegistryClient,
  base: ModelVersion,
  signal: AbortSignal,
): Promise<void> {
  const { version } = base;
  const key = `base.${version}`;
  await persistently(
    () => registry.createModelVersion({ modelVersion: base, idempotencyKey: key }, { signal }),
    signal,
  );
  try {
    await persistently(
      () => registry.getModelVersion({ version: `${base.model}@promoted` }, { signal }),
      signal,
    );
  } catch (error) {
    if (PlumbError.from(error).code !== 'NOT_FOUND') throw error;
    await persistently(
      () =>
        registry.promoteModelVersion(
          { version, reason: base.reasons[0] ?? 'first version', idempotencyKey: key },
          { signal },
        ),
      signal,
    );
  }
}

/** The same spec finds the same run again, so that a command that was stopped goes on where it was. */
export function keyOfSpec(spec: RunSpecInit): string {
  const bytes = toBinary(RunSpecSchema, create(RunSpecSchema, spec));
  return `spec.${createHash('sha256').update(bytes).digest('hex').slice(0, 32)}`;
}

/** Makes the run of a spec, or finds it; one that is paused goes on. */
export async function startRun(
  loop: LoopClient,
  spec: MessageInitShape<typeof RunSpecSchema>,
  options: {
    readonly key: string;
    readonly notice: (line: string) => void;
    readonly signal: AbortSignal;
  },
): Promise<Run> {
  const { key, notice, signal } = options;
  const { run } = await persistently(() => loop.createRun({ spec, idempotencyKey: key }, { signal }), signal);
  if (run === undefined) throw internal(new Error('the loop made no run'));
  if (run.state === RunState.SUCCEEDED) notice(`Run ${run.id} is complete already.`);
  if (run.state !== RunState.PAUSED) return run;
  notice(`Run ${run.id} was paused (${run.error?.message ?? 'by hand'}); it goes on.`);
  return await resumeRun(loop, run.id, signal);
}

/** Resumes a run, with other budgets where they are given. */
export async function resumeRun(
  loop: LoopClient,
  id: string,
  signal: AbortSignal,
  budgets?: NonNullable<RunSpecInit['budgets']>,
): Promise<Run> {
  const idempotencyKey = `resume.${id}.${process.pid}.${Date.now()}`;
  const { run } = await persistently(
    () => loop.resumeRun({ id, idempotencyKey, ...(budgets === undefined ? {} : { budgets }) }, { signal }),
    signal,
  );
  if (run === undefined) throw internal(new Error('the loop gave no run back'));
  return run;
}
