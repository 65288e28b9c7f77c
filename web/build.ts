/* Builds the page into dist/, unless what it is made of has not changed since. */
import { createHash } from 'node:crypto';
import { mkdir, readdir, readFile, rename, rm, writeFile } from 'node:fs/promises';
import { join, relative } from 'node:path';
import { promisify } from 'node:util';
import { brotliCompress, constants, gzip } from 'node:zlib';

const folder = import.meta.dirname;
const root = join(folder, '..');
const dist = join(folder, 'dist');
/** What the page is made of; what it imports from node_modules is in the lock file. */
const sources = [
  'web/src',
  'web/index.html',
  'web/vite.config.ts',
  'web/build.ts',
  'packages/charts/src',
  'packages/trace/src',
  'proto/gen/plumb',
  'package-lock.json',
];

const hash = await sourceHash();
const built = await readFile(join(dist, '.source-hash'), 'utf8').catch(() => '');
if (built !== hash) {
  const { build } = await import('vite');
  // Made beside and then swapped, so that nobody ever serves half of it; two builds at once do not meet.
  const outDir = join(folder, 'node_modules', `.dist-${process.pid}`);
  await mkdir(outDir, { recursive: true });
  try {
    await build({ configFile: join(folder, 'vite.config.ts'), logLevel: 'warn', build: { outDir } });
    await compressAll(outDir);
    await writeFile(join(outDir, '.source-hash'), hash);
    await rm(dist, { recursive: true, force: true });
    await rename(outDir, dist);
  } finally {
    await rm(outDir, { recursive: true, force: true });
  }
}

async function sourceHash(): Promise<string> {
  const digest = createHash('sha256');
  for (const source of sources) {
    for (const path of await filesIn(join(root, source))) {
      digest
        .update(`${relative(root, path)}\0`)
        .update(await readFile(path))
        .update('\0');
    }
  }
  return digest.digest('hex');
}

async function filesIn(path: string): Promise<string[]> {
  const entries = await readdir(path, { recursive: true, withFileTypes: true }).catch(
    (error: NodeJS.ErrnoException) => {
      if (error.code === 'ENOTDIR') return undefined;
      throw error;
    },
  );
  if (entries === undefined) return [path];
  return entries
    .filter((entry) => entry.isFile())
    .map((entry) => join(entry.parentPath, entry.name))
    .toSorted();
}

/** Compressed once here, and not at every request. */
async function compressAll(path: string): Promise<void> {
  for (const file of await filesIn(path)) {
    const bytes = await readFile(file);
    const params = { [constants.BROTLI_PARAM_QUALITY]: 11 };
    await writeFile(`${file}.br`, await promisify(brotliCompress)(bytes, { params }));
    await writeFile(`${file}.gz`, await promisify(gzip)(bytes, { level: 9 }));
  }
}
