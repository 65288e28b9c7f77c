import assert from 'node:assert/strict';
import { fileURLToPath } from 'node:url';
import { after, before, test } from 'node:test';
import { smallConfig, smallModel } from '@plumb/diffusion/testing-model';
import { loadPromptSet } from '@plumb/prompts';
import { readRewardDefinitions } from '@plumb/rewards';
import { openEngine } from '@plumb/tensor-graph/engine';
import type { Engine } from '@plumb/tensor-graph/engine';
import { longestCaption, vocabulary } from '@plumb/toybox';
import { analyseStudy } from './analyse-study.ts';
import { cellTable, csvOf } from './cell-table.ts';
import type { StudyRecords } from './records.ts';
import { runStudy } from './run-study.ts';
import type { Study } from './run-study.ts';
import { openScoring } from './score-clips.ts';
import type { Scoring } from './score-clips.ts';
import { parseStudySpec } from './spec.ts';
import { studyManifest } from './study-manifest.ts';

const root = (path: string): string => fileURLToPath(new URL(`../../../${path}`, import.meta.url));

const model = smallModel('study', {
  ...smallConfig,
  video: { frames: 4, height: 16, width: 16, fps: 4 },
  caption: { vocabulary: [...vocabulary], maxWords: longestCaption, wordWidth: 8 },
});
const spec = parseStudySpec(
  {
    name: 'tiny',
    model: 'model',
    prompts: { set: 'prompts', trainPerCategory: 2, heldoutPerCategory: 2 },
    rewards: 'rewards',
    samplesPerPrompt: 2,
    sampler: { steps: 2, guidance: 1, shift: 1 },
    optimisation: { steps: 30, batchSize: 2, warmupSteps: 1, emaDecay: 0.9 },
    evaluation: { samplesPerPrompt: 1, guards: ['motion_floor', 'colour_stability'] },
    matrix: [{ algorithms: ['sft'] }, { algorithms: ['rwr', 'dpo'], rewards: ['motion_floor'] }],
    seeds: [1, 2],
  },
  'tiny.yaml',
);
const prompts = await loadPromptSet(root('prompts/toybox.json'));

let engine: Engine;
let scoring: Scoring;
before(async () => {
  engine = await openEngine({ form: 'worker', intraOpThreads: 1 });
  const guards = (await readRewardDefinitions(root('rewards'))).filter(({ definition }) =>
    ['motion-floor', 'colour-stability'].includes(definition.kind),
  );
  scoring = await openScoring(guards, ['motion_floor', 'colour_stability']);
});
after(async () => {
  await scoring.close();
  await engine.close();
});

/** Records in memory, of which the process dies at the write numbered `lastWrite`. */
function records(kept: Map<string, Uint8Array>, lastWrite = Infinity): StudyRecords & { written: string[] } {
  const written: string[] = [];
  return {
    written,
    read: (name) => Promise.resolve(kept.get(name)),
    write(name, bytes) {
      if (written.length === lastWrite) return Promise.reject(new Error('killed'));
      written.push(name);
      kept.set(name, bytes);
      return Promise.resolve();
    },
    remove(name) {
      kept.delete(name);
      return Promise.resolve();
    },
  };
}

const study = (store: StudyRecords): Study => ({
  spec,
  model,
  prompts,
  scoring,
  engine,
  records: store,
  onProgress: () => {},
});

test('a study that dies at its writes ends as one that never did', { timeout: 300_000 }, async () => {
  const whole = records(new Map());
  const undisturbed = await runStudy(study(whole));
  assert.equal(undisturbed.cells.length, 6);
  assert.ok(
    whole.written.some((name) => name.endsWith('.state')),
    'trainings leave states to go on from',
  );

  const kept = new Map<string, Uint8Array>();
  let starts = 0;
  let data;
  const made: string[] = [];
  while (data === undefined) {
    starts += 1;
    // Two writes a start, so that every start ends at the third: a group's pixels come with its record.
    const store = records(kept, 2);
    try {
      data = await runStudy(study(store));
    } catch (error) {
      assert.equal((error as Error).message, 'killed');
    }
    made.push(...store.written);
  }
  assert.ok(starts >= 8, `${starts} starts`);
  assert.deepEqual(studyManifest(data, 1), studyManifest(undisturbed, 1));
  const times = /"seconds":[\d.e-]+/g;
  for (const [index, cell] of data.cells.entries()) {
    const other = undisturbed.cells[index];
    assert.equal(JSON.stringify(cell).replaceAll(times, ''), JSON.stringify(other).replaceAll(times, ''));
  }
  // What is on record is not made again.
  for (const name of made.filter((one) => one.endsWith('.json'))) {
    assert.equal(made.filter((one) => one === name).length, 1, name);
  }
  const left = [...kept.keys()].filter((name) => name.endsWith('.state'));
  assert.deepEqual(left, []);

  const again = records(kept);
  await runStudy(study(again));
  assert.deepEqual(again.written, []);

  const analysis = analyseStudy(data);
  assert.deepEqual(analyseStudy(data), analysis);
  assert.deepEqual(
    analysis.arms.map(({ id }) => id),
    ['sft', 'rwr motion_floor', 'dpo motion_floor'],
  );
  assert.equal(analysis.overControl.length, 2);
  const binary = analysis.agreement.find(
    ({ reward, judgeNoise }) => reward === 'aif' && judgeNoise === undefined,
  );
  const perCategory = Object.values(binary?.rocAucPerCategory ?? {});
  assert.ok(
    perCategory.length > 0 && perCategory.every((auc) => auc === null || auc === 1),
    String(perCategory),
  );
  const [, rewarded] = analysis.arms;
  assert.ok(rewarded?.trained !== undefined);
  assert.deepEqual(Object.keys(rewarded.guards), ['colour_stability'], 'a reward does not guard itself');
  const lines = csvOf(cellTable(data)).trimEnd().split('\r\n');
  assert.equal(lines.length, 7);
});

test('clips that are not those of the record are an error', { timeout: 60_000 }, async () => {
  const kept = new Map<string, Uint8Array>();
  const first = records(kept, 2);
  await assert.rejects(runStudy(study(first)), /killed/);
  const pixels = kept.get('samples/train-1.rgb');
  assert.ok(pixels !== undefined);
  kept.set(
    'samples/train-1.rgb',
    pixels.map((value) => value ^ 1),
  );
  await assert.rejects(
    runStudy(study(records(kept))),
    /samples\/train-1\.rgb does not hold the clip of .+; remove/,
  );
});
