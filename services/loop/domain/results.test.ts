import assert from 'node:assert/strict';
import { describe, test } from 'node:test';
import { clone, create } from '@bufbuild/protobuf';
import { applyGate, compareModels, gateSpec, ruleResultSchema } from '@plumb/evaluation';
import type { MeasuredClip } from '@plumb/evaluation';
import { dataSetManifestSchema } from '@plumb/objective';
import { RunSpecSchema } from '@plumb/proto/plumb/loop/v1/loop_pb.js';
import { HumanLabelsSchema } from '@plumb/proto/plumb/loop/v1/loop_pb.js';
import { VideoSchema } from '@plumb/proto/plumb/media/v1/video_pb.js';
import { z } from 'zod';
import { modelFixture, specFixture } from '../testing/run-spec-fixture.ts';
import { canonicalJson } from './canonical-json.ts';
import type { CategoryId } from './categories.ts';
import { dataSetManifest } from './data-set.ts';
import { evaluate, evaluationManifest, parseEvaluation } from './evaluation.ts';
import { decide, reasonsOf } from './gate.ts';
import { plannedSamples } from './sample-plan.ts';
import type { SampleRecord } from './sample-record.ts';

const manifestSample = z.object({
  promptId: z.string(),
  category: z.string(),
  seed: z.string(),
  scores: z.record(
    z.string(),
    z.object({ value: z.number().optional(), checks: z.record(z.string(), z.boolean()).optional() }),
  ),
});
const manifestSchema = z.object({
  signals: z.object({
    judge: z.string(),
    heldOut: z.string(),
    trained: z.string(),
    guards: z.array(z.string()),
  }),
  gate: gateSpec,
  bootstrapSeed: z.int(),
  samples: z.object({ before: z.array(manifestSample), after: z.array(manifestSample) }),
  decision: z.object({ promoted: z.boolean(), rules: z.array(ruleResultSchema) }),
});

const spec = specFixture({ heldout: 8 });
const key = { runId: 'run-1', iteration: 1, spec } as const;
const model = modelFixture();
const candidate = modelFixture('c'.repeat(64));

const video = create(VideoSchema, {
  source: { case: 'uri', value: `artifact:sha256/${'d'.repeat(64)}` },
  sha256: 'd'.repeat(64),
  mediaType: 'image/png',
  width: 24,
  height: 24,
  frameCount: 8,
  fps: 8,
});

type Verdict = { readonly accepted: boolean; readonly picture?: boolean } | 'failed';

/** A group of samples whose verdicts a function gives. */
function recordsOf(
  group: 'train' | 'before' | 'after',
  verdict: (sample: { promptId: string; category: CategoryId; sampleIndex: number }) => Verdict,
): SampleRecord[] {
  const planned = plannedSamples({ ...key, group, model: group === 'after' ? candidate : model });
  return [...planned].map((sample) => {
    const given = verdict(sample);
    const base = { version: '1', weightsHash: 'w', reward: 'aif' };
    const record = {
      id: sample.id,
      promptId: sample.promptId,
      promptText: sample.promptText,
      category: sample.category,
      seed: sample.seed.toString(),
      video,
      latents: undefined,
    };
    if (given === 'failed') {
      const error = { code: 'UNAVAILABLE', reason: 'JUDGE_UNAVAILABLE', message: 'no answer' };
      return { ...record, scores: [{ ...base, outcome: { error } }], error: { stage: 'score', ...error } };
    }
    const checks = { picture: given.picture ?? true };
    const outcome = { value: Number(given.accepted), checks };
    return { ...record, scores: [{ ...base, outcome }], error: undefined };
  });
}

const train = recordsOf('train', ({ sampleIndex }) => ({ accepted: sampleIndex === 0 }));
const before = recordsOf('before', ({ sampleIndex }) => ({ accepted: sampleIndex === 0 }));

