/** Remakes what is made from the chart's sources: the schema of its values, their reference, and the renderings of the tests. */

import { readFile, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { parse } from 'yaml';
import { examples, exampleFile, renderedFile } from './src/examples.ts';
import { chartFolder, render, root } from './src/helm.ts';
import { withoutDashboards } from './src/rendered.ts';
import { valuesJsonSchema, valuesReference } from './src/values-reference.ts';

const values: unknown = parse(await readFile(join(chartFolder, 'values.yaml'), 'utf8'), { merge: true });
await writeFile(
  join(chartFolder, 'values.schema.json'),
  `${JSON.stringify(valuesJsonSchema(), undefined, 2)}\n`,
);
await writeFile(join(root, 'docs/kubernetes-values.md'), valuesReference(values));
for (const name of examples) {
  const text = await render({ values: [exampleFile(name)], upgrade: true });
  await writeFile(renderedFile(name), withoutDashboards(text));
}
process.stdout.write(`Remade the schema, the reference and ${examples.length} renderings.\n`);
