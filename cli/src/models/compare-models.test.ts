import assert from 'node:assert/strict';
import { test } from 'node:test';
import { initialiseModel } from '@plumb/diffusion';
import type { VideoModel } from '@plumb/diffusion';
import { smallConfig } from '@plumb/diffusion/testing-model';
import { compareModels } from './compare-models.ts';

function changed(model: VideoModel, name: string, change: (value: number) => number): VideoModel {
  return {
    ...model,
    parameters: new Map(model.parameters).set(
      name,
      (model.parameters.get(name) ?? new Float32Array()).map(change),
    ),
  };
}

test('the change of a layer is relative to its own size; the others have none', () => {
  const model = initialiseModel(smallConfig, 's');
  const layers = compareModels(
    model,
    changed(model, 'patch.weight', (value) => value * 1.5),
  );
  for (const { name, relativeChange } of layers) {
    assert.ok(Math.abs(relativeChange - (name === 'patch.weight' ? 0.5 : 0)) < 1e-6, name);
  }
});

test('a layer that was 0 changes from 0, and one that stays 0 does not change', () => {
  const model = initialiseModel(smallConfig, 's');
  const of = (name: string, other: VideoModel): number | undefined =>
    compareModels(model, other).find((layer) => layer.name === name)?.relativeChange;
  assert.equal(
    of(
      'head.out.weight',
      changed(model, 'head.out.weight', () => 1),
    ),
    Infinity,
  );
  assert.equal(of('head.out.weight', model), 0);
});

test('models of different architectures are refused with the first layer that differs', () => {
  const wide = initialiseModel({ ...smallConfig, hiddenSize: 32 }, 's');
  assert.throws(() => compareModels(initialiseModel(smallConfig, 's'), wide), {
    code: 'FAILED_PRECONDITION',
    message: /patch\.weight/,
  });
});
