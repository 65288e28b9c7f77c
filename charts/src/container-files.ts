import { execFile } from 'node:child_process';
import { glob, readFile } from 'node:fs/promises';
import { dirname, join } from 'node:path';
import { promisify } from 'node:util';
import ignore from '@balena/dockerignore';
import { Copy, DockerfileParser } from 'dockerfile-ast';
import { z } from 'zod';
import { root } from './helm.ts';

const run = promisify(execFile);

/** Folder of the container files. */
export const imagesFolder: string = join(root, 'deploy/images');

/** An instruction of a container file, its arguments as they stand there. */
export interface Instruction {
  readonly keyword: string;
  readonly text: string;
  /** Words of the exec form; undefined in the shell form. */
  readonly words: readonly string[] | undefined;
  /** The stage that a COPY takes from; undefined takes from the repository. */
  readonly from: string | undefined;
}

/** A stage of a container file. */
export interface Stage {
  readonly name: string | undefined;
  readonly from: string;
  readonly instructions: readonly Instruction[];
}

const wordsSchema = z.array(z.string());

/** The stages of a container file of deploy/images. */
export async function stagesOf(name: string): Promise<Stage[]> {
  const file = DockerfileParser.parse(await readFile(join(imagesFolder, `${name}.Containerfile`), 'utf8'));
  const stages: { name: string | undefined; from: string; instructions: Instruction[] }[] = [];
  for (const instruction of file.getInstructions()) {
    const keyword = instruction.getKeyword();
    const text = instruction.getArgumentsContent() ?? '';
    if (keyword === 'FROM') {
      const [from = '', as, stage] = text.split(/\s+/);
      stages.push({ name: as?.toUpperCase() === 'AS' ? stage : undefined, from, instructions: [] });
      continue;
    }
    const list = /\[.*\]$/s.exec(text)?.[0];
    const words = list === undefined ? undefined : wordsSchema.parse(JSON.parse(list));
    // Before the first FROM there are only arguments.
    const copied =
      instruction instanceof Copy ? (instruction.getFromFlag()?.getValue() ?? undefined) : undefined;
    stages.at(-1)?.instructions.push({ keyword, text, words, from: copied });
  }
  return stages;
}

/** What a COPY copies and where to; nothing for another instruction. */
export function copiesOf({ keyword, text, from }: Instruction): {
  readonly sources: readonly string[];
  readonly target: string;
  readonly from: string | undefined;
}[] {
  if (keyword !== 'COPY') return [];
  const words = text.split(/\s+/);
  return [{ sources: words.slice(0, -1), target: words.at(-1) ?? '', from }];
}

/** Sources of a stage's COPY instructions in the repository. */
export function repositorySources(stage: Stage): string[] {
  return stage.instructions
    .flatMap(copiesOf)
    .filter(({ from }) => from === undefined)
    .flatMap(({ sources }) => sources);
}

/** Files of the repository that a build may see: those in git, less what .dockerignore keeps out. */
export async function buildContext(): Promise<string[]> {
  const { stdout } = await run('git', ['ls-files', '-z', '--cached', '--others', '--exclude-standard'], {
    cwd: root,
    maxBuffer: 2 ** 26,
  });
  const seen = ignore
    .default()
    .add(await readFile(join(root, '.dockerignore'), 'utf8'))
    .createFilter();
  return stdout.split('\0').filter((path) => path !== '' && seen(path));
}

const manifestSchema = z.object({
  name: z.string(),
  version: z.string(),
  workspaces: z.array(z.string()).default([]),
  dependencies: z.record(z.string(), z.string()).default({}),
});

const manifestOf = async (folder: string) =>
  manifestSchema.parse(JSON.parse(await readFile(join(root, folder, 'package.json'), 'utf8')));

/** Folders of the repository's workspaces. */
export async function workspaceFolders(): Promise<string[]> {
  const { workspaces } = await manifestOf('.');
  const found: string[] = [];
  for (const pattern of workspaces)
    for await (const file of glob(`${pattern}/package.json`, { cwd: root })) found.push(dirname(file));
  return found.toSorted();
}

/** Folders of a workspace and of all workspaces that it needs at run time. */
export async function workspaceClosure(folder: string): Promise<string[]> {
  const byName = new Map<string, string>();
  for (const workspace of await workspaceFolders()) byName.set((await manifestOf(workspace)).name, workspace);
  const found = new Set<string>();
  const visit = async (here: string): Promise<void> => {
    if (found.has(here)) return;
    found.add(here);
    for (const name of Object.keys((await manifestOf(here)).dependencies)) {
      const there = byName.get(name);
      if (there !== undefined) await visit(there);
    }
  };
  await visit(folder);
  return [...found].toSorted();
}

const bakeSchema = z.object({
  target: z.record(
    z.string(),
    z.looseObject({
      dockerfile: z.string().optional(),
      tags: z.array(z.string()).optional(),
      contexts: z.record(z.string(), z.string()).optional(),
      inherits: z.array(z.string()).optional(),
      target: z.string().optional(),
    }),
  ),
  group: z.record(z.string(), z.object({ targets: z.array(z.string()) })),
});

/** What builds the images. */
export async function bakeFile() {
  return bakeSchema.parse(JSON.parse(await readFile(join(imagesFolder, 'docker-bake.json'), 'utf8')));
}

/** Names of the images that are built here, without a registry, in this version. */
export async function builtImages(): Promise<ReadonlySet<string>> {
  const { target } = await bakeFile();
  const { version } = await manifestOf('charts');
  const tags = Object.values(target).flatMap(({ tags: some = [] }) => some);
  return new Set(tags.map((tag) => tag.replace('${PREFIX}', '').replace('${VERSION}', version)));
}
