import { invalidArgument } from '@plumb/kit/errors';
import { createClient } from '@plumb/kit/rpc';
import { GeneratorService } from '@plumb/proto/plumb/generator/v1/generator_pb.js';
import type { Video } from '@plumb/proto/plumb/media/v1/video_pb.js';
import { RewardService } from '@plumb/proto/plumb/reward/v1/reward_pb.js';
import { z } from 'zod';
import type { ProgressDisplay } from '../progress/progress-display.ts';
import type { PortName } from '../supervisor/port-names.ts';
import { copyArtifact } from './copy-artifact.ts';
import { openLoop, persistently } from './loop-client.ts';
import { categoryOfId } from './run-prompts.ts';

/** Clips of one call. */
const batch = 32;
/** Differences that are told one by one. */
const mostTold = 20;

const model = z.object({ version: z.string(), sha256: z.string() });
const sample = z.object({
  sampleId: z.string(),
  promptId: z.string(),
  prompt: z.string(),
  category: z.enum(['OR', 'MO', 'DO', 'DM', 'FD']),
  seed: z.string(),
  sha256: z.string(),
  scores: z.record(
    z.string(),
    z.object({ version: z.string(), weightsHash: z.string(), value: z.number().optional() }),
  ),
});
const evaluationSchema = z.object({
  kind: z.literal('plumb.evaluation'),
  version: z.literal(2),
  before: model,
  after: model,
  sampler: z.object({ steps: z.int(), guidance: z.number(), shift: z.number() }),
  samples: z.object({ before: z.array(sample), after: z.array(sample) }),
});

type Sample = z.infer<typeof sample>;

/** Makes and scores every clip of an evaluation again, and says what differs. */
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
  const differences: string[] = [];
  try {
    display.begin('evaluation');
    for (const [side, { version, sha256 }] of Object.entries({ before, after })) {
      const mediaType = 'application/vnd.plumb.video-model+safetensors';
      await copyArtifact(sha256, options.original, options.repeated, mediaType);
      const weights = { uri: `artifact:sha256/${sha256}`, sha256, mediaType };
      const modelVersion = { version, model: version.slice(0, version.lastIndexOf('@')), weights };
      await persistently(
        () => loop.registry.createModelVersion({ modelVersion, idempotencyKey: version }, { signal }),
        signal,
      );
      const all = side === 'before' ? samples.before : samples.after;
      for (let from = 0; from < all.length; from += batch) {
        const some = all.slice(from, from + batch).filter(({ sha256: clip }) => clip !== '');
        const clips = await persistently(() => generate(generator, version, sampler, some, signal), signal);
        differences.push(...(await compare(reward, side, some, clips, signal)));
        const row = { key: side, label: `${side}, clips`, rate: '', left: '', detail: '' };
        display.update([{ ...row, done: Math.min(from + batch, all.length), total: all.length }]);
      }
    }
  } finally {
    loop.close();
    generator.close();
    reward.close();
  }
  const more = differences.length - mostTold;
  return more > 0 ? [...differences.slice(0, mostTold), `${more} more differences`] : differences;
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

async function compare(
  reward: ReturnType<typeof createClient<typeof RewardService>>,
  side: string,
  samples: readonly Sample[],
  clips: ReadonlyMap<string, Video>,
  signal: AbortSignal,
): Promise<string[]> {
  const differences: string[] = [];
  const rewards = [...new Set(samples.flatMap(({ scores }) => Object.keys(scores)))];
  const items = samples.flatMap((one) => {
    const video = clips.get(one.sampleId);
    return video === undefined ? [] : [{ id: one.sampleId, video, prompt: promptOf(one) }];
  });
  const answer = await persistently(() => reward.score({ items, rewards }, { signal }), signal);
  const outcomes = new Map(answer.items.map((item) => [item.id, item.outcomes]));
  for (const one of samples) {
    const place = `${side} ${one.promptId} seed ${one.seed}`;
    const clip = clips.get(one.sampleId)?.sha256;
    if (clip !== one.sha256) {
      differences.push(`${place}: clip ${one.sha256.slice(0, 12)} and ${clip?.slice(0, 12) ?? 'none'}`);
    }
    for (const outcome of outcomes.get(one.sampleId) ?? []) {
      const standing = one.scores[outcome.reward];
      if (standing === undefined) continue;
      const value = outcome.outcome.case === 'score' ? outcome.outcome.value.value : undefined;
      if (value !== standing.value) {
        differences.push(`${place}: ${outcome.reward} ${standing.value ?? 'error'} and ${value ?? 'error'}`);
      }
      if (outcome.weightsHash !== standing.weightsHash) {
        differences.push(
          `${place}: ${outcome.reward} has another version, ${standing.version} and ${outcome.version}`,
        );
      }
    }
  }
  return differences;
}