describe('data set manifest', () => {
  test('it follows its schema, is the same from any order, and leaves errors out with their reason', () => {
    const samples = recordsOf('train', ({ promptId, sampleIndex }) =>
      promptId === 'DM/train/0' && sampleIndex === 0 ? 'failed' : { accepted: true },
    );
    const manifest = dataSetManifest({ ...key, model, samples, verdicts: new Map() });
    assert.deepEqual(dataSetManifestSchema.parse(manifest), manifest);
    const reversed = dataSetManifest({ ...key, model, samples: samples.toReversed(), verdicts: new Map() });
    assert.deepEqual(canonicalJson(manifest), canonicalJson(reversed));
    assert.equal(manifest.samples.length, samples.length - 1);
    assert.deepEqual(
      manifest.excluded.map(({ reason }) => reason),
      ['score:UNAVAILABLE:JUDGE_UNAVAILABLE'],
    );
    assert.ok(manifest.samples.every(({ scores }) => 'value' in (scores['aif'] ?? {})));
  });

  test('what most raters say stands beside the scores; divided raters exclude the clip; all of it is counted', () => {
    const taking = { ...spec, labels: create(HumanLabelsSchema, { use: 'override' }) };
    const [accepted, rejected, divided, failed, ...others] = recordsOf('train', ({ sampleIndex }) =>
      sampleIndex === 1 ? 'failed' : { accepted: true },
    ).toSorted((a, b) => Number(a.error !== undefined) - Number(b.error !== undefined));
    assert.ok(accepted !== undefined && rejected !== undefined && divided !== undefined);
    const broken = others.at(-1);
    assert.ok(failed !== undefined && broken?.error !== undefined);
    const samples = [accepted, rejected, divided, failed, ...others];
    const verdicts = new Map([
      [accepted.id, { accepting: 2, rejecting: 1 }],
      [rejected.id, { accepting: 0, rejecting: 1 }],
      [divided.id, { accepting: 1, rejecting: 1 }],
      // A clip that the judge has not judged stays out, whatever people say.
      [broken.id, { accepting: 3, rejecting: 0 }],
    ]);
    const given = { ...key, model, samples, verdicts };
    const manifest = dataSetManifestSchema.parse(dataSetManifest({ ...given, spec: taking }));
    assert.deepEqual(manifest.humanLabels, { reward: 'aif', samples: 2, changed: 1 });
    const inManifest = (id: string) => manifest.samples.find(({ sampleId }) => sampleId === id);
    assert.deepEqual(inManifest(accepted.id)?.human, { accept: true, accepting: 2, rejecting: 1 });
    assert.deepEqual(inManifest(rejected.id)?.human, { accept: false, accepting: 0, rejecting: 1 });
    assert.deepEqual(inManifest(rejected.id)?.scores['aif'], { value: 1 }, 'what the judge said is kept');
    assert.equal(inManifest(broken.id), undefined);
    assert.deepEqual(
      manifest.excluded.filter(({ sampleId }) => sampleId === divided.id),
      [{ sampleId: divided.id, reason: 'label:divided' }],
    );
    assert.equal(manifest.samples.length + manifest.excluded.length, samples.length);

    const judged = dataSetManifest(given);
    assert.equal(judged.humanLabels, undefined, 'a spec that does not say so takes none');
    assert.ok(judged.samples.every(({ human }) => human === undefined));
  });
});

