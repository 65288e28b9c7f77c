/**
 * The optimum, where it is known: on a distribution over a few outcomes, KL-regularised reward maximisation has the
 * closed form p* = p_ref exp(r / beta) / Z, and projecting on a categorical policy that can express it must give it.
 * The same rows, projections and margins as in training; -log p in place of the denoising error, and expectations over
 * p_ref (and over pairs) taken exactly.
 */
import assert from 'node:assert/strict';
import { describe, test } from 'node:test';
import { add, gather, Graph, gradients, logSoftmax, mul, neg, sub } from '@plumb/tensor-graph';
import type { Tensor } from '@plumb/tensor-graph';
import { compile } from '../testing/run-graph.ts';
import { algorithms } from './algorithms.ts';
import { forwardProjection, reverseProjection } from './losses.ts';
import { parseObjectiveSettings } from './settings.ts';
import type { AlgorithmName, SettingsOf } from './settings.ts';
import { freezeTrainingSet } from './training-set.ts';
import { keyedGenerator } from './randomness.ts';
import { uniformFloat64 } from 'pure-rand/distribution/uniformFloat64';
import type { LogWeight } from './weights.ts';

const pRef = [0.3, 0.05, 0.25, 0.1, 0.1, 0.2];
const rewards = [0, 1, 0.3, 0.8, -0.2, 0.5];
const n = pRef.length;

const total = (list: readonly number[] = []): number => list.reduce((sum, value) => sum + value, 0);

function normalised(values: readonly number[]): number[] {
  const sum = total(values);
  return values.map((value) => value / sum);
}

/** KL(p || q) in nats. */
function divergence(p: readonly number[], q: readonly number[]): number {
  return p.reduce(
    (sum, value, index) => sum + (value > 0 ? value * Math.log(value / (q[index] ?? 0)) : 0),
    0,
  );
}

const tilted = (beta: number): number[] =>
  normalised(pRef.map((p, index) => p * Math.exp((rewards[index] ?? 0) / beta)));

/** Minimises a loss over the logits of a categorical policy that starts uniform; Adam with a falling rate. */
async function minimise(build: (graph: Graph, logPolicy: Tensor) => Tensor): Promise<number[]> {
  const graph = new Graph();
  const logits = graph.parameter('logits', [n]);
  const loss = build(graph, logSoftmax(logits));
  const [gradient] = gradients(loss, [logits]);
  assert.ok(gradient !== undefined);
  graph.output('gradient', gradient);
  const run = await compile(graph);
  const point = pRef.map(() => 0);
  const first = point.map(() => 0);
  const second = point.map(() => 0);
  const steps = 3000;
  for (let step = 1; step <= steps; step++) {
    const { gradient: slope = [] } = await run({ logits: point });
    for (const [index, value] of slope.entries()) {
      first[index] = 0.9 * (first[index] ?? 0) + 0.1 * value;
      second[index] = 0.99 * (second[index] ?? 0) + 0.01 * value * value;
      const direction =
        (first[index] ?? 0) /
        (1 - 0.9 ** step) /
        (Math.sqrt((second[index] ?? 0) / (1 - 0.99 ** step)) + 1e-12);
      point[index] = (point[index] ?? 0) - 0.05 * (1 - step / steps) * direction;
    }
  }
  return normalised(point.map(Math.exp));
}

/** Forward-EM-projection with exact expectation over p_ref. */
function projectForward(logWeight: LogWeight): Promise<number[]> {
  const weights = pRef.map((p, index) => n * p * Math.exp(logWeight(rewards[index] ?? 0)));
  const scale = Math.max(...weights);
  return minimise((graph, logPolicy) =>
    forwardProjection(
      graph.constant(
        weights.map((weight) => weight / scale),
        [n],
      ),
      neg(logPolicy),
    ),
  );
}

/** Reverse-BT-projection on all pairs, each in both orders with its Bradley-Terry probability. */
function projectReverse(beta: number): Promise<number[]> {
  const pairs = pRef.flatMap((_, i) => pRef.map((__, j) => [i, j] as const)).filter(([i, j]) => i !== j);
  const weights = pairs.map(([i, j]) => {
    const preferred = 1 / (1 + Math.exp((rewards[j] ?? 0) - (rewards[i] ?? 0)));
    return pairs.length * (pRef[i] ?? 0) * (pRef[j] ?? 0) * preferred;
  });
  return minimise((graph, logPolicy) => {
    const implicit = mul(sub(logPolicy, graph.constant(pRef.map(Math.log), [n])), beta);
    const side = (which: 0 | 1): Tensor =>
      gather(
        implicit,
        graph.constant(
          Int32Array.from(pairs, (pair) => pair[which]),
          [pairs.length],
        ),
      );
    const { margin, link } = algorithms.dpo;
    return reverseProjection(link, margin(side(0), side(1)), graph.constant(weights, [pairs.length]));
  });
}

function settingsOf<A extends AlgorithmName>(algorithm: A, changes: object): SettingsOf<A>;
function settingsOf(algorithm: AlgorithmName, changes: object): SettingsOf<AlgorithmName> {
  return parseObjectiveSettings({ algorithm, ...changes });
}

