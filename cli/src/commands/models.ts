import { mkdir } from 'node:fs/promises';
import { join, resolve } from 'node:path';
import { timestampDate } from '@bufbuild/protobuf/wkt';
import Table from 'cli-table3';
import { Command, Option } from 'commander';
import { ModelState } from '@plumb/proto/plumb/models/v1/model_pb.js';
import type { ModelVersion } from '@plumb/proto/plumb/models/v1/model_pb.js';
import { addConnectionOptions } from './connection-options.ts';
import type { ConnectionOptions } from './connection-options.ts';
import type { ImportReport } from '../models/import-model.ts';
import { countOption, numberOption, seedOption, stateOption } from './options.ts';

interface ModelsOptions {
  readonly state: string;
  readonly json?: true;
}

const stateNames: Readonly<Record<ModelState, string>> = {
  [ModelState.UNSPECIFIED]: 'unknown',
  [ModelState.CANDIDATE]: 'candidate',
  [ModelState.PROMOTED]: 'promoted',
  [ModelState.REFUSED]: 'refused',
};

/** `plumb models`: what there is of checkpoints, and what is in them. */
export function modelsCommand(finish: (exitCode: number) => void): Command {
  const models = new Command('models')
    .alias('model')
    .description('import, list, show, compare, export and roll back models');
  models.addCommand(importCommand(finish));
  models.addCommand(listCommand(finish));
  models.addCommand(showCommand(finish));
  models.addCommand(diffCommand(finish));
  models.addCommand(exportCommand(finish));
  models.addCommand(rollbackCommand(finish));
  models.addHelpText(
    'after',
    '\nA <model> is a version such as toybox@0123456789ab, <name>@promoted, or the path of a .safetensors file.',
  );
  return models;
}

function subcommand(name: string, description: string): Command {
  return new Command(name)
    .description(description)
    .addOption(stateOption())
    .option('--json', 'print it as one JSON object');
}

function print(options: ModelsOptions, value: unknown, text: () => string): void {
  process.stdout.write(`${options.json === true ? JSON.stringify(value) : text()}\n`);
}

function importCommand(finish: (exitCode: number) => void): Command {
  return subcommand('import', 'check a model, sample one clip of it and register it')
    .argument(
      '<path>',
      'folder of a pipeline in the diffusers layout, .safetensors file of a built-in model or of adapters, or .json of a remote one',
    )
    .addOption(
      new Option('--precision <name>', "which of a pipeline's graphs: model.onnx or model_fp16.onnx")
        .choices(['float32', 'float16'])
        .default('float32'),
    )
    .option('--base <version>', 'the registered pipeline that a file of adapters (PEFT, diffusers) is for')
    .option('--prompt <text>', 'what the golden sample shall show')
    .addOption(
      countOption('--steps <n>', "denoising steps of the golden sample; the pipeline's own unless given"),
    )
    .addOption(
      numberOption('--guidance <x>', "guidance of the golden sample; the pipeline's own unless given"),
    )
    .addOption(seedOption().default(1n, '1'))
    .option('--golden <file>', 'where the golden sample goes, as animated WebP', 'golden.webp')
    .action(async (path: string, options: ModelsOptions & ImportOptions) => {
      const { readAdapterImport, readImport } = await import('../models/import-model.ts');
      const { withRegistry } = await import('../models/with-registry.ts');
      const { importText } = await import('../models/import-text.ts');
      const { writeWhole } = await import('../state/state-folder.ts');
      const { base } = options;
      let imported = base === undefined ? await readImport(path, options, options.precision) : undefined;
      const keepGolden = async ({ picture, ...sample }: Golden) => {
        const file = resolve(options.golden);
        await writeWhole(file, picture);
        return { ...sample, file };
      };
      let version = '';
      let sha256 = '';
      const exitCode = await withRegistry(
        options.state,
        async (registry, state) => {
          const artifacts = state.entry('artifacts');
          imported ??= await readAdapterImport(path, await registry.get(base ?? ''), artifacts, options);
          const stored = await imported.store(artifacts);
          await registry.register(stored);
          version = stored.version ?? '';
          sha256 = stored.weights?.sha256 ?? '';
        },
        { create: true },
      );
      if (imported === undefined) throw new TypeError('nothing was imported');
      const { golden, ...rest } = imported.report;
      const shown = {
        version,
        sha256,
        ...rest,
        ...(golden === undefined ? {} : { golden: await keepGolden(golden) }),
      };
      print(options, shown, () => importText(shown));
      finish(exitCode);
    });
}

