/** Scores clips of a manifest twice, in other orders and other batches, and counts values that differ in any bit. */

import type { MessageInitShape } from '@bufbuild/protobuf';
import { randomGenerator } from '@plumb/diffusion';
import { createClient } from '@plumb/kit/rpc';
import { clipMediaType, encodeClip, openFolderStore } from '@plumb/media';
import { ValueRange } from '@plumb/proto/plumb/media/v1/video_pb.js';
import type { VideoSchema } from '@plumb/proto/plumb/media/v1/video_pb.js';
import { RewardService } from '@plumb/proto/plumb/reward/v1/reward_pb.js';
import type { TowerSize } from './model.ts';
import type { BenchService } from './service.ts';

/**
 * Stores `count` clips, scores them in calls of 64 in their order, and then one by one and in calls of odd sizes in another
 * order. The prompt of the second round differs in spelling that no value depends on, so that no cache can answer.
 *
 * @returns how many values differ
 */
export async function compareScorings(
  service: Pick<BenchService, 'address' | 'artifacts'>,
  reward: string,
  count: number,
  { side }: Pick<TowerSize, 'side'>,
): Promise<number> {
  const store = await openFolderStore(service.artifacts);
  const client = createClient(RewardService, service.address, { defaultDeadlineMs: 600_000 });
  const manifest: { readonly id: string; readonly video: MessageInitShape<typeof VideoSchema> }[] = [];
  for (let index = 0; index < count; index += 1) {
    const random = randomGenerator('clip', index);
    const frames = 1 + (index % 6);
    const data = Uint8Array.from({ length: frames * side * side * 3 }, () => random.next() & 255);
    const bytes = await encodeClip({ frames, width: side, height: side, fps: 8, data });
    const { uri, sha256 } = await store.put(bytes, { mediaType: clipMediaType });
    const shape = { width: side, height: side, frameCount: frames, fps: 8, valueRange: ValueRange.UINT8 };
    const video = {
      source: { case: 'uri' as const, value: uri },
      sha256,
      mediaType: clipMediaType,
      ...shape,
    };
    manifest.push({ id: String(index), video });
  }

  async function scoreAll(
    order: readonly (typeof manifest)[number][],
    sizes: readonly number[],
    text: string,
  ) {
    const values = new Map<string, number>();
    const calls: (typeof manifest)[] = [];
    for (let at = 0, turn = 0; at < order.length; turn += 1) {
      const size = sizes[turn % sizes.length] ?? 1;
      calls.push(order.slice(at, at + size));
      at += size;
    }
    // Several calls at a time share batches, and which ones do is nobody's choice.
    await Promise.all(
      Array.from({ length: 6 }, async () => {
        for (let call = calls.pop(); call !== undefined; call = calls.pop()) {
          const { items } = await client.score({
            rewards: [reward],
            items: call.map((item) => ({ ...item, prompt: { text } })),
          });
          for (const { id, outcomes } of items) {
            const outcome = outcomes[0]?.outcome;
            if (outcome?.case === 'score' && outcomes[0]?.cached === false)
              values.set(id, outcome.value.value);
          }
        }
      }),
    );
    return values;
  }

  const random = randomGenerator('order');
  const shuffled = manifest
    .map((item) => ({ item, key: random.next() }))
    .toSorted((a, b) => a.key - b.key)
    .map(({ item }) => item);
  const first = await scoreAll(manifest, [64], 'a red ball falls');
  const second = await scoreAll(shuffled, [1, 7, 64, 3, 13], 'A red  ball falls');
  client.close();
  return manifest.filter(({ id }) => first.get(id) === undefined || !Object.is(first.get(id), second.get(id)))
    .length;
}
