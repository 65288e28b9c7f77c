import assert from 'node:assert/strict';
import { readFile } from 'node:fs/promises';
import { test } from 'node:test';
import {
  AdaptersSchema,
  ObjectiveSchema,
  OptimisationSchema,
  ProbeSchema,
} from '@plumb/proto/plumb/trainer/v1/trainer_pb.js';

test('the page on training has every setting of a job', async () => {
  const page = await readFile(new URL('../../../docs/training.md', import.meta.url), 'utf8');
  const rows = page
    .split('\n')
    .filter((line) => line.startsWith('| `'))
    .flatMap((line) => Array.from((line.split(' | ')[0] ?? '').matchAll(/`(\w+)`/g), ([, name]) => name));
  const shown = new Set(rows);
  for (const { name, fields } of [ObjectiveSchema, OptimisationSchema, AdaptersSchema, ProbeSchema]) {
    for (const { localName } of fields) {
      // Shown in the example of the page, and not as rows.
      if (name === 'Probe' && ['prompts', 'samplesPerPrompt', 'sampler'].includes(localName)) continue;
      assert.ok(shown.has(localName), `docs/training.md has no row for ${name}.${localName}`);
    }
  }
});