type Golden = NonNullable<ImportReport['golden']>;

interface ImportOptions {
  readonly base?: string;
  readonly precision: 'float32' | 'float16';
  readonly prompt?: string;
  readonly steps?: number;
  readonly guidance?: number;
  readonly seed: bigint;
  readonly golden: string;
}

function listCommand(finish: (exitCode: number) => void): Command {
  return subcommand('list', 'list the versions of a state folder').action(async (options: ModelsOptions) => {
    const { withRegistry } = await import('../models/with-registry.ts');
    let versions: readonly ModelVersion[] = [];
    const exitCode = await withRegistry(options.state, async (registry) => {
      versions = await registry.list();
    });
    print(options, { models: versions.map(entryOf) }, () => {
      if (versions.length === 0) return 'No model is registered.';
      const table = new Table({
        head: ['version', 'state', 'parent', 'parameters', 'created', 'reasons'],
        style: { head: [], border: [] },
      });
      for (const version of versions) {
        const { state, parent, parameters, created, reasons } = entryOf(version);
        table.push([version.version, state, parent, String(parameters), created, reasons.join('; ')]);
      }
      return table.toString();
    });
    finish(exitCode);
  });
}

function entryOf(version: ModelVersion) {
  return {
    version: version.version,
    state: stateNames[version.state],
    parent: version.parentVersion,
    sha256: version.weights?.sha256 ?? '',
    parameters: Number(version.parameterCount),
    created: version.createTime === undefined ? '' : timestampDate(version.createTime).toISOString(),
    reasons: version.reasons,
  };
}

function showCommand(finish: (exitCode: number) => void): Command {
  return subcommand('show', 'show configuration, size, hash and parents of a model')
    .argument('<model>', 'version or file')
    .action(async (name: string, options: ModelsOptions) => {
      const { isBuiltIn, readNamedVersions } = await import('../models/named-model.ts');
      const { describeVersion } = await import('../models/stored-version.ts');
      const { parameterCount } = await import('@plumb/diffusion');
      for (const found of await readNamedVersions([name], options.state)) {
        if (!isBuiltIn(found)) {
          const { created: _, parent: __, ...entry } = entryOf(found.entry);
          const parents = parentsOf(found.lineage);
          const shown = { ...entry, parents, ...(await describeVersion(found)) };
          // All layers are for programs; people see how many there are.
          print(options, shown, () => rowsOf({ ...shown, layers: undefined }));
          continue;
        }
        const { version, sha256, bytes, model, lineage } = found;
        const { caption, ...config } = model.config;
        const shown = {
          version,
          sha256,
          bytes: bytes.length,
          parameters: parameterCount(model.config),
          state: lineage[0] === undefined ? 'not registered' : stateNames[lineage[0].state],
          reasons: lineage[0]?.reasons ?? [],
          parents: parentsOf(lineage),
          config: { ...config, caption: { ...caption, vocabulary: `${caption.vocabulary.length} words` } },
        };
        const { config: shownConfig, ...rest } = shown;
        print(options, { ...shown, config: model.config }, () => rowsOf({ ...rest, ...shownConfig }));
      }
      finish(0);
    });
}

function parentsOf(lineage: readonly ModelVersion[]): string[] {
  // An ancestor that the registry does not know is still named by its child.
  return lineage.map(({ parentVersion }) => parentVersion).filter((parent) => parent !== '');
}

function rowsOf(values: Readonly<Record<string, unknown>>): string {
  const table = new Table({ style: { head: [], border: [] } });
  for (const [key, value] of Object.entries(values)) {
    if (value === undefined) continue;
    const text = Array.isArray(value) ? value.join(', ') : plain(value);
    table.push([key, text === '' ? 'none' : text]);
  }
  return table.toString();
}

function plain(value: unknown): string {
  if (typeof value !== 'object' || value === null) return String(value);
  return Object.entries(value)
    .map(([key, item]) => `${key} ${String(item)}`)
    .join(', ');
}

