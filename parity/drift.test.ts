import assert from 'node:assert/strict';
import { test } from 'node:test';
import { committedCases, readCases, type CaseFiles } from './case-files.ts';
import { driftBetween } from './drift.ts';

const files = await readCases(committedCases);
const name = 'models/prediction:gradient.patch.weight';

function withTensor(change: (data: Float32Array) => void): CaseFiles {
  const tensor = files.tensors.get(name);
  assert.ok(tensor !== undefined);
  const data = Float32Array.from(tensor.data as Float32Array);
  change(data);
  return { ...files, tensors: new Map([...files.tensors, [name, { ...tensor, data }]]) };
}

test('the same cases do not drift, nor do roundings', () => {
  assert.deepEqual(driftBetween(files, files), { differences: [], largest: 0 });
  const rounded = withTensor((data) =>
    data.forEach((value, place) => (data[place] = value * (1 + 2 ** -23))),
  );
  const { differences, largest } = driftBetween(files, rounded);
  assert.deepEqual(differences, []);
  assert.ok(largest > 0);
});

test('a changed number, a missing tensor and a changed case are drift, by name', () => {
  const changed = withTensor((data) => (data[0] = (data[0] ?? 0) + 0.1));
  assert.match(
    driftBetween(files, changed).differences.join(),
    /prediction:gradient\.patch\.weight: relative error/,
  );
  const fewer = { ...files, tensors: new Map([...files.tensors].filter(([key]) => key !== name)) };
  assert.match(driftBetween(files, fewer).differences.join(), /gradient\.patch\.weight: was not remade/);
  const cases = { ...files, index: { ...files.index, cases: files.index.cases.slice(1) } };
  assert.match(driftBetween(files, cases).differences.join(), /index: add\/same shape differ/);
});
