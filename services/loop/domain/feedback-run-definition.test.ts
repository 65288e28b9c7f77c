import assert from 'node:assert/strict';
import { readFile } from 'node:fs/promises';
import { test } from 'node:test';
import { parse } from 'yaml';
import { feedbackRunDefinition } from './feedback-run-definition.ts';
import { feedbackRunSpecSchema } from './feedback-run-spec.ts';

const definition = feedbackRunDefinition();
const file = new URL('../../../charts/plumb/crds/feedbackruns.yaml', import.meta.url);

test('the definition in the chart is current (node services/loop/definition.ts > charts/plumb/crds/feedbackruns.yaml)', async () => {
  assert.deepEqual(parse(await readFile(file, 'utf8')), JSON.parse(JSON.stringify(definition)));
});

test('its schema names every field of the spec, and is structural: what the API server would refuse is not there', () => {
  const schema = definition.spec.versions[0]?.schema.openAPIV3Schema;
  const spec = schema?.properties.spec as { properties: object; required: string[] };
  assert.deepEqual(
    Object.keys(spec.properties).toSorted(),
    Object.keys(feedbackRunSpecSchema.shape).toSorted(),
  );
  assert.deepEqual(spec.required.toSorted(), ['model', 'prompts']);
  // Source: kubernetes.io, "Specifying a structural schema".
  const forbidden = [
    '$ref',
    '$schema',
    'additionalProperties',
    'propertyNames',
    'anyOf',
    'oneOf',
    'const',
    'definitions',
  ];
  const look = (node: unknown, at: string): void => {
    if (typeof node !== 'object' || node === null) return;
    if (!Array.isArray(node) && !at.endsWith('properties')) {
      for (const key of forbidden) assert.ok(!Object.hasOwn(node, key), `${at}.${key}`);
      const typed = ['type', 'x-kubernetes-int-or-string'].some((key) => Object.hasOwn(node, key));
      assert.ok(typed, `${at} has no type`);
    }
    for (const [key, child] of Object.entries(node)) {
      if (['properties', 'items'].includes(key) || at.endsWith('properties')) look(child, `${at}.${key}`);
    }
  };
  look(schema, 'schema');
});
