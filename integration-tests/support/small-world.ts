import { createHash } from 'node:crypto';
import {
  clipSize,
  encodeModel,
  initialiseModel,
  modelToClip,
  parameterSpecs,
  randomGenerator,
  fillGaussian,
} from '@plumb/diffusion';
import type { VideoModel, VideoModelConfig } from '@plumb/diffusion';
import { clipMediaType, encodeClip } from '@plumb/media';
import type { ArtifactStore } from '@plumb/media';
import { dataSetMediaType } from '@plumb/objective';
import type { DataSetManifest } from '@plumb/objective';
import { ModelVersionSchema } from '@plumb/proto/plumb/models/v1/model_pb.js';
import type { ModelVersion } from '@plumb/proto/plumb/models/v1/model_pb.js';
import { create } from '@bufbuild/protobuf';

/** A model of a few thousand weights with the shape of a real one: quick enough to be sampled and trained in tests. */
export const smallConfig: VideoModelConfig = {
  format: 1,
  name: 'small',
  architecture: 'video-dit',
  video: { frames: 4, height: 8, width: 8, fps: 4 },
  pixels: { mean: 0.8, scale: 3 },
  patch: { frames: 2, height: 4, width: 4 },
  hiddenSize: 16,
  depth: 1,
  heads: 2,
  mlpRatio: 2,
  caption: { vocabulary: ['ball', 'blue', 'falls', 'red', 'square', 'the'], maxWords: 4, wordWidth: 8 },
  parameterisation: 'flow',
  sigmaData: 0.5,
};

/** Captions that the small model knows. */
export const smallCaptions = [
  'the red ball falls',
  'the blue ball falls',
  'red square',
  'blue square falls',
] as const;

/** A small model with random weights everywhere: fresh ones have gates of 0, behind which nothing would be tested. */
export function smallModel(seed: string): VideoModel {
  const parameters = new Map(initialiseModel(smallConfig, seed).parameters);
  for (const { name, initialStd } of parameterSpecs(smallConfig)) {
    const values = parameters.get(name);
    if (values === undefined || initialStd > 0) continue;
    fillGaussian(values, randomGenerator(seed, 'all', name));
    for (let i = 0; i < values.length; i++) values[i] = (values[i] ?? 0) * 0.1;
  }
  return { config: smallConfig, parameters };
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
