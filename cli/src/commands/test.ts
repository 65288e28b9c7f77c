import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { glob } from 'node:fs/promises';
import { delimiter, join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { Command } from 'commander';
import { failedPrecondition } from '@plumb/kit/errors';

const root = fileURLToPath(new URL('../../../', import.meta.url));

/** Where tests are. The second group starts whole systems of processes, one at a time; those called long take minutes each. */
const unitTests = ['{packages,services,cli,charts}/**/*.test.ts', '{bench,parity}/**/*.test.ts'];
const systemTests = ['integration-tests/**/*.test.ts'];

export function testCommand(finish: (exitCode: number) => void): Command {
  return new Command('test')
    .description('check types, lint, format, contracts and unused code, then run every test')
    .option('--long', 'the long tests of whole systems too (integration-tests/*.long.test.ts)')
    .option('--only <pattern>', 'only test files whose path contains it, without the checks')
    .action(async (options: { long?: true; only?: string }) => {
      const wanted = (path: string): boolean => options.only === undefined || path.includes(options.only);
      const units = (await find(unitTests)).filter(wanted);
      const systems = (await find(systemTests)).filter(
        (path) =>
          wanted(path) &&
          (!path.endsWith('.long.test.ts') || options.long === true || options.only !== undefined),
      );
      if (units.length + systems.length === 0) {
        throw failedPrecondition(
          `no test file has '${options.only ?? ''}' in its path; see integration-tests/`,
        );
      }
      const failed: string[] = [];
      if (options.only === undefined && (await run('npm', ['run', '--silent', 'verify'])) !== 0) {
        failed.push('checks');
      }
      // Whole systems need both cores for themselves.
      if (units.length > 0 && (await runTests(units, 2)) !== 0) failed.push('tests');
      if (systems.length > 0 && (await runTests(systems, 1)) !== 0) failed.push('integration tests');
      const summary = failed.length === 0 ? 'Everything passed.' : `Failed: ${failed.join(', ')}.`;
      process.stdout.write(`\n${summary}\n`);
      finish(failed.length === 0 ? 0 : 1);
    });
}

async function find(patterns: readonly string[]): Promise<string[]> {
  const files: string[] = [];
  for await (const path of glob([...patterns], { cwd: root, exclude: ['**/node_modules/**'] }))
    files.push(path);
  return files.toSorted();
}

function runTests(files: readonly string[], concurrency: number): Promise<number> {
  return run(process.execPath, [
    '--test',
    `--test-concurrency=${concurrency}`,
    '--test-reporter=spec',
    '--test-reporter-destination=stdout',
    ...files,
  ]);
}

/** Runs a program with our Node and the installed tools on its PATH; its exit code. */
async function run(command: string, args: readonly string[]): Promise<number> {
  const path = [join(root, 'node_modules/.bin'), process.env['PATH'] ?? ''].join(delimiter);
  const child = spawn(command, args, { cwd: root, stdio: 'inherit', env: { ...process.env, PATH: path } });
  const [code] = (await once(child, 'exit')) as [number | null];
  return code ?? 1;
}
