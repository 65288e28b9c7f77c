/**
 * `npm run parity`: makes the cases again with PyTorch and fails when they are not the committed ones. Uses the Python
 * that PLUMB_PYTHON names, python3 unless given. With --write, replaces the committed cases.
 */
import { execFile } from 'node:child_process';
import { mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { parseArgs, promisify } from 'node:util';
import { committedCases, readCases } from './case-files.ts';
import { writeAdapters } from './denoisers.ts';
import { FLOAT32_DRIFT_LIMIT, DRIFT_LIMIT, driftBetween } from './drift.ts';

const run = promisify(execFile);
const SHOWN = 20;

/** @throws Error of one line that says what to install and how to name another Python */
async function checkPython(python: string): Promise<void> {
  try {
    await run(python, ['-c', 'import diffusers, numpy, onnxscript, peft, PIL, safetensors, torch']);
  } catch (error) {
    const { code, stderr } = error as { code?: unknown; stderr?: string };
    const reason =
      code === 'ENOENT' ? 'is not there' : `fails: ${stderr?.trim().split('\n').at(-1) ?? String(error)}`;
    throw new Error(
      `parity: ${python} ${reason}. Make a Python with PyTorch (python3 -m venv torch && torch/bin/pip install -r ` +
        'parity/requirements.txt) and name it: PLUMB_PYTHON=torch/bin/python npm run parity',
      { cause: error },
    );
  }
}

async function remake(python: string, folder: string): Promise<void> {
  const script = fileURLToPath(new URL('make_cases.py', import.meta.url));
  // Python would leave compiled files beside the sources.
  await run(python, ['-B', script, '--out', folder]);
}

/** Writes the adapters of the committed cases, and has diffusers load them. */
async function checkAdapters(python: string): Promise<string> {
  const folder = await mkdtemp(join(tmpdir(), 'plumb-adapters-'));
  try {
    const files = await readCases(committedCases);
    for (const one of files.index.cases) {
      if (one.kind === 'denoisers') {
        await writeFile(join(folder, `${one.name}.safetensors`), await writeAdapters(files, one));
      }
    }
    const script = fileURLToPath(new URL('check_adapters.py', import.meta.url));
    const { stdout } = await run(python, ['-B', script, '--cases', committedCases, '--written', folder]);
    return stdout;
  } finally {
    await rm(folder, { recursive: true, force: true });
  }
}

async function compareWithCommitted(python: string): Promise<void> {
  const folder = await mkdtemp(join(tmpdir(), 'plumb-parity-'));
  try {
    await remake(python, folder);
    const [committed, remade] = [await readCases(committedCases), await readCases(folder)];
    const versions = (files: typeof remade): string =>
      Object.entries(files.index.versions)
        .map(([name, version]) => `${name} ${version}`)
        .join(', ');
    process.stdout.write(`committed  ${versions(committed)}\nremade     ${versions(remade)}\n`);
    const { differences, largest } = driftBetween(committed, remade);
    if (differences.length > 0) {
      const shown = differences.slice(0, SHOWN).map((line) => `  ${line}\n`);
      const more = differences.length > SHOWN ? `  and ${differences.length - SHOWN} more\n` : '';
      process.stderr.write(
        `parity: ${differences.length} differences from the committed cases\n${shown.join('')}${more}` +
          'If the change is meant, run npm run parity -- --write and commit parity/cases\n',
      );
      process.exitCode = 1;
      return;
    }
    process.stdout.write(
      `${remade.index.cases.length} cases, ${remade.tensors.size} tensors: largest drift ${largest.toExponential(1)}, ` +
        `limit ${DRIFT_LIMIT.toExponential()}; ${FLOAT32_DRIFT_LIMIT.toExponential()} for denoisers and jobs\n`,
    );
    process.stdout.write(await checkAdapters(python));
  } finally {
    await rm(folder, { recursive: true, force: true });
  }
}

const { values: options } = parseArgs({ options: { write: { type: 'boolean', default: false } } });
const python = process.env['PLUMB_PYTHON'] ?? 'python3';
try {
  await checkPython(python);
  if (options.write) await remake(python, committedCases);
  else await compareWithCommitted(python);
} catch (error) {
  process.stderr.write(`${error instanceof Error ? error.message : String(error)}\n`);
  process.exitCode = 1;
}
