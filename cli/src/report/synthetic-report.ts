import { encodePreview } from '@plumb/media';
import { renderClip, toyboxPrompts } from '@plumb/toybox';
import { categories } from '@plumb/charts';
import type { Acceptance } from '@plumb/charts';
import type { CategoryClips, ClipPair, JudgedClip, ReportData, ReportSignal } from './report-data.ts';

const rates: Record<string, readonly [number, number]> = {
  overall: [0.512, 0.664],
  OR: [0.76, 0.9],
  MO: [0.17, 0.31],
  DO: [0.31, 0.35],
  DM: [0.62, 0.8],
  FD: [0.7, 0.96],
};

/** A report of made-up numbers on rendered clips, for tests of the page and for looking at it. */
export async function syntheticReport(): Promise<ReportData> {
  const clips: Record<string, CategoryClips> = {};
  for (const { id } of categories) {
    const prompts = toyboxPrompts.filter((prompt) => prompt.category === id && prompt.split === 'heldout');
    const fixed = await Promise.all(prompts.map((prompt, index) => pair(prompt.text, index, index)));
    const changed = await Promise.all(
      prompts.slice(0, 4).map((prompt, index) => pair(prompt.text, index + 100, index % 4 === 3 ? 2 : 1)),
    );
    clips[id] = { fixed, changed, pairs: 64, better: 14, worse: 5 };
  }
  return {
    name: 'toybox demo',
    runId: '3f2a9c1de07b4a55',
    createdAt: new Date(Date.UTC(2026, 0, 2, 3, 4)),
    seconds: 523.4,
    before: { version: 'toybox@0123456789ab', sha256: '0123456789ab'.padEnd(64, '0') },
    after: { version: 'toybox@ba9876543210', sha256: 'ba9876543210'.padEnd(64, '1') },
    categories,
    acceptance: acceptance(1),
    control: {
      after: { version: 'toybox@cccccccccccc', sha256: 'c'.repeat(64) },
      acceptance: acceptance(0.3),
    },
    significance: Object.fromEntries(
      Object.keys(rates).map((id) => [
        id,
        {
          pValue: id === 'overall' ? 0.0001 : 0.084,
          winRate: { rate: 0.576, low: 0.541, high: 0.612 },
        },
      ]),
    ),
    signals: [signal('aif', 'trained on', 0.152), signal('clip_score', 'held out', 0.011)],
    learningCurve: [
      { iteration: 0, rate: 0.512, low: 0.46, high: 0.57 },
      { iteration: 1, rate: 0.613, low: 0.56, high: 0.67 },
      { iteration: 2, rate: 0.664, low: 0.61, high: 0.72 },
    ],
    overOptimisation: [],
    checks: [
      {
        name: 'picture',
        before: { rate: 0.914, low: 0.88, high: 0.94 },
        after: { rate: 0.931, low: 0.9, high: 0.95 },
      },
    ],
    decision: {
      promoted: true,
      rules: [
        {
          rule: 'gain',
          passed: true,
          reason: 'overall acceptance rose by 15.2 points; at least 2.0 are asked for',
        },
        {
          rule: 'certainty',
          passed: true,
          reason: 'the lower end of the 95% interval is +9.1 points, above 0.0',
        },
        { rule: 'categories', passed: true, reason: 'no category fell' },
        {
          rule: 'picture',
          passed: true,
          reason: 'picture checks pass in 93.1% of clips, 91.4% before; at most 5.0 points may be lost',
        },
      ],
    },
    training: {
      algorithm: 'rwr',
      steps: 250,
      batchSize: 32,
      learningRate: 4e-4,
      schedule: 'trapezoid',
      points: Array.from({ length: 250 }, (_, index) => ({
        step: index + 1,
        loss: 0.052 + 0.03 * Math.exp(-index / 70) + 0.008 * Math.sin(index * 1.7) * Math.cos(index * 0.31),
        ...(index % 10 === 9 ? { anchorDistance: 0.011 * (1 - Math.exp(-index / 90)) } : {}),
      })),
      probes: (['trained on', 'held out'] as const).map((role) => ({
        reward: role === 'held out' ? 'clip_score' : 'aif',
        role,
        points: [0, 50, 100, 150, 200, 250].map((step) => ({ step, value: 0.5 + step / 1500 })),
      })),
      probeFindings: [],
    },
    dataSet: {
      prompts: 120,
      samplesPerPrompt: 10,
      samples: 1200,
      used: 1193,
      pairs: 0,
      acceptance: Object.fromEntries(
        Object.entries(rates).map(([id, [rate]]) => [id, { rate, low: rate - 0.04, high: rate + 0.04 }]),
      ),
      excluded: { JUDGE_UNAVAILABLE: 7 },
      uninformativePromptRatio: 0.31,
      effectiveSampleSize: 702.4,
      largestWeight: 3.12,
    },
    counts: { samples: 1840, judged: 1833, errors: 7 },
    judging: { tokens: 1_512_340, calls: 1902, cost: 0.1713, currency: 'USD' },
    clips,
    howToRepeat: {
      command: './plumb demo --fresh --seed 1 --control',
      seed: '1',
      sampler: { steps: 20, guidance: 2, shift: 3.5 },
      promptSetHash: 'a'.repeat(64),
      jobManifestHash: 'd'.repeat(64),
      evaluationManifestHash: 'e'.repeat(64),
    },
  };
}

function signal(reward: string, role: ReportSignal['role'], gain: number): ReportSignal {
  return {
    reward,
    role,
    before: { rate: 0.512, low: 0.46, high: 0.57 },
    after: { rate: 0.512 + gain, low: 0.46 + gain, high: 0.57 + gain },
    difference: { mean: gain, low: gain / 2, high: 1.5 * gain },
    winRate: { rate: 0.61, low: 0.57, high: 0.65 },
    pValue: 0.0004,
  };
}

function acceptance(share: number): Acceptance {
  const entries = Object.entries(rates).map(([id, [before, full]]) => {
    const after = before + (full - before) * share;
    const half = id === 'overall' ? 0.055 : 0.11;
    return {
      id,
      before: { rate: before, low: Math.max(0, before - half), high: Math.min(1, before + half) },
      after: { rate: after, low: Math.max(0, after - half), high: Math.min(1, after + half) },
      difference: { mean: after - before, low: after - before - half, high: after - before + half },
    };
  });
  return {
    before: Object.fromEntries(entries.map(({ id, before }) => [id, before])),
    after: Object.fromEntries(entries.map(({ id, after }) => [id, after])),
    difference: Object.fromEntries(entries.map(({ id, difference }) => [id, difference])),
  };
}

async function pair(caption: string, seed: number, kind: number): Promise<ClipPair> {
  const beforeRight = kind % 3 === 0 || kind % 3 === 2;
  const afterRight = kind % 3 !== 2;
  return {
    prompt: caption,
    sampleIndex: 0,
    seed: String(seed),
    before: await clip(caption, seed, beforeRight),
    after: await clip(caption, seed, afterRight),
  };
}

async function clip(caption: string, seed: number, right: boolean): Promise<JudgedClip> {
  const rendered = renderClip({ caption, seed, wrongness: right ? null : 'static' });
  const preview = await encodePreview(rendered, { scale: 1 });
  return {
    preview: `data:image/webp;base64,${Buffer.from(preview).toString('base64')}`,
    verdict: right ? 'accepted' : 'rejected',
    reason: right
      ? 'the object does what the caption says'
      : 'nothing moves by more than a pixel in the whole clip',
    failureMode: right ? '' : 'static',
  };
}
