/** `npm run bench -- <name> [options]`: runs one benchmark of `bench/benchmarks/`, or lists them. */
import { spawnSync } from 'node:child_process';
import { readdirSync } from 'node:fs';
import { basename, join } from 'node:path';

const folder = join(import.meta.dirname, 'benchmarks');
const names = readdirSync(folder)
  .filter((file) => file.endsWith('.ts'))
  .map((file) => basename(file, '.ts'));
const [name, ...options] = process.argv.slice(2);
if (name === undefined || !names.includes(name)) {
  process.stderr.write(
    `${name === undefined ? 'name a benchmark' : `there is no benchmark "${name}"`}; there are: ${names.join(', ')}\n` +
      'for example: npm run bench -- feedback --json\n',
  );
  process.exitCode = 2;
} else {
  const { status, error } = spawnSync(process.execPath, [join(folder, `${name}.ts`), ...options], {
    stdio: 'inherit',
  });
  if (error !== undefined) throw error;
  process.exitCode = status ?? 1;
}
