import { readFile, stat } from 'node:fs/promises';
import { join } from 'node:path';
import { dataLoss, invalidArgument, notFound, PlumbError } from '@plumb/kit/errors';
import { openTokeniser } from '@plumb/tokeniser';
import type { Tokens } from '@plumb/tokeniser';
import { dtypeOfElement, hashFile, readOnnxFile } from '@plumb/tensor-graph/onnx-file';
import type { OnnxFile } from '@plumb/tensor-graph/onnx-file';
import { z } from 'zod';
import type { Architecture, ConfigReader, SamplingPlan } from './architecture.ts';
import { cogVideoX } from './architectures/cogvideox.ts';
import { ltxVideo } from './architectures/ltx-video.ts';
import { wan } from './architectures/wan.ts';
import { parseDiffusersJson } from './diffusers-json.ts';
import { pipelineSettingsSchema } from './pipeline-settings.ts';
import type { PipelineSettings } from './pipeline-settings.ts';
import { readScheduler } from './schedulers/read-scheduler.ts';
import type { Scheduler } from './schedulers/scheduler.ts';

/** Kinds of pipelines that are read, by `_class_name`. */
export const architectures: ReadonlyMap<string, Architecture> = new Map(
  [wan, ltxVideo, cogVideoX].map((architecture) => [architecture.pipeline, architecture]),
);

/** Numbers that the graphs compute with; picks the file: model.onnx or model_fp16.onnx. */
export type Precision = 'float32' | 'float16';

const graphFiles: Readonly<Record<Precision, string>> = { float32: 'model.onnx', float16: 'model_fp16.onnx' };

/** An input or output of a component's graph; -1 is a free extent. */
export interface GraphValue {
  readonly name: string;
  readonly dtype: 'float32' | 'float16' | 'int64' | 'int32';
  readonly shape: readonly number[];
}

/** A component that has a graph. */
export interface Component {
  readonly name: string;
  /** Path of the graph. */
  readonly path: string;
  readonly inputs: readonly GraphValue[];
  readonly output: GraphValue;
  readonly opset: number;
  /** Operators that the graph uses. */
  readonly operators: readonly string[];
  /** Files that the graph is made of, relative to the pipeline's folder. */
  readonly files: readonly string[];
  /** Bytes of all weights. */
  readonly weightBytes: number;
  readonly parameters: number;
}

/** A pipeline in the diffusers layout, read and checked; no weights are in memory. */
export interface PipelineFolder {
  readonly path: string;
  readonly architecture: Architecture;
  readonly settings: PipelineSettings;
  readonly plan: SamplingPlan;
  readonly scheduler: Scheduler;
  readonly tokenise: (prompt: string) => Tokens;
  readonly textEncoder: Component;
  readonly denoiser: Component;
  readonly decoder: Component;
  /** Every file that sampling reads, relative to the folder, sorted. */
  readonly files: readonly string[];
}

export interface ReadOptions {
  readonly precision?: Precision;
  /** False leaves the hashes of SHA256SUMS unchecked, which saves reading all weights; default true. */
  readonly checkHashes?: boolean;
}

/**
 * Reads a pipeline folder and checks all of it: configuration, scheduler, tokeniser, graphs, external data, hashes.
 *
 * @throws PlumbError naming the file and the fix: NOT_FOUND for a missing file; DATA_LOSS for one that is damaged or not
 * what SHA256SUMS says; INVALID_ARGUMENT for what is not supported or does not fit together
 */
