import assert from 'node:assert/strict';
import { describe, test } from 'node:test';
import { PlumbError } from '@plumb/kit/errors';
import { Graph, gradients } from '@plumb/tensor-graph';
import type { Tensor } from '@plumb/tensor-graph';
import { uniformFloat64 } from 'pure-rand/distribution/uniformFloat64';
import { compile } from '../testing/run-graph.ts';
import { dpoLoss, forwardProjectionLoss, implicitReward, ktoLoss, squaredErrorPerSample } from './losses.ts';
import type { Objective, Predictions } from './losses.ts';
import { keyedGenerator } from './randomness.ts';

const batch = 3;
const shape = [batch, 2, 4];
const elements = 8;

function numbers(name: string, count = batch * elements): number[] {
  const random = keyedGenerator(5, name);
  return Array.from({ length: count }, () => uniformFloat64(random) * 2 - 1);
}

/** Mean squared error of each sample, in double precision. */
const errors = (a: readonly number[], b: readonly number[]): number[] =>
  Array.from(
    { length: batch },
    (_, sample) =>
      a
        .slice(sample * elements, (sample + 1) * elements)
        .reduce((sum, value, i) => sum + (value - (b[sample * elements + i] ?? 0)) ** 2, 0) / elements,
  );
const sigma = (x: number): number => 1 / (1 + Math.exp(-x));
const mean = (values: readonly number[]): number =>
  values.reduce((sum, value) => sum + value, 0) / values.length;
const close = (actual: number | undefined, expected: number, what = ''): void => {
  assert.ok(
    actual !== undefined && Math.abs(actual - expected) < 1e-5 * Math.max(1, Math.abs(expected)),
    `${what} ${actual}, expected ${expected}`,
  );
};

/** Builds an objective on named inputs and evaluates loss, metrics and the gradients in every policy. */
async function evaluate(
  build: (input: (name: string, size?: readonly number[]) => Tensor) => Objective,
  feeds: Record<string, readonly number[]>,
): Promise<Record<string, number[]>> {
  const graph = new Graph();
  const inputs = new Map<string, Tensor>();
  const input = (name: string, size: readonly number[] = shape): Tensor => {
    const known = inputs.get(name);
    if (known !== undefined) return known;
    const made = name.startsWith('policy') ? graph.parameter(name, size) : graph.input(name, 'float32', size);
    inputs.set(name, made);
    return made;
  };
  const { loss, metrics } = build(input);
  graph.output('loss', loss);
  for (const [name, metric] of Object.entries(metrics)) graph.output(name, metric);
  const slopes = gradients(loss, graph.parameters);
  for (const [index, parameter] of graph.parameters.entries()) {
    const slope = slopes[index];
    if (slope !== undefined && parameter.source.kind === 'input')
      graph.output(`d ${parameter.source.name}`, slope);
  }
  return (await compile(graph))(feeds);
}

const predictions = (input: (name: string) => Tensor, suffix = ''): Predictions => ({
  target: input(`target${suffix}`),
  policy: input(`policy${suffix}`),
  reference: input(`reference${suffix}`),
});

describe('squaredErrorPerSample', () => {
  test('refuses shapes that broadcasting would silently accept', () => {
    const graph = new Graph();
    const [a, b] = [graph.input('a', 'float32', [3, 4]), graph.input('b', 'float32', [1, 4])];
    assert.throws(
      () => squaredErrorPerSample(a, b),
      (error) => error instanceof PlumbError && error.code === 'INVALID_ARGUMENT',
    );
  });
});

