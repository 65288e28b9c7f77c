import { applyGate, compareModels, gateSpec } from '@plumb/evaluation';
import type { MeasuredClip } from '@plumb/evaluation';
import { invalidArgument } from '@plumb/kit/errors';
import { createClient } from '@plumb/kit/rpc';
import { GeneratorService } from '@plumb/proto/plumb/generator/v1/generator_pb.js';
import type { Video } from '@plumb/proto/plumb/media/v1/video_pb.js';
import { RewardService } from '@plumb/proto/plumb/reward/v1/reward_pb.js';
import type { RewardOutcome } from '@plumb/proto/plumb/reward/v1/reward_pb.js';
import { artifactUri } from '@plumb/media';
import { z } from 'zod';
import type { ProgressDisplay } from '../progress/progress-display.ts';
import type { PortName } from '../supervisor/port-names.ts';
import { copyModel } from './copy-artifact.ts';
import { openLoop, persistently } from './loop-client.ts';
import { valueDifferences } from './run-manifest-file.ts';
import { categoryOfId } from './run-prompts.ts';

/** Clips of one call. */
const batch = 32;
/** Differences of clips, and of figures, that are told one by one. */
const mostTold = 20;

const model = z.object({
  version: z.string(),
  model: z.string(),
  sha256: z.string(),
  mediaType: z.string(),
});
const sample = z.object({
  sampleId: z.string(),
  promptId: z.string(),
  prompt: z.string(),
  category: z.enum(['OR', 'MO', 'DO', 'DM', 'FD']),
  seed: z.string(),
  sha256: z.string(),
  scores: z.record(
    z.string(),
    z.object({
      version: z.string(),
      weightsHash: z.string(),
      value: z.number().optional(),
      checks: z.record(z.string(), z.boolean()).optional(),
    }),
  ),
});
const evaluationSchema = z.object({
  kind: z.literal('plumb.evaluation'),
  version: z.literal(3, {
    error:
      'is not 3: an earlier release wrote it; repeat its run by the run manifest, or the evaluation with that release',
  }),
  before: model,
  after: model,
  sampler: z.object({ steps: z.int(), guidance: z.number(), shift: z.number() }),
  signals: z.object({
    judge: z.string(),
    heldOut: z.string(),
    trained: z.string(),
    guards: z.array(z.string()),
  }),
  gate: gateSpec,
  bootstrapSeed: z.int(),
  samples: z.object({ before: z.array(sample), after: z.array(sample) }),
  result: z.looseObject({
    // Of the iterations before too, which the manifest does not hold: taken as it stands.
    overOptimisation: z.array(z.string()).optional(),
  }),
  decision: z.object({ promoted: z.boolean(), rules: z.array(z.json()) }),
});

type Sample = z.infer<typeof sample>;
type Evaluation = z.infer<typeof evaluationSchema>;

/**
 * Makes and scores every clip of an evaluation again, computes means, intervals and the gate's decision from the new scores,
 * and says what differs.
 * @throws PlumbError INVALID_ARGUMENT for what is no evaluation, FAILED_PRECONDITION for models that cannot be copied
 */
export async function replayEvaluation(
  bytes: Uint8Array,
  options: {
    readonly original: string | undefined;
    readonly repeated: string;
    readonly addresses: Readonly<Record<PortName, string>>;
    readonly display: ProgressDisplay;
    readonly signal: AbortSignal;
  },
): Promise<string[]> {
  const { addresses, display, signal } = options;
  const parsed = evaluationSchema.safeParse(JSON.parse(new TextDecoder().decode(bytes)));
  if (!parsed.success) {
    throw invalidArgument(
      'manifest',
      `is no evaluation: ${z.prettifyError(parsed.error).replaceAll('\n', ' ')}`,
    );
  }
  const { before, after, sampler, samples } = parsed.data;
  const loop = await openLoop({ address: addresses.loop });
  const patient = { waitForReady: true, defaultDeadlineMs: 600_000 };
  const generator = createClient(GeneratorService, addresses.generator, patient);
  const reward = createClient(RewardService, addresses.reward, patient);
  const clipsDiffer: string[] = [];
  const repeated: Record<'before' | 'after', MeasuredClip[]> = { before: [], after: [] };
  try {
    display.begin('evaluation');
    for (const side of ['before', 'after'] as const) {
      const { version, model: line, sha256, mediaType } = side === 'before' ? before : after;
      await copyModel({ version, sha256, mediaType }, options.original, options.repeated);
      const weights = { uri: artifactUri(sha256), sha256, mediaType };
      const modelVersion = { version, model: line, weights };
      await persistently(
        () => loop.registry.createModelVersion({ modelVersion, idempotencyKey: version }, { signal }),
        signal,
      );
      const all = samples[side];
      for (let from = 0; from < all.length; from += batch) {
        const some = all.slice(from, from + batch).filter(({ sha256: clip }) => clip !== '');
        const clips = await persistently(() => generate(generator, version, sampler, some, signal), signal);
        const scored = await score(reward, some, clips, parsed.data.signals.judge, signal);
        repeated[side].push(...scored.map(({ measured }) => measured));
        clipsDiffer.push(...some.flatMap((one, place) => clipDifferences(side, one, scored[place])));
        const row = { key: side, label: `${side}, clips`, rate: '', left: '', detail: '' };
        display.update([{ ...row, done: Math.min(from + batch, all.length), total: all.length }]);
      }
    }
  } finally {
    loop.close();
    generator.close();
    reward.close();
  }
  const { decision, figures } = resultDifferences(parsed.data, repeated);
  // What it comes to, where it comes from, and what lies between: each has its place, however many there are of the others.
  return [...decision, ...told(clipsDiffer, 'differences of clips'), ...told(figures, 'figures')];
}