function diffCommand(finish: (exitCode: number) => void): Command {
  return subcommand('diff', 'show how far two models are apart, layer by layer')
    .argument('<before>', 'version or file')
    .argument('<after>', 'version or file')
    .action(async (before: string, after: string, options: ModelsOptions) => {
      const { isBuiltIn, readNamedModels, readNamedVersions } = await import('../models/named-model.ts');
      const { compareModels } = await import('../models/compare-models.ts');
      const { compareVersions } = await import('../models/stored-version.ts');
      const [a, b] = await readNamedVersions([before, after], options.state);
      if (a === undefined || b === undefined) throw new TypeError('two names gave fewer than two models');
      const compared = async () => {
        if (!isBuiltIn(a) && !isBuiltIn(b)) return await compareVersions(a, b);
        if (isBuiltIn(a) && isBuiltIn(b)) return compareModels(a.model, b.model);
        // One of each kind: says which of them is not the built-in model.
        await readNamedModels([before, after], options.state);
        return [];
      };
      const layers = await compared();
      const [from, to] = [a, b].map((found) => (isBuiltIn(found) ? found.version : found.entry.version));
      print(options, { before: from, after: to, layers }, () => {
        const table = new Table({
          head: ['layer', 'shape', 'relative change', 'largest change'],
          colAligns: ['left', 'left', 'right', 'right'],
          style: { head: [], border: [] },
        });
        for (const { name, shape, relativeChange, largestChange } of layers) {
          table.push([name, shape.join(' x '), percentage(relativeChange), largestChange.toPrecision(3)]);
        }
        return `${from} to ${to}\n${table.toString()}`;
      });
      finish(0);
    });
}

function percentage(share: number): string {
  return Number.isFinite(share) ? `${(100 * share).toPrecision(3)} %` : 'from 0';
}

function exportCommand(finish: (exitCode: number) => void): Command {
  return subcommand(
    'export',
    'write a model as safetensors and its sampling graph as ONNX, a pipeline as its folder, adapters as PEFT reads them',
  )
    .argument('<model>', 'version or file')
    .option('--output <folder>', 'where the files go', '.')
    .addOption(countOption('--batch <n>', 'clips that one call of the ONNX graph denoises').default(1))
    .option('--unguided', 'leave out the second pass of classifier-free guidance')
    .action(
      async (name: string, options: ModelsOptions & { output: string; batch: number; unguided?: true }) => {
        const { isBuiltIn, readNamedVersions } = await import('../models/named-model.ts');
        const { exportVersion } = await import('../models/stored-version.ts');
        const { samplingGraph } = await import('@plumb/diffusion');
        const { writeWhole } = await import('../state/state-folder.ts');
        const folder = resolve(options.output);
        await mkdir(folder, { recursive: true });
        const files: string[] = [];
        for (const found of await readNamedVersions([name], options.state)) {
          if (!isBuiltIn(found)) {
            files.push(await exportVersion(found, folder));
            continue;
          }
          const { version, bytes, model } = found;
          const stem = version.replace('@', '-');
          const graph = samplingGraph(model, options.batch, options.unguided !== true);
          for (const [file, content] of [
            [`${stem}.safetensors`, bytes],
            [`${stem}.onnx`, graph],
          ] as const) {
            files.push(join(folder, file));
            await writeWhole(join(folder, file), content);
          }
        }
        print(options, { files }, () => files.join('\n'));
        finish(0);
      },
    );
}

function rollbackCommand(finish: (exitCode: number) => void): Command {
  const command = subcommand(
    'rollback',
    'make an earlier version the promoted one; generators take it up at once',
  ).argument('<version>', 'a registered version, such as toybox@0123456789ab');
  return addConnectionOptions(command, 'a loop service that runs elsewhere')
    .requiredOption('--reason <text>', 'why; it stays on record')
    .action(async (version: string, options: ModelsOptions & ConnectionOptions & { reason: string }) => {
      const { withLoop } = await import('../runs/with-loop.ts');
      const { persistently } = await import('../runs/loop-client.ts');
      const { reason } = options;
      const idempotencyKey = `rollback.${version}.${process.pid}.${Date.now()}`;
      const exitCode = await withLoop(
        { ...options, command: 'models', only: ['nats-server', 'loop'], notice: () => {} },
        async ({ registry, signal }) => {
          const { modelVersion } = await persistently(
            () => registry.promoteModelVersion({ version, reason, idempotencyKey }, { signal }),
            signal,
          );
          const promoted = modelVersion?.version ?? '';
          print(options, { promoted }, () => `${promoted} is promoted now.`);
        },
      );
      finish(exitCode);
    });
}
