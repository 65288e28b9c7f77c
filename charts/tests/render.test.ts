import assert from 'node:assert/strict';
import { readFile } from 'node:fs/promises';
import { join } from 'node:path';
import { describe, test } from 'node:test';
import { parse } from 'yaml';
import { exampleFile, examples, renderedFile } from '../src/examples.ts';
import { chartFolder, lint, render, root } from '../src/helm.ts';
import { withoutDashboards } from '../src/rendered.ts';
import { valuesJsonSchema, valuesReference } from '../src/values-reference.ts';

const remake = 'run `npm run chart` and look at what has changed';

test('the schema of the values and their reference are current', async () => {
  const schema: unknown = JSON.parse(await readFile(join(chartFolder, 'values.schema.json'), 'utf8'));
  assert.deepEqual(schema, JSON.parse(JSON.stringify(valuesJsonSchema())), remake);
  const values: unknown = parse(await readFile(join(chartFolder, 'values.yaml'), 'utf8'), { merge: true });
  assert.equal(
    await readFile(join(root, 'docs/kubernetes-values.md'), 'utf8'),
    valuesReference(values),
    remake,
  );
});

describe('every values file', () => {
  for (const name of examples) {
    test(`${name}: lints, and renders what is committed`, async () => {
      await lint(exampleFile(name));
      const rendered = withoutDashboards(await render({ values: [exampleFile(name)], upgrade: true }));
      assert.equal(rendered, await readFile(renderedFile(name), 'utf8'), remake);
    });
  }
});

test('a key that is not there is refused, at any depth', async () => {
  for (const set of [
    'componets={}',
    'components.reward.replica=2',
    'components.judge.settings.batchSize=2',
  ]) {
    await assert.rejects(render({ values: [exampleFile('kind')], set: [set] }), /additional properties/, set);
  }
});