export async function readPipelineFolder(path: string, options: ReadOptions = {}): Promise<PipelineFolder> {
  const { precision = 'float32', checkHashes = true } = options;
  const index = z
    .looseObject({ _class_name: z.string() })
    .safeParse(await readJson(path, 'model_index.json'));
  if (!index.success) {
    throw invalidArgument(
      '_class_name',
      `is missing in ${join(path, 'model_index.json')}; it names the pipeline's class`,
    );
  }
  const architecture = architectures.get(index.data._class_name);
  if (architecture === undefined) {
    throw invalidArgument(
      '_class_name',
      `is ${index.data._class_name} in ${join(path, 'model_index.json')}, which is not supported; use one of ${[...architectures.keys()].join(', ')}`,
    );
  }
  const parsed = pipelineSettingsSchema.safeParse(await readJson(path, 'plumb.json'));
  if (!parsed.success) {
    const [issue] = parsed.error.issues;
    const field = issue?.path.join('.') ?? '';
    throw invalidArgument(
      field === '' ? 'plumb.json' : field,
      `${issue?.message ?? ''} (${join(path, 'plumb.json')})`,
    );
  }
  const settings = parsed.data;
  const { textEncoder, denoiser, decoder } = architecture;
  const configs = new Map<string, unknown>([['', index.data]]);
  for (const name of [textEncoder, denoiser, decoder]) {
    configs.set(name, await readJson(path, `${name}/config.json`));
  }
  const reader = configReader(path, configs);
  const plan = architecture.plan(reader, settings);
  const scheduler = readScheduler(
    await readJson(path, 'scheduler/scheduler_config.json'),
    join(path, 'scheduler/scheduler_config.json'),
  );
  const tokenise = await readTokeniser(path, reader, textEncoder, settings);
  const hashes = checkHashes ? await readSums(path) : undefined;
  const componentOf = (name: string) => readComponent(path, name, graphFiles[precision], hashes);
  const folder: Omit<PipelineFolder, 'files'> = {
    path,
    architecture,
    settings,
    plan,
    scheduler,
    tokenise,
    textEncoder: await componentOf(textEncoder),
    denoiser: await componentOf(denoiser),
    decoder: await componentOf(decoder),
  };
  checkInterfaces(folder);
  const plain = [
    'model_index.json',
    'plumb.json',
    'scheduler/scheduler_config.json',
    'tokenizer/tokenizer.json',
    ...[textEncoder, denoiser, decoder].map((name) => `${name}/config.json`),
  ];
  if (hashes !== undefined) {
    for (const file of plain) {
      const expected = hashes.get(file);
      if (expected === undefined || (await hashFile(join(path, file))) === expected) continue;
      throw dataLoss(
        `${join(path, file)} is not the file that SHA256SUMS names; export the pipeline again, or write SHA256SUMS anew if the change is meant`,
        { reason: 'MODEL_CORRUPT' },
      );
    }
  }
  const graphs = [folder.textEncoder, folder.denoiser, folder.decoder].flatMap(({ files }) => files);
  return { ...folder, files: [...plain, ...graphs].toSorted() };
}

async function readText(path: string, file: string): Promise<string> {
  try {
    return await readFile(join(path, file), 'utf8');
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code !== 'ENOENT') throw PlumbError.from(error);
    throw notFound('file', join(path, file), {
      reason: 'FILE_NOT_FOUND',
      fix: 'a pipeline has model_index.json, plumb.json, scheduler/, tokenizer/ and a folder for each component; docs/models.md has the layout',
      cause: error,
    });
  }
}

async function readJson(path: string, file: string): Promise<unknown> {
  const text = await readText(path, file);
  try {
    return parseDiffusersJson(text);
  } catch (error) {
    throw dataLoss(`${join(path, file)} is not JSON: ${String(error)}`, {
      reason: 'MODEL_CORRUPT',
      cause: error,
    });
  }
}