describe('forwardProjectionLoss', () => {
  const feeds = {
    target: numbers('t'),
    policy: numbers('p'),
    reference: numbers('r'),
    weights: [0.5, 2, 0.5],
  };
  const own = errors(feeds.target, feeds.policy);

  test('is the mean of weight times squared error, with the gradient of that', async () => {
    const result = await evaluate(
      (input) =>
        forwardProjectionLoss(
          { klAnchor: 0 },
          { target: input('target'), policy: input('policy'), weights: input('weights', [batch]) },
        ),
      feeds,
    );
    close(result['loss']?.[0], mean(own.map((error, index) => error * (feeds.weights[index] ?? 0))));
    close(result['squared_error']?.[0], mean(own));
    assert.ok(!('anchor_distance' in result));
    for (const [index, slope] of (result['d policy'] ?? []).entries()) {
      const weight = feeds.weights[Math.floor(index / elements)] ?? 0;
      close(
        slope,
        (2 * weight * ((feeds.policy[index] ?? 0) - (feeds.target[index] ?? 0))) / (batch * elements),
      );
    }
  });

  test('klAnchor adds lambda times the distance to the reference, unweighted', async () => {
    const result = await evaluate(
      (input) =>
        forwardProjectionLoss(
          { klAnchor: 0.3 },
          { ...predictions(input), weights: input('weights', [batch]) },
        ),
      feeds,
    );
    const distance = mean(errors(feeds.policy, feeds.reference));
    close(
      result['loss']?.[0],
      mean(own.map((error, index) => error * (feeds.weights[index] ?? 0))) + 0.3 * distance,
    );
    close(result['anchor_distance']?.[0], distance);
  });

  test('klAnchor without a reference is an error', () => {
    const graph = new Graph();
    const x = graph.input('x', 'float32', shape);
    const weights = graph.input('weights', 'float32', [batch]);
    assert.throws(
      () => forwardProjectionLoss({ klAnchor: 1 }, { target: x, policy: x, weights }),
      /klAnchor/,
    );
  });
});

type MakeInput = (name: string, size?: readonly number[]) => Tensor;

const dpoWith =
  (sftAnchor: number) =>
  (input: MakeInput): Objective =>
    dpoLoss(
      { beta: 20, sftAnchor },
      {
        chosen: predictions(input, ' chosen'),
        rejected: predictions(input, ' rejected'),
        weights: input('weights', [batch]),
      },
    );
const dpoObjective = dpoWith(0);

