import { fillGaussian, randomGenerator } from '@plumb/diffusion';
import type { ArtifactStore, StoredArtifact } from '@plumb/media';
import { latentsMediaType } from '@plumb/media/model-media-types';
import { dataSetMediaType } from '@plumb/objective';
import type { ModelVersion } from '@plumb/proto/plumb/models/v1/model_pb.js';
import { writeSafetensors } from '@plumb/tensor-graph/safetensors';

/** Stores a data set of random latents of the small Wan pipeline: three prompts, and for each a sample of either value. */
export async function storeLatentDataSet(
  artifacts: ArtifactStore,
  model: ModelVersion,
  { reward, values }: { readonly reward: string; readonly values: readonly [number, number] },
): Promise<StoredArtifact> {
  const samples = [];
  for (const [index, prompt] of ['a red ball rolls', 'the cup falls', 'the ramp and the ball'].entries()) {
    for (const [place, value] of values.entries()) {
      const sampleId = `s${index}${place}`;
      const shape = [4, 2, 2, 4];
      const data = fillGaussian(new Float32Array(64), randomGenerator('training', sampleId));
      const latents = await artifacts.put(
        writeSafetensors(new Map([['latents', { dtype: 'float32', shape, data }]])),
        { mediaType: latentsMediaType },
      );
      samples.push({
        sampleId,
        promptId: `p${index}`,
        prompt,
        category: 'OR',
        seed: '1',
        video: {
          uri: 'artifact:nobody-reads-it',
          sha256: 'ab'.repeat(32),
          mediaType: 'image/png',
          width: 32,
          height: 16,
          frameCount: 5,
          fps: 16,
        },
        latents: { uri: latents.uri, sha256: latents.sha256 },
        scores: { [reward]: { value } },
      });
    }
  }
  const manifest = {
    kind: 'plumb.data-set',
    version: 1,
    runId: 'r',
    iteration: 1,
    model: { version: model.version, sha256: model.weights?.sha256 },
    promptSetHash: 'ab'.repeat(32),
    sampler: { steps: 4, guidance: 4, shift: 1 },
    rewards: [{ name: reward, version: '1', weightsHash: '' }],
    samples,
    excluded: [],
  };
  return await artifacts.put(Buffer.from(JSON.stringify(manifest)), { mediaType: dataSetMediaType });
}
