/**
 * Measures every committed case and prints the largest errors as a Markdown table; with --write, also puts it into
 * docs/parity.md.
 */
import { readFile, writeFile } from 'node:fs/promises';
import { fileURLToPath } from 'node:url';
import { parseArgs } from 'node:util';
import { openInThread } from '@plumb/tensor-graph/engine';
import { committedCases, readCases } from './case-files.ts';
import { measureCase } from './measure.ts';

const START = '<!-- node parity/error-table.ts --write -->\n';
const END = '<!-- end -->';

interface Row {
  tensors: number;
  largest: number;
  where: string;
  limit: number;
}

const { values: options } = parseArgs({ options: { write: { type: 'boolean', default: false } } });
const files = await readCases(committedCases);
const engine = openInThread({ intraOpThreads: 1 });
const rows = new Map<string, Row>();
for (const one of files.index.cases) {
  const { comparisons } = await measureCase(engine, files, one);
  for (const { group, role, error, limit } of comparisons) {
    const row = rows.get(group) ?? { tensors: 0, largest: 0, where: '', limit };
    row.tensors++;
    if (error >= row.largest) Object.assign(row, { largest: error, where: `${one.name}: ${role}` });
    rows.set(group, row);
  }
}
await engine.close();

const { torch, numpy } = files.index.versions;
const table = [
  `${files.index.cases.length} cases of PyTorch ${torch} (NumPy ${numpy}); measured on ${process.platform} ${process.arch}.`,
  '',
  '| what | tensors | limit | largest relative error | of |',
  '|---|---|---|---|---|',
  ...Array.from(
    rows,
    ([group, { tensors, largest, where, limit }]) =>
      `| ${group} | ${tensors} | ${limit.toExponential()} | ${largest.toExponential(1)} | \`${where}\` |`,
  ),
  '',
].join('\n');
process.stdout.write(table);

if (options.write) {
  const page = fileURLToPath(new URL('../docs/parity.md', import.meta.url));
  const text = await readFile(page, 'utf8');
  const [from, to] = [text.indexOf(START), text.indexOf(END)];
  if (from < 0 || to < from)
    throw new Error(`docs/parity.md has no lines ${START.trim()} and ${END}; put them back`);
  await writeFile(page, `${text.slice(0, from)}${START}\n${table}\n${text.slice(to)}`);
}
