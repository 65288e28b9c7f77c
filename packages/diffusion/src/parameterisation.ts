import { add, mul, sub, type Tensor } from '@plumb/tensor-graph';

/** What a denoiser predicts. */
export type Parameterisation = 'flow' | 'v' | 'epsilon';

/**
 * Signal and noise at time t: x_t = signal * x0 + noise * eps. `flow` is the straight path of rectified flow,
 * (1 - t, t); `epsilon` and `v` use the variance-preserving cosine path (cos(pi t / 2), sin(pi t / 2)).
 * @param t in [0, 1]
 */
export function signalAndNoise(
  parameterisation: Parameterisation,
  t: number,
): { signal: number; noise: number } {
  if (parameterisation === 'flow') return { signal: 1 - t, noise: t };
  return { signal: Math.cos((Math.PI / 2) * t), noise: Math.sin((Math.PI / 2) * t) };
}

/**
 * The noised clip and what a model of this parameterisation should predict for it.
 * @param x0 [batch, 3, frames, height, width]
 * @param noise as x0, from N(0, 1)
 * @param signalLevel [batch, 1, 1, 1, 1], `signalAndNoise(...).signal`
 * @param noiseLevel as signalLevel
 * @returns `noised` x_t and `target`: eps - x0 (flow), eps (epsilon), signal * eps - noise * x0 (v,
 * Salimans and Ho, arXiv 2202.00512), each shaped as x0
 */
export function noiseAndTarget(
  parameterisation: Parameterisation,
  x0: Tensor,
  noise: Tensor,
  signalLevel: Tensor,
  noiseLevel: Tensor,
): { noised: Tensor; target: Tensor } {
  const noised = add(mul(signalLevel, x0), mul(noiseLevel, noise));
  switch (parameterisation) {
    case 'flow':
      return { noised, target: sub(noise, x0) };
    case 'epsilon':
      return { noised, target: noise };
    case 'v':
      return { noised, target: sub(mul(signalLevel, noise), mul(noiseLevel, x0)) };
  }
}

/**
 * How much of x_t stands in the best linear guess of the target, and the scale of what is left, for clips of standard
 * deviation `sigmaData` (the preconditioning of Karras et al., arXiv 2206.00364, section 5, carried over to these
 * paths). The network then sees inputs and predicts outputs of unit variance at every t:
 * prediction = skip * x_t + out * network(in * x_t).
 * @param t in (0, 1)
 */
export function preconditioning(
  parameterisation: Parameterisation,
  t: number,
  sigmaData: number,
): { skip: number; in: number; out: number } {
  const { signal, noise } = signalAndNoise(parameterisation, t);
  const variance = signal ** 2 * sigmaData ** 2 + noise ** 2;
  // target = toNoise * eps + toClip * x0
  const [toNoise, toClip] =
    parameterisation === 'flow' ? [1, -1] : parameterisation === 'epsilon' ? [1, 0] : [signal, -noise];
  const covariance = toNoise * noise + toClip * signal * sigmaData ** 2;
  const targetVariance = toNoise ** 2 + toClip ** 2 * sigmaData ** 2;
  return {
    skip: covariance / variance,
    in: 1 / Math.sqrt(variance),
    // Never negative in exact arithmetic; rounding may make it so at the ends.
    out: Math.sqrt(Math.max(targetVariance - covariance ** 2 / variance, 1e-12)),
  };
}

/**
 * One deterministic step from time t to `next`: the clip and the noise that the prediction implies, mixed anew (DDIM, Song
 * et al., arXiv 2010.02502; for `flow` this is Euler's step x + (next - t) * prediction).
 * @param t in (0, 1)
 * @returns factors of x_next = keep * x_t + move * prediction
 */
export function samplerStep(
  parameterisation: Parameterisation,
  t: number,
  next: number,
): { keep: number; move: number } {
  const now = signalAndNoise(parameterisation, t);
  const then = signalAndNoise(parameterisation, next);
  switch (parameterisation) {
    case 'flow':
      return { keep: 1, move: next - t };
    case 'epsilon':
      return { keep: then.signal / now.signal, move: then.noise - (then.signal * now.noise) / now.signal };
    case 'v':
      return {
        keep: then.signal * now.signal + then.noise * now.noise,
        move: then.noise * now.signal - then.signal * now.noise,
      };
  }
}
