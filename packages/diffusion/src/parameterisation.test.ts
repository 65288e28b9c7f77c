import assert from 'node:assert/strict';
import { test } from 'node:test';
import fc from 'fast-check';
import { preconditioning, samplerStep, signalAndNoise, type Parameterisation } from './parameterisation.ts';

const parameterisations = fc.constantFrom<Parameterisation>('flow', 'v', 'epsilon');
const times = fc.double({ min: 0.001, max: 0.999, noNaN: true });
const deviations = fc.double({ min: 0.05, max: 3, noNaN: true });

/** Moments of x_t and of the target for independent x0 ~ (0, s^2) and eps ~ (0, 1), from their linear forms. */
function moments(parameterisation: Parameterisation, t: number, s: number) {
  const { signal, noise } = signalAndNoise(parameterisation, t);
  const [ofNoise, ofClip] = { flow: [1, -1], epsilon: [1, 0], v: [signal, -noise] }[parameterisation] as [
    number,
    number,
  ];
  return {
    noisedVariance: signal ** 2 * s ** 2 + noise ** 2,
    targetVariance: ofNoise ** 2 + ofClip ** 2 * s ** 2,
    covariance: ofNoise * noise + ofClip * signal * s ** 2,
  };
}

test('the network sees unit variance and has to predict unit variance, at every time', () => {
  fc.assert(
    fc.property(parameterisations, times, deviations, (parameterisation, t, s) => {
      const { noisedVariance, targetVariance, covariance } = moments(parameterisation, t, s);
      const factors = preconditioning(parameterisation, t, s);
      assert.ok(Math.abs(factors.in ** 2 * noisedVariance - 1) < 1e-9);
      const rest = targetVariance - 2 * factors.skip * covariance + factors.skip ** 2 * noisedVariance;
      assert.ok(Math.abs(rest - factors.out ** 2) < 1e-9 + 1e-6 * targetVariance);
    }),
  );
});

test('what stands beside the skip path is uncorrelated with x_t, so that the skip path is the best linear guess', () => {
  fc.assert(
    fc.property(parameterisations, times, deviations, (parameterisation, t, s) => {
      const { noisedVariance, covariance } = moments(parameterisation, t, s);
      assert.ok(Math.abs(covariance - preconditioning(parameterisation, t, s).skip * noisedVariance) < 1e-9);
    }),
  );
});

test('paths begin at the clip and end at the noise', () => {
  for (const parameterisation of ['flow', 'v', 'epsilon'] as const) {
    const start = signalAndNoise(parameterisation, 0);
    const end = signalAndNoise(parameterisation, 1);
    assert.deepEqual([start.signal, start.noise], [1, 0]);
    assert.ok(Math.abs(end.signal) < 1e-12 && Math.abs(end.noise - 1) < 1e-12);
  }
});

test('a step with the true prediction stays on the path from the clip to the noise', () => {
  const values = fc.double({ min: -3, max: 3, noNaN: true });
  fc.assert(
    fc.property(parameterisations, times, times, values, values, (parameterisation, t, next, x0, eps) => {
      const [now, then] = [signalAndNoise(parameterisation, t), signalAndNoise(parameterisation, next)];
      const target = {
        flow: eps - x0,
        epsilon: eps,
        v: now.signal * eps - now.noise * x0,
      }[parameterisation];
      const { keep, move } = samplerStep(parameterisation, t, next);
      const reached = keep * (now.signal * x0 + now.noise * eps) + move * target;
      assert.ok(Math.abs(reached - (then.signal * x0 + then.noise * eps)) < 1e-9);
    }),
  );
});
