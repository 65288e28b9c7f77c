import { availableParallelism } from 'node:os';
import {
  decodeModel,
  decodeTrainingState,
  encodeAdapters,
  encodeModel,
  encodeTrainingState,
} from '@plumb/diffusion';
import { dataLoss, failedPrecondition, invalidArguments, fieldPath } from '@plumb/kit/errors';
import { clipBytes, decodeClip } from '@plumb/media';
import type { ArtifactStore, Clip } from '@plumb/media';
import { builtInModelMediaType, hasLatents } from '@plumb/media/model-media-types';
import { dataSetManifestSchema } from '@plumb/objective';
import type { DataSetManifest } from '@plumb/objective';
import type { Engine } from '@plumb/tensor-graph/engine';
import PQueue from 'p-queue';
import { builtInTrainee } from '../domain/built-in-trainee.ts';
import type { BuiltInPorts } from '../domain/built-in-trainee.ts';
import { jobManifestMediaType } from '../domain/job-manifest.ts';
import type { ScoreClips } from '../domain/probe.ts';
import type { TrainingPorts } from '../domain/training-run.ts';
import { named } from './named.ts';
import { pipelineTrainee } from './pipeline-trainee.ts';
import type { PipelineTraining } from './pipeline-trainee.ts';

const adaptersMediaType = 'application/vnd.plumb.adapters+safetensors';
const stateMediaType = 'application/vnd.plumb.training-state+safetensors';

/** Clips that are read and decoded at a time. */
const readConcurrency = 8;
/** Most bad fields of a manifest that an error names. */
const maxViolations = 20;

/** Training's inputs and outputs in the artifact store. */
export function trainingPorts(
  artifacts: Pick<ArtifactStore, 'get' | 'put' | 'remove'>,
  options: {
    readonly openEngine: (threads: number) => Promise<Engine>;
    readonly threads: number | undefined;
    /** Most memory for the decoded clips or the latents of a data set, in bytes. */
    readonly maxDataSetBytes: number;
    /** How pipelines are trained. */
    readonly pipelines: Pick<PipelineTraining, 'cache' | 'device'>;
    /** Scores the clips of probes; undefined where there is no Reward API. */
    readonly scoreClips: ScoreClips | undefined;
  },
): TrainingPorts {
  const write = (bytes: Uint8Array, mediaType: string) => artifacts.put(bytes, { mediaType });
  const builtIn: BuiltInPorts = {
    async readClips(samples, signal) {
      const size = samples.reduce(
        (sum, { video }) =>
          sum +
          clipBytes({ frames: video.frameCount, height: video.height, width: video.width, fps: video.fps }),
        0,
      );
      if (size > options.maxDataSetBytes) {
        throw failedPrecondition(
          `the ${samples.length} clips of the data set take ${size} bytes in memory, above PLUMB_MAX_DATA_SET_BYTES=${options.maxDataSetBytes}; raise it or use fewer clips`,
          { reason: 'DATASET_UNUSABLE' },
        );
      }
      const clips = new Map<string, Clip>();
      const queue = new PQueue({ concurrency: readConcurrency });
      // The first clip that cannot be read stops the others.
      const failed = new AbortController();
      const either = AbortSignal.any([signal, failed.signal]);
      try {
        await Promise.all(
          samples.map(({ sampleId, video }) =>
            queue.add(async () => {
              either.throwIfAborted();
              const bytes = await named(
                `the clip of sample ${sampleId}`,
                artifacts.get(video.uri, video.sha256),
              );
              const { frameCount: frames, height, width, fps } = video;
              clips.set(
                sampleId,
                await named(
                  `the clip of sample ${sampleId}`,
                  decodeClip(bytes, { frames, height, width, fps }),
                ),
              );
            }),
          ),
        );
      } finally {
        failed.abort();
      }
      signal.throwIfAborted();
      return clips;
    },
    async readModel({ uri, sha256, version }) {
      return decodeModel(
        await named(`the weights of ${version}`, artifacts.get(uri, sha256)),
        `weights of ${version}`,
      );
    },
    writeModel: (model) => write(encodeModel(model), builtInModelMediaType),
    writeAdapters: (model, adapters) => write(encodeAdapters(model.config, adapters), adaptersMediaType),
  };
  const pipelines: PipelineTraining = {
    ...options.pipelines,
    artifacts,
    maxDataSetBytes: options.maxDataSetBytes,
  };
  return {
    openTrainee: (plan) =>
      hasLatents(plan.base.mediaType) ? pipelineTrainee(plan, pipelines) : builtInTrainee(plan, builtIn),
    threads: options.threads ?? availableParallelism(),
    openEngine: options.openEngine,
    scoreClips: options.scoreClips,
    async readDataSet({ uri, sha256 }) {
      const bytes = await named('the data set manifest', artifacts.get(uri, sha256));
      return parseManifest(bytes, sha256);
    },
    async readState({ step, state }) {
      const source = `the checkpoint of step ${step}`;
      return decodeTrainingState(await named(source, artifacts.get(state.uri, state.sha256)), source);
    },
    async writeState(state, threads) {
      return { step: state.step, state: await write(encodeTrainingState(state), stateMediaType), threads };
    },
    removeState: ({ uri }) => artifacts.remove(uri),
    writeManifest: (bytes) => write(bytes, jobManifestMediaType),
  };
}

/** @throws PlumbError INVALID_ARGUMENT with a violation for every bad field, DATA_LOSS when it is no JSON */
function parseManifest(bytes: Uint8Array, sha256: string): DataSetManifest {
  let value: unknown;
  try {
    value = JSON.parse(new TextDecoder('utf-8', { fatal: true }).decode(bytes));
  } catch (error) {
    throw dataLoss(`the data set manifest ${sha256} is not JSON; freeze the data set again`, {
      cause: error,
    });
  }
  const parsed = dataSetManifestSchema.safeParse(value);
  if (parsed.success) return parsed.data;
  throw invalidArguments(
    parsed.error.issues.slice(0, maxViolations).map(({ path, message }) => ({
      field: `data_set.${fieldPath(path)}`,
      description: message,
    })),
    { reason: 'DATASET_UNUSABLE' },
  );
}
