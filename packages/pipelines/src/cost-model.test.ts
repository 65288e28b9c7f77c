import assert from 'node:assert/strict';
import { readFileSync } from 'node:fs';
import { test } from 'node:test';
import {
  cogVideoX2,
  cogVideoX5,
  parametersOf,
  passOperations,
  tokensOf,
  wan13,
  wan14,
} from './cost-model.ts';
import { cardTable, memoryTable, modelTable } from './cost-tables.ts';

test('parameters are those that the models are known by', () => {
  for (const [shape, billions] of [
    [wan13, 1.42],
    [wan14, 14.29],
    [cogVideoX2, 1.69],
    [cogVideoX5, 5.57],
  ] as const) {
    const found = parametersOf(shape) / 1e9;
    assert.ok(Math.abs(found / billions - 1) < 0.02, `${shape.name}: ${found} B, not ${billions} B`);
  }
});

test('work grows with the square of the tokens where attention rules, and tokens are counted as the models do', () => {
  assert.equal(tokensOf({ width: 832, height: 480, frames: 81 }), 21 * 30 * 52);
  assert.equal(tokensOf({ width: 720, height: 480, frames: 49 }), 13 * 30 * 45);
  const long = { width: 1280, height: 720, frames: 321 };
  const longer = { width: 1280, height: 720, frames: 641 };
  const ratio = passOperations(wan13, longer) / passOperations(wan13, long);
  assert.ok(ratio > 3.5 && ratio < 4, String(ratio));
});

test('the tables of docs/gpu.md are those that the formulas give', () => {
  const page = readFileSync(new URL('../../../docs/gpu.md', import.meta.url), 'utf8');
  for (const table of [modelTable(), memoryTable(), cardTable()]) {
    assert.ok(page.includes(table), `docs/gpu.md lacks this table; put it there:\n${table}`);
  }
});