/** SHA256SUMS as sha256sum writes it: hash, two spaces, path. A folder without it is not checked. */
async function readSums(path: string): Promise<Map<string, string> | undefined> {
  const file = join(path, 'SHA256SUMS');
  let text: string;
  try {
    text = await readFile(file, 'utf8');
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === 'ENOENT') return undefined;
    throw PlumbError.from(error);
  }
  const sums = new Map<string, string>();
  for (const [number, line] of text.split('\n').entries()) {
    if (line === '') continue;
    const [, hash, name] = /^([0-9a-f]{64}) [ *](.+)$/.exec(line) ?? [];
    if (hash === undefined || name === undefined) {
      throw dataLoss(`${file}, line ${number + 1}, is no line of sha256sum; write it again with sha256sum`, {
        reason: 'MODEL_CORRUPT',
      });
    }
    sums.set(name.replace(/^\.\//, ''), hash);
  }
  return sums;
}

async function readTokeniser(
  path: string,
  config: ConfigReader,
  textEncoder: string,
  settings: PipelineSettings,
): Promise<(prompt: string) => Tokens> {
  const file = join(path, 'tokenizer/tokenizer.json');
  const text = await readText(path, 'tokenizer/tokenizer.json');
  const json = Buffer.from(text);
  const open = openTokeniser(json, file, {
    maxLength: settings.maxTextTokens,
    padId: config.optionalNumber(textEncoder, 'pad_token_id') ?? 0,
  });
  const size = config.number(textEncoder, 'vocab_size');
  const largest = largestId(JSON.parse(text));
  if (largest >= size) {
    throw invalidArgument(
      'tokenizer',
      `${file} has a token ${largest}, but ${join(path, textEncoder, 'config.json')} says vocab_size ${size}; the tokeniser belongs to another text encoder`,
    );
  }
  return open;
}

/** Largest token id of a tokenizer.json: word lists, scored pieces (Unigram) and added tokens. */
function largestId(tokenizer: unknown): number {
  const shape = z.looseObject({
    model: z.looseObject({
      vocab: z.union([z.record(z.string(), z.number()), z.array(z.unknown())]).optional(),
    }),
    added_tokens: z.array(z.looseObject({ id: z.number() })).default([]),
  });
  const { model, added_tokens: added } = shape.parse(tokenizer);
  const { vocab = [] } = model;
  let largest = Array.isArray(vocab) ? vocab.length - 1 : -1;
  if (!Array.isArray(vocab)) for (const id of Object.values(vocab)) largest = Math.max(largest, id);
  for (const { id } of added) largest = Math.max(largest, id);
  return largest;
}

async function readComponent(
  path: string,
  name: string,
  graphFile: string,
  hashes: ReadonlyMap<string, string> | undefined,
): Promise<Component> {
  const file = join(path, name, graphFile);
  const prefix = `${name}/`;
  const own = hashes === undefined ? undefined : [...hashes].filter(([key]) => key.startsWith(prefix));
  const model = await readOnnxFile(
    file,
    own === undefined || own.length === 0
      ? {}
      : { hashes: Object.fromEntries(own.map(([key, hash]) => [key.slice(prefix.length), hash])) },
  );
  const [output, ...others] = valuesOf(model, 'output');
  if (output === undefined || others.length > 0) {
    throw invalidArgument(
      'model',
      `${file} has ${others.length + Number(output !== undefined)} outputs; it must have one`,
    );
  }
  let weightBytes = 0;
  for (const part of model.files) weightBytes += (await stat(join(path, name, part))).size;
  let parameters = 0;
  for (const { shape } of model.weights.values()) parameters += shape.reduce((a, b) => a * b, 1);
  return {
    name,
    path: file,
    inputs: valuesOf(model, 'input'),
    output,
    opset: model.opset,
    operators: [...new Set(model.graph.node.map(({ opType }) => opType))].toSorted(),
    files: model.files.map((part) => `${name}/${part}`),
    weightBytes,
    parameters,
  };
}

function valuesOf(model: OnnxFile, side: 'input' | 'output'): GraphValue[] {
  return model.graph[side]
    .filter(({ name }) => !model.weights.has(name))
    .map(({ name, type }) => {
      const tensor = type?.value.case === 'tensorType' ? type.value.value : undefined;
      const dtype = dtypeOfElement(tensor?.elemType ?? 0);
      if (dtype !== 'float32' && dtype !== 'float16' && dtype !== 'int64' && dtype !== 'int32') {
        throw invalidArgument(
          'model',
          `${model.path}: ${side} ${name} is of type ${dtype ?? 'unknown'}; float32, float16, int64 and int32 are supported`,
        );
      }
      const shape = (tensor?.shape?.dim ?? []).map(({ value }) =>
        value.case === 'dimValue' ? Number(value.value) : -1,
      );
      return { name, dtype, shape };
    });
}

/** Compares what the plan will feed with what the graphs take, so that a wrong export fails here and not in a run. */
function checkInterfaces(folder: Omit<PipelineFolder, 'files'>): void {
  const { plan, settings, textEncoder, denoiser, decoder } = folder;
  const tokens = settings.maxTextTokens;
  const expect = (component: Component, name: string, shape: readonly number[], from = 0): void => {
    const value = component.inputs.find((input) => input.name === name);
    if (value === undefined) {
      throw invalidArgument(
        'model',
        `${component.path} has no input ${name}, which a ${folder.architecture.pipeline} gives it (it has ${component.inputs.map((input) => input.name).join(', ')}); export it with the script of docs/models.md`,
      );
    }
    const own = value.shape.slice(from);
    if (
      own.length === shape.length &&
      own.every((extent, axis) => [-1, extent].includes(shape[axis] ?? -1) || extent === -1)
    )
      return;
    throw invalidArgument(
      'plumb.json',
      `asks for ${name} of [${shape.join(', ')}], but ${component.path} was exported for [${own.join(', ')}]; give plumb.json the size of the export, or export again`,
      { reason: 'SHAPE_MISMATCH' },
    );
  };
  expect(textEncoder, 'input_ids', [tokens], 1);
  if (plan.text.masked) expect(textEncoder, 'attention_mask', [tokens], 1);
  expect(denoiser, 'hidden_states', plan.latents, 1);
  expect(denoiser, 'timestep', [], 1);
  const width = textEncoder.output.shape.at(-1) ?? -1;
  expect(denoiser, 'encoder_hidden_states', [tokens, width], 1);
  const rows = Math.max(1, denoiser.inputs.find(({ name }) => name === 'hidden_states')?.shape[0] ?? 1);
  if (plan.text.maskInput !== undefined) expect(denoiser, plan.text.maskInput, [tokens], 1);
  for (const [name, { shape }] of Object.entries(plan.constants(rows))) expect(denoiser, name, shape);
  // A decoder for smaller latents decodes in tiles.
  expect(decoder, 'latents', [...plan.decoderShape.slice(0, 2), -1, -1], 1);
}

function configReader(path: string, configs: ReadonlyMap<string, unknown>): ConfigReader {
  const file = (component: string): string =>
    component === '' ? join(path, 'model_index.json') : join(path, component, 'config.json');
  const read = <Schema extends z.ZodType>(
    component: string,
    field: string,
    schema: Schema,
  ): z.output<Schema> => {
    const config = configs.get(component);
    const value =
      typeof config === 'object' && config !== null ? (config as Record<string, unknown>)[field] : undefined;
    const parsed = schema.safeParse(value);
    if (parsed.success) return parsed.data;
    throw invalidArgument(
      field,
      value === undefined
        ? `is missing in ${file(component)}`
        : `is ${JSON.stringify(value)} in ${file(component)}: ${parsed.error.issues[0]?.message ?? ''}`,
    );
  };
  return {
    number: (component, field) => read(component, field, z.number()),
    optionalNumber: (component, field) => read(component, field, z.number().nullish()) ?? undefined,
    numbers: (component, field) => read(component, field, z.array(z.number())),
    flag: (component, field) => read(component, field, z.boolean().nullish()) ?? false,
    flags: (component, field) => read(component, field, z.array(z.boolean())),
    refuse: (component, field, description) => invalidArgument(field, `${description} (${file(component)})`),
  };
}