describe('the optimum', () => {
  for (const beta of [0.2, 0.5, 1, 3]) {
    test(`rwr with exp converges to p* at temperature ${beta}`, async (t) => {
      const settings = settingsOf('rwr', { temperature: beta });
      const found = await projectForward(algorithms.rwr.logWeight(settings));
      const distance = divergence(tilted(beta), found);
      t.diagnostic(`KL(p* || policy) = ${distance.toExponential(1)}`);
      assert.ok(distance < 1e-6, `KL ${distance}`);
    });

    test(`dpo converges to p* at beta ${beta}`, async (t) => {
      const found = await projectReverse(beta);
      const distance = divergence(tilted(beta), found);
      t.diagnostic(`KL(p* || policy) = ${distance.toExponential(1)}`);
      assert.ok(distance < 1e-6, `KL ${distance}`);
    });
  }

  test('the two projections agree with each other, and differ between temperatures', async () => {
    const [forward, reverse] = [
      await projectForward(algorithms.rwr.logWeight(settingsOf('rwr', { temperature: 0.5 }))),
      await projectReverse(0.5),
    ];
    assert.ok(divergence(forward, reverse) < 1e-6);
    assert.ok(divergence(tilted(0.2), forward) > 0.1);
  });

  test('identity weights (sft) converge to their own limit, the reference', async () => {
    const found = await projectForward(algorithms.sft.logWeight());
    assert.ok(divergence(pRef, found) < 1e-8);
  });

  test('shaped rwr converges to p_ref max(0, eta (r - gamma)) / Z, and filtered sft to p_ref given acceptance', async () => {
    // The row sees shaped rewards; with gamma = -0.5 they are r + 0.5 and all positive.
    const row = algorithms.rwr.logWeight(settingsOf('rwr', { transform: 'shaped' }));
    const shapedLimit = normalised(pRef.map((p, index) => p * ((rewards[index] ?? 0) + 0.5)));
    assert.ok(divergence(shapedLimit, await projectForward((reward) => row(reward + 0.5))) < 1e-6);

    const kept = algorithms['filtered-sft'].logWeight(settingsOf('filtered-sft', {}));
    const filteredLimit = normalised(pRef.map((p, index) => ((rewards[index] ?? 0) >= 0.5 ? p : 0)));
    assert.ok(divergence(filteredLimit, await projectForward(kept)) < 1e-4);
  });

  test('an infinite temperature is sft', async () => {
    const found = await projectForward(algorithms.rwr.logWeight(settingsOf('rwr', { temperature: 1e6 })));
    assert.ok(divergence(pRef, found) < 1e-8);
  });
});

describe('the data step against the optimum', () => {
  test('the weights of sampled data estimate p* of every prompt, and per-prompt normalisation keeps prompts equal', () => {
    const random = keyedGenerator(11);
    const draw = (): number => {
      let rest = uniformFloat64(random);
      return pRef.findIndex((p) => (rest -= p) < 0);
    };
    // Prompt b's rewards lie one higher: that changes Z(c) and nothing else.
    const samples = Array.from({ length: 40_000 }, (_, index) => {
      const promptId = index % 2 === 0 ? 'a' : 'b';
      const outcome = Math.max(0, draw());
      const reward = (rewards[outcome] ?? 0) + (promptId === 'b' ? 1 : 0);
      return { sampleId: `${index}:${outcome}`, promptId, category: 'OR', reward };
    });
    const massOf = (normalisation: 'global' | 'per-prompt'): Map<string, number[]> => {
      const settings = settingsOf('rwr', { temperature: 0.5, normalisation, maxWeight: 1e6 });
      const mass = new Map([
        ['a', pRef.map(() => 0)],
        ['b', pRef.map(() => 0)],
      ]);
      for (const item of freezeTrainingSet(samples, settings, 1).items) {
        assert.ok(item.kind === 'weighted-sample');
        const outcome = Number(item.sampleId.split(':')[1]);
        const list = mass.get(item.promptId);
        if (list !== undefined) list[outcome] = (list[outcome] ?? 0) + item.weight;
      }
      return mass;
    };
    for (const how of ['global', 'per-prompt'] as const) {
      for (const list of massOf(how).values()) {
        assert.ok(divergence(normalised(list), tilted(0.5)) < 1e-3);
      }
    }
    const perPrompt = massOf('per-prompt');
    assert.ok(Math.abs(total(perPrompt.get('a')) / total(perPrompt.get('b')) - 1) < 1e-9);
    const global = massOf('global');
    assert.ok(Math.abs(total(global.get('b')) / total(global.get('a')) / Math.exp(2) - 1) < 0.05);
  });
});

// Adding a constant to every implicit reward, beta log Z(c), must not change the pair loss.
test('the partition function cancels in the pair margin', async () => {
  const graph = new Graph();
  const [a, b] = [graph.input('a', 'float32', [3]), graph.input('b', 'float32', [3])];
  graph.output('plain', algorithms.dpo.margin(a, b));
  graph.output('shifted', algorithms.dpo.margin(add(a, 7), add(b, 7)));
  const { plain = [], shifted = [] } = await (await compile(graph))({ a: [1, 2, 3], b: [0.5, 2, -1] });
  for (const [index, value] of plain.entries()) assert.ok(Math.abs(value - (shifted[index] ?? NaN)) < 1e-5);
});