describe('dpoLoss', () => {
  const feeds = {
    'target chosen': numbers('tc'),
    'policy chosen': numbers('pc'),
    'reference chosen': numbers('rc'),
    'target rejected': numbers('tr'),
    'policy rejected': numbers('pr'),
    'reference rejected': numbers('rr'),
    weights: [1, 1, 1],
  };

  test('is log 2 with margin 0 where the policy is the reference', async () => {
    const result = await evaluate(dpoObjective, {
      ...feeds,
      'policy chosen': feeds['reference chosen'],
      'policy rejected': feeds['reference rejected'],
    });
    close(result['loss']?.[0], Math.log(2));
    close(result['implicit_reward_margin']?.[0], 0);
    close(result['anchor_distance']?.[0], 0);
  });

  test('is -log sigma(-(beta / 2) (d(chosen) - d(rejected))), and so are its metrics', async () => {
    const result = await evaluate(dpoObjective, feeds);
    const d = (side: 'chosen' | 'rejected'): number[] => {
      const reference = errors(feeds[`target ${side}`], feeds[`reference ${side}`]);
      return errors(feeds[`target ${side}`], feeds[`policy ${side}`]).map(
        (error, i) => error - (reference[i] ?? 0),
      );
    };
    const [chosen, rejected] = [d('chosen'), d('rejected')];
    const margins = chosen.map((value, index) => -10 * (value - (rejected[index] ?? 0)));
    close(result['loss']?.[0], mean(margins.map((margin) => -Math.log(sigma(margin)))));
    close(result['implicit_reward_margin']?.[0], mean(margins));
    close(result['implicit_reward_accuracy']?.[0], mean(margins.map((margin) => (margin > 0 ? 1 : 0))));
    close(result['implicit_reward_chosen']?.[0], mean(chosen.map((value) => -10 * value)));
  });

  test('sftAnchor adds lambda times the weighted error of the policy on the chosen', async () => {
    const weighted = { ...feeds, weights: [0.5, 2, 0.5] };
    const without = await evaluate(dpoObjective, weighted);
    assert.ok(!('sft_error' in without));
    const result = await evaluate(dpoWith(3), weighted);
    const own = errors(feeds['target chosen'], feeds['policy chosen']);
    const anchor = mean(own.map((error, index) => error * (weighted.weights[index] ?? 0)));
    close(result['loss']?.[0], (without['loss']?.[0] ?? 0) + 3 * anchor);
    close(result['sft_error']?.[0], mean(own));
    assert.deepEqual(result['d policy rejected'], without['d policy rejected']);
    for (const [index, slope] of (result['d policy chosen'] ?? []).entries()) {
      const weight = weighted.weights[Math.floor(index / elements)] ?? 0;
      const error = (feeds['policy chosen'][index] ?? 0) - (feeds['target chosen'][index] ?? 0);
      const expected =
        (without['d policy chosen']?.[index] ?? 0) + (3 * 2 * weight * error) / (batch * elements);
      close(slope, expected);
    }
  });

  test('descending pulls the chosen towards its target and pushes the rejected away', async () => {
    const result = await evaluate(dpoObjective, feeds);
    for (let sample = 0; sample < batch; sample++) {
      let pull = 0;
      let push = 0;
      for (let index = sample * elements; index < (sample + 1) * elements; index++) {
        pull +=
          -(result['d policy chosen']?.[index] ?? 0) *
          ((feeds['target chosen'][index] ?? 0) - (feeds['policy chosen'][index] ?? 0));
        push +=
          -(result['d policy rejected']?.[index] ?? 0) *
          ((feeds['target rejected'][index] ?? 0) - (feeds['policy rejected'][index] ?? 0));
      }
      assert.ok(pull > 0 && push < 0, `sample ${sample}: ${pull}, ${push}`);
    }
  });

  test('a huge margin of either sign stays finite', async () => {
    for (const [chosen, rejected] of [
      [1, 100],
      [100, 1],
    ] as const) {
      const scale = (name: keyof typeof feeds, by: number): number[] =>
        feeds[name].map((value) => value * by);
      const result = await evaluate(dpoObjective, {
        ...feeds,
        'policy chosen': scale('policy chosen', chosen),
        'policy rejected': scale('policy rejected', rejected),
      });
      assert.ok(Number.isFinite(result['loss']?.[0]));
      assert.ok((result['d policy chosen'] ?? []).every(Number.isFinite));
    }
  });
});

