import { execFile } from 'node:child_process';
import { cp, mkdir } from 'node:fs/promises';
import { isAbsolute, join } from 'node:path';
import { promisify } from 'node:util';
import { buildContext, copiesOf, stagesOf } from './container-files.ts';
import type { Stage } from './container-files.ts';
import { root } from './helm.ts';

const run = promisify(execFile);

/**
 * Does in folders what a container file does in layers, on this machine's system in place of the base image: copies and RUN
 * instructions of the stages that build, and the copies of the image itself.
 *
 * @param name image, for example generator
 * @param folder a new folder; each stage gets one in it
 * @param env environment of the RUN instructions, for example a cache of npm's
 * @returns the folder that is /app in the image
 */
export async function assembleImage(
  name: string,
  folder: string,
  env: Readonly<Record<string, string | undefined>> = process.env,
): Promise<string> {
  const context = await buildContext();
  const base = await stagesOf('base');
  const stages = [
    ...base.filter((stage) => stage.name === 'manifests'),
    ...base.filter((stage) => stage.name === 'runtime-cpu').map((stage) => ({ ...stage, name: 'runtime' })),
    ...(await stagesOf(name)),
  ];
  const fileSystem = (stage: string): string => join(folder, stage);
  for (const { name: stage = 'image', from, instructions } of stages) {
    const here = fileSystem(stage);
    const at = (path: string): string => (isAbsolute(path) ? join(here, path) : join(here, 'app', path));
    await mkdir(at('/app'), { recursive: true });
    if (stages.some((earlier) => earlier.name === from))
      await cp(fileSystem(from), here, { recursive: true, verbatimSymlinks: true });
    const variables: Record<string, string> = {};
    const instruct: Partial<Record<string, (instruction: Stage['instructions'][number]) => Promise<void>>> = {
      ARG: async ({ text }) => {
        const [key = '', value = ''] = text.split('=');
        variables[key] = value;
        await Promise.resolve();
      },
      ENV: async ({ text }) => {
        for (const [, key = '', value = ''] of text.matchAll(/(\S+?)=(\S+)/g)) variables[key] = value;
        await Promise.resolve();
      },
      // Steps that build, in /app. Those of the base take away parts of its system.
      RUN: async ({ text }) => {
        if (stage === 'runtime') return;
        await run('sh', ['-c', text.replaceAll(/(?<=\s)\/image\b/g, at('/image'))], {
          cwd: at('/app'),
          env: { ...env, ...variables },
          maxBuffer: 2 ** 26,
        });
      },
      COPY: async (instruction) => {
        for (const { sources, target, from: earlier } of copiesOf(instruction)) {
          for (const source of sources) {
            // A folder's contents go into the target; a file goes under its own name where that is a folder.
            if (earlier !== undefined) {
              await cp(join(fileSystem(earlier), source), at(target), {
                recursive: true,
                verbatimSymlinks: true,
              });
              continue;
            }
            for (const file of context.filter((path) => path === source || path.startsWith(`${source}/`))) {
              const inside =
                file === source
                  ? join(target, source.split('/').at(-1) ?? '')
                  : join(target, file.slice(source.length));
              await cp(join(root, file), at(inside));
            }
          }
        }
      },
    };
    for (const instruction of instructions) await instruct[instruction.keyword]?.(instruction);
  }
  return join(fileSystem('image'), 'app');
}
