import { createHash } from 'node:crypto';
import { clipSize, encodeModel, modelToClip, randomGenerator, fillGaussian } from '@plumb/diffusion';
import type { VideoModel, VideoModelConfig } from '@plumb/diffusion';
import { smallConfig as testingConfig, smallModel as testingModel } from '@plumb/diffusion/testing-model';
import { clipMediaType, encodeClip } from '@plumb/media';
import type { ArtifactStore } from '@plumb/media';
import { dataSetMediaType } from '@plumb/objective';
import type { DataSetManifest } from '@plumb/objective';
import { ModelVersionSchema } from '@plumb/proto/plumb/models/v1/model_pb.js';
import type { ModelVersion } from '@plumb/proto/plumb/models/v1/model_pb.js';
import { create } from '@bufbuild/protobuf';

/** The small model of the engine's own tests, with words for `smallCaptions`, and one block: quick enough to be sampled. */
export const smallConfig: VideoModelConfig = {
  ...testingConfig,
  depth: 1,
  caption: { ...testingConfig.caption, vocabulary: ['ball', 'blue', 'falls', 'red', 'square', 'the'] },
};

/** Captions that the small model knows. */
export const smallCaptions = [
  'the red ball falls',
  'the blue ball falls',
  'red square',
  'blue square falls',
] as const;

/** A small model with random weights everywhere. */
export function smallModel(seed: string): VideoModel {
  return testingModel(seed, smallConfig);
}

/** Stores a model and gives the version that it is known by. */
export async function storeModel(artifacts: ArtifactStore, model: VideoModel): Promise<ModelVersion> {
  const stored = await artifacts.put(encodeModel(model), { mediaType: 'application/octet-stream' });
  return create(ModelVersionSchema, {
    version: `${model.config.name}@${stored.sha256.slice(0, 12)}`,
    model: model.config.name,
    weights: { uri: stored.uri, sha256: stored.sha256 },
  });
}

/** Stores a data set of random clips, every other one accepted unless `label` says otherwise, and gives its artifact. */
export async function storeDataSet(
  artifacts: ArtifactStore,
  model: ModelVersion,
  options: {
    readonly samplesPerPrompt: number;
    /** Other seeds give other clips. */
    readonly seed?: string;
    readonly label?: (index: number) => number;
    /** Values of a clip in the model's range, [3, frames, height, width]; random unless given. */
    readonly clip?: (index: number) => Float32Array;
    readonly change?: (manifest: DataSetManifest) => unknown;
  },
): Promise<{ uri: string; sha256: string; manifest: DataSetManifest }> {
  const samples: DataSetManifest['samples'] = [];
  const { frames, height, width, fps } = smallConfig.video;
  for (const [place, prompt] of smallCaptions.entries()) {
    for (let index = 0; index < options.samplesPerPrompt; index++) {
      const values =
        options.clip?.(index) ??
        fillGaussian(
          new Float32Array(clipSize(smallConfig)),
          randomGenerator(options.seed ?? 'data', place, index),
        );
      const stored = await artifacts.put(await encodeClip(modelToClip(smallConfig, values)), {
        mediaType: clipMediaType,
      });
      samples.push({
        sampleId: createHash('sha256').update(`${place} ${index}`).digest('hex').slice(0, 32),
        promptId: `small/${place}`,
        prompt,
        category: place % 2 === 0 ? 'FD' : 'OR',
        seed: String(index),
        video: {
          uri: stored.uri,
          sha256: stored.sha256,
          mediaType: clipMediaType,
          width,
          height,
          frameCount: frames,
          fps,
        },
        scores: { aif: { value: options.label?.(index) ?? index % 2 } },
      });
    }
  }
  const manifest: DataSetManifest = {
    kind: 'plumb.data-set',
    version: 1,
    runId: 'run-test',
    iteration: 1,
    model: { version: model.version, sha256: model.weights?.sha256 ?? '' },
    promptSetHash: '0'.repeat(64),
    sampler: { steps: 4, guidance: 1, shift: 1 },
    rewards: [{ name: 'aif', version: '1', weightsHash: '' }],
    samples: samples.toSorted((a, b) => (a.sampleId < b.sampleId ? -1 : 1)),
    excluded: [],
  };
  const bytes = new TextEncoder().encode(JSON.stringify(options.change?.(manifest) ?? manifest));
  const stored = await artifacts.put(bytes, { mediaType: dataSetMediaType });
  return { uri: stored.uri, sha256: stored.sha256, manifest };
}