describe('evaluation and gate', () => {
  test('a clear gain is found and promoted, with all reasons', () => {
    const after = recordsOf('after', () => ({ accepted: true }));
    const result = evaluate({ ...key, before, after, train });
    assert.equal(result.verdict.before.value, 0.5);
    assert.equal(result.verdict.after.value, 1);
    assert.equal(result.verdict.difference.value, 0.5);
    assert.deepEqual(Object.keys(result.verdict.perCategory).toSorted(), ['DM', 'FD']);
    assert.equal(result.training?.overall.value, 0.5);
    assert.equal(result.guards['picture']?.after.value, 1);
    assert.deepEqual(parseEvaluation(JSON.stringify(result)), result);
    const decision = decide(spec, result);
    assert.equal(decision.promoted, true);
    assert.equal(reasonsOf(decision.rules, true).length, decision.rules.length);
  });

  test('the same samples give the same numbers and the same manifest', () => {
    const after = recordsOf('after', ({ category }) => ({ accepted: category === 'FD' }));
    const inputs = { ...key, before, after, train };
    const result = evaluate(inputs);
    assert.deepEqual(evaluate(inputs), result);
    const manifest = canonicalJson(evaluationManifest({ ...inputs, result, model, candidate }));
    assert.deepEqual(canonicalJson(evaluationManifest({ ...inputs, result, model, candidate })), manifest);
  });

  test('what a manifest says of the clips is enough to compute its result and its decision again', () => {
    const after = recordsOf('after', ({ category, sampleIndex }) =>
      category === 'DM' && sampleIndex === 1 ? 'failed' : { accepted: true, picture: sampleIndex === 0 },
    );
    const inputs = { ...key, before, after, train };
    const result = evaluate(inputs);
    const written = canonicalJson(evaluationManifest({ ...inputs, result, model, candidate }));
    const manifest = manifestSchema.parse(JSON.parse(new TextDecoder().decode(written)));
    const measured = (samples: typeof manifest.samples.before): MeasuredClip[] =>
      samples.map(({ promptId, category, seed, scores }) => ({
        promptId,
        category,
        seed,
        values: Object.fromEntries(
          Object.entries(scores).flatMap(([reward, { value }]) =>
            value === undefined ? [] : [[reward, value] as const],
          ),
        ),
        checks: scores[manifest.signals.judge]?.checks ?? {},
      }));
    const { signals, gate, bootstrapSeed, samples } = manifest;
    const again = compareModels(measured(samples.before), measured(samples.after), signals, {
      seed: bootstrapSeed,
    });
    const { training: _, overOptimisation, ...compared } = result;
    assert.deepEqual(JSON.parse(JSON.stringify(again)), JSON.parse(JSON.stringify(compared)));
    assert.deepEqual(applyGate(gate, again, overOptimisation), manifest.decision);
    assert.deepEqual(manifest.decision, decide(spec, result));
  });

  test('without rules the default ones hold: those on a held-out reward where the evaluation names one', () => {
    const after = recordsOf('after', () => ({ accepted: true }));
    const result = evaluate({ ...key, before, after, train });
    const rules = (of: typeof spec) => decide(of, result).rules.map(({ rule }) => rule);
    assert.ok(!rules(spec).some((rule) => rule.startsWith('not-lower')));
    const named = clone(RunSpecSchema, spec);
    assert.ok(named.evaluation !== undefined);
    named.evaluation.heldOutReward = 'clip_score';
    // Nobody scored a clip with it.
    const decision = decide(named, result);
    assert.equal(decision.promoted, false);
    assert.deepEqual(
      decision.rules.filter(({ passed }) => !passed).map(({ rule }) => rule),
      ['not-lower', 'no-over-optimisation'],
    );
  });

  test('a category that falls refuses the candidate, and the reason names it', () => {
    const after = recordsOf('after', ({ category, sampleIndex }) => ({
      accepted: category === 'FD' || (category === 'DM' && sampleIndex === 5),
    }));
    const decision = decide(spec, evaluate({ ...key, before, after, train }));
    assert.equal(decision.promoted, false);
    assert.ok(reasonsOf(decision.rules, false).some((reason) => reason.includes('in DM')));
  });

  test('pictures that got worse refuse the candidate', () => {
    const after = recordsOf('after', ({ sampleIndex }) => ({ accepted: true, picture: sampleIndex === 0 }));
    const decision = decide(spec, evaluate({ ...key, before, after, train }));
    assert.equal(decision.promoted, false);
    assert.ok(decision.rules.some(({ rule, passed }) => rule === 'guards-not-lower:picture' && !passed));
  });

  test('a sample whose partner failed is left out of both sides', () => {
    const after = recordsOf('after', ({ promptId, sampleIndex }) =>
      promptId === 'DM/heldout/0' && sampleIndex === 0 ? 'failed' : { accepted: true },
    );
    const result = evaluate({ ...key, before, after, train });
    assert.deepEqual(result.unpaired, { before: 1, after: 0 });
    assert.equal(result.verdict.before.samples, before.length - 1);
  });
});
