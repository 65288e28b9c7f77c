/**
 * What a plan takes from measurements of this repository: two cores, no GPU, rounded. Each has the command that prints it; the
 * pages named there say under which conditions. Change them to what your machines print.
 */
export const measured = {
  /** Clips a second of one generator with the built-in model: 20 steps with guidance 1.5. */
  toyboxClipsPerSecond: { value: 6, from: 'npm run bench -- generator (docs/performance.md)' },
  /** Seconds of a training step of the built-in model on 32 clips. */
  toyboxStepSeconds: { value: 0.28, from: 'npm run bench -- trainer (docs/performance.md)' },
  /** Clips a second of one reward pod with one CLIP-family reward. */
  rewardClipsPerSecond: { value: 11, from: 'npm run bench -- reward (docs/reward-api.md)' },
  /** Calls to the endpoint for each verdict where a fifth of the calls fails. */
  judgeCallsPerVerdict: { value: 1.26, from: 'npm run bench -- judge (docs/judge.md)' },
  /** Milliseconds of processor time of the judge for each verdict: the limit of its benchmark, and no measurement. */
  judgeCpuMsPerVerdict: { value: 3, from: 'the limit of npm run bench -- judge' },
} as const;