function told(differences: readonly string[], kind: string): readonly string[] {
  const more = differences.length - mostTold;
  return more > 0 ? [...differences.slice(0, mostTold), `${more} more ${kind}`] : differences;
}

const promptOf = ({ promptId, prompt, category }: Sample) => ({
  id: promptId,
  text: prompt,
  category: categoryOfId(category),
});

async function generate(
  generator: ReturnType<typeof createClient<typeof GeneratorService>>,
  modelVersion: string,
  sampler: z.infer<typeof evaluationSchema>['sampler'],
  samples: readonly Sample[],
  signal: AbortSignal,
): Promise<ReadonlyMap<string, Video>> {
  const clips = new Map<string, Video>();
  const items = samples.map((one) => ({ id: one.sampleId, prompt: promptOf(one), seed: BigInt(one.seed) }));
  for await (const { id, video } of generator.generate({ modelVersion, sampler, items }, { signal })) {
    if (video !== undefined) clips.set(id, video);
  }
  return clips;
}

/** A clip as it came out this time. */
interface Repeated {
  readonly sha256: string | undefined;
  readonly outcomes: readonly RewardOutcome[];
  readonly measured: MeasuredClip;
}

async function score(
  reward: ReturnType<typeof createClient<typeof RewardService>>,
  samples: readonly Sample[],
  clips: ReadonlyMap<string, Video>,
  judge: string,
  signal: AbortSignal,
): Promise<Repeated[]> {
  const rewards = [...new Set(samples.flatMap(({ scores }) => Object.keys(scores)))];
  const items = samples.flatMap((one) => {
    const video = clips.get(one.sampleId);
    return video === undefined ? [] : [{ id: one.sampleId, video, prompt: promptOf(one) }];
  });
  // Nothing learns from these scores, and the held-out judge is among those that are asked.
  const request = { items, rewards, evaluation: true };
  const answer =
    items.length === 0 ? undefined : await persistently(() => reward.score(request, { signal }), signal);
  const found = new Map(answer?.items.map((item) => [item.id, item.outcomes]));
  return samples.map((one) => {
    const outcomes = found.get(one.sampleId) ?? [];
    const { promptId, category, seed } = one;
    const scores = outcomes.flatMap(({ reward: name, outcome }) =>
      outcome.case === 'score' ? [[name, outcome.value] as const] : [],
    );
    // A clip that lacks one of its scores counts in none, as in the original.
    const isWhole = scores.length === outcomes.length;
    return {
      sha256: clips.get(one.sampleId)?.sha256,
      outcomes,
      measured: {
        promptId,
        category,
        seed,
        values: isWhole ? Object.fromEntries(scores.map(([name, { value }]) => [name, value])) : {},
        checks: isWhole ? (scores.find(([name]) => name === judge)?.[1].checks ?? {}) : {},
      },
    };
  });
}

function clipDifferences(side: string, one: Sample, repeated: Repeated | undefined): string[] {
  const differences: string[] = [];
  const place = `${side} ${one.promptId} seed ${one.seed}`;
  const clip = repeated?.sha256;
  if (clip !== one.sha256) {
    differences.push(`${place}: clip ${one.sha256.slice(0, 12)} and ${clip?.slice(0, 12) ?? 'none'}`);
  }
  for (const { reward, version, weightsHash, outcome } of repeated?.outcomes ?? []) {
    const standing = one.scores[reward];
    if (standing === undefined) continue;
    const value = outcome.case === 'score' ? outcome.value.value : undefined;
    if (value !== standing.value) {
      differences.push(`${place}: ${reward} ${standing.value ?? 'error'} and ${value ?? 'error'}`);
    }
    if (weightsHash !== standing.weightsHash) {
      differences.push(`${place}: ${reward} has another version, ${standing.version} and ${version}`);
    }
  }
  return differences;
}

/** What follows from the new scores, against what the manifest says: means, intervals, p-values, the gate's decision. */
function resultDifferences(
  { signals, gate, bootstrapSeed, result, decision }: Evaluation,
  { before, after }: Readonly<Record<'before' | 'after', readonly MeasuredClip[]>>,
): { readonly decision: readonly string[]; readonly figures: readonly string[] } {
  const compared = compareModels(before, after, signals, { seed: bootstrapSeed });
  const decided = applyGate(gate, compared, result.overOptimisation);
  return {
    decision: valueDifferences('decision', decision, decided),
    figures: Object.entries(compared).flatMap(([name, value]) =>
      valueDifferences(`result.${name}`, result[name], value),
    ),
  };
}