describe('ktoLoss', () => {
  const feeds = {
    target: numbers('t'),
    policy: numbers('p'),
    reference: numbers('r'),
    'target other': numbers('t'),
    'policy other': numbers('po'),
    'reference other': numbers('ro'),
    accepted: [1, 0, 1],
    weights: [1.5, 1, 0.5],
  };
  const beta = 3;
  const build =
    (klEstimate: 'mismatched' | 'batch', sftAnchor = 0) =>
    (input: MakeInput): Objective =>
      ktoLoss(
        { beta, klEstimate, sftAnchor },
        {
          ...predictions(input),
          accepted: input('accepted', [batch]),
          weights: input('weights', [batch]),
          ...(klEstimate === 'mismatched' ? { mismatched: predictions(input, ' other') } : {}),
        },
      );
  const rewardsOf = (suffix: '' | ' other'): number[] => {
    const reference = errors(feeds[`target${suffix}`], feeds[`reference${suffix}`]);
    return errors(feeds[`target${suffix}`], feeds[`policy${suffix}`]).map(
      (error, index) => -beta * (error - (reference[index] ?? 0)),
    );
  };

  for (const klEstimate of ['mismatched', 'batch'] as const) {
    test(`is the weighted mean of 1 - sigma(+-(reward - z0)), z0 by ${klEstimate}`, async () => {
      const result = await evaluate(build(klEstimate), feeds);
      const rewards = rewardsOf('');
      const z0 = Math.max(0, mean(klEstimate === 'batch' ? rewards : rewardsOf(' other')));
      const signs = feeds.accepted.map((label) => 2 * label - 1);
      const margins = rewards.map((reward, index) => (signs[index] ?? 0) * (reward - z0));
      close(
        result['loss']?.[0],
        mean(margins.map((margin, index) => (feeds.weights[index] ?? 0) * (1 - sigma(margin)))),
      );
      close(result['reference_point']?.[0], z0);
      // The gradient treats z0 as a constant, even where it is made of the same predictions.
      for (const [index, slope] of (result['d policy'] ?? []).entries()) {
        const sample = Math.floor(index / elements);
        const s = sigma(margins[sample] ?? 0);
        const error = (2 * ((feeds.policy[index] ?? 0) - (feeds.target[index] ?? 0))) / elements;
        const expected =
          ((feeds.weights[sample] ?? 0) / batch) * s * (1 - s) * (signs[sample] ?? 0) * beta * error;
        close(slope, expected);
      }
      assert.ok((result['d policy other'] ?? []).every((slope) => slope === 0));
    });
  }

  test('sftAnchor adds lambda times the weighted error of the policy on the accepted', async () => {
    const without = await evaluate(build('batch'), feeds);
    assert.ok(!('sft_error' in without));
    const result = await evaluate(build('batch', 2), feeds);
    const own = errors(feeds.target, feeds.policy).map(
      (error, index) => error * (feeds.accepted[index] ?? 0),
    );
    const anchor = mean(own.map((error, index) => error * (feeds.weights[index] ?? 0)));
    close(result['loss']?.[0], (without['loss']?.[0] ?? 0) + 2 * anchor);
    close(result['sft_error']?.[0], own.reduce((sum, error) => sum + error, 0) / 2);
    const rejected = (slopes: readonly number[] | undefined): number[] =>
      (slopes ?? []).slice(elements, 2 * elements);
    assert.deepEqual(rejected(result['d policy']), rejected(without['d policy']));
  });

  test('a batch without accepted samples has an SFT anchor of 0', async () => {
    const none = { ...feeds, accepted: [0, 0, 0] };
    const result = await evaluate(build('batch', 2), none);
    close(result['sft_error']?.[0], 0);
    close(result['loss']?.[0], (await evaluate(build('batch'), none))['loss']?.[0] ?? Number.NaN);
  });

  test('is 0.5 for weight 1 where the policy is the reference, and pulls the accepted, pushes the rejected', async () => {
    const result = await evaluate(build('batch'), {
      ...feeds,
      policy: feeds.reference,
      weights: [1, 1, 1],
    });
    close(result['loss']?.[0], 0.5);
    close(result['reference_point']?.[0], 0);
    for (const [sample, label] of feeds.accepted.entries()) {
      let pull = 0;
      for (let index = sample * elements; index < (sample + 1) * elements; index++) {
        pull +=
          -(result['d policy']?.[index] ?? 0) * ((feeds.target[index] ?? 0) - (feeds.reference[index] ?? 0));
      }
      assert.equal(pull > 0, label === 1);
    }
  });

  test('the mismatched estimate without mismatched predictions is an error', () => {
    const graph = new Graph();
    const x = graph.input('x', 'float32', shape);
    const vector = graph.input('vector', 'float32', [batch]);
    assert.throws(
      () =>
        ktoLoss(
          { beta, klEstimate: 'mismatched', sftAnchor: 0 },
          { target: x, policy: x, reference: x, accepted: vector, weights: vector },
        ),
      /mismatched/,
    );
  });
});

test('the implicit reward is beta times how much better than the reference the policy predicts', async () => {
  const graph = new Graph();
  const given = predictions((name) => graph.input(name, 'float32', shape));
  graph.output('reward', implicitReward(4, given));
  const target = numbers('t');
  const { reward = [] } = await (await compile(graph))({ target, policy: target, reference: numbers('r') });
  for (const [index, error] of errors(target, numbers('r')).entries()) close(reward[index], 4 * error);
});
