import type { DataSetManifest } from '@plumb/objective';
import type { RunSpec } from '@plumb/proto/plumb/loop/v1/loop_pb.js';
import type { ModelVersion } from '@plumb/proto/plumb/models/v1/model_pb.js';
import { majorityVerdict, takesHumanLabels } from './human-labels.ts';
import type { ClipVerdicts } from './human-labels.ts';
import { samplerOf } from './sample-plan.ts';
import { acceptThreshold, exclusionOf, valueOf } from './sample-record.ts';
import type { SampleRecord } from './sample-record.ts';

/**
 * The manifest of an iteration's data set. Samples and exclusions are sorted by sample id: equal ledgers give equal
 * manifests. A sample with an error is excluded with its reason, and so is one on whose clip raters are divided, where the
 * spec takes their verdicts; the counts of both lists add up to the samples given.
 * @param options.verdicts what people say of the clips, by sample id
 */
export function dataSetManifest(options: {
  readonly runId: string;
  readonly iteration: number;
  readonly spec: RunSpec;
  readonly model: ModelVersion;
  readonly samples: readonly SampleRecord[];
  readonly verdicts: ReadonlyMap<string, ClipVerdicts>;
}): DataSetManifest {
  const { runId, iteration, spec, model } = options;
  const samples = options.samples.toSorted((a, b) => compare(a.id, b.id));
  const { steps, guidance, shift } = samplerOf(spec, 'train');
  const verdicts = takesHumanLabels(spec) ? options.verdicts : new Map<string, ClipVerdicts>();
  const reasonOf = (sample: SampleRecord): string | undefined =>
    exclusionOf(sample) ?? (isDivided(verdicts.get(sample.id)) ? 'label:divided' : undefined);
  const kept = samples.filter((sample) => reasonOf(sample) === undefined);
  const human = new Map(
    kept.flatMap(({ id }) => {
      const said = verdicts.get(id);
      const accept = said === undefined ? undefined : majorityVerdict(said);
      return said === undefined || accept === undefined ? [] : [[id, { accept, ...said }] as const];
    }),
  );
  return {
    kind: 'plumb.data-set',
    version: 1,
    runId,
    iteration,
    model: { version: model.version, sha256: model.weights?.sha256 ?? '' },
    promptSetHash: spec.promptSetHash,
    sampler: { steps, guidance, shift },
    rewards: rewardVersions(samples),
    ...(takesHumanLabels(spec) ? { humanLabels: humanLabelsOf(spec, kept, human) } : {}),
    samples: kept.map((sample) => {
      const said = human.get(sample.id);
      return { ...manifestSample(sample), ...(said === undefined ? {} : { human: said }) };
    }),
    excluded: samples.flatMap((sample) => {
      const reason = reasonOf(sample);
      return reason === undefined ? [] : [{ sampleId: sample.id, reason }];
    }),
  };
}

type HumanLabel = ClipVerdicts & { readonly accept: boolean };

function isDivided(said: ClipVerdicts | undefined): boolean {
  return said !== undefined && majorityVerdict(said) === undefined;
}

function humanLabelsOf(
  spec: RunSpec,
  kept: readonly SampleRecord[],
  human: ReadonlyMap<string, HumanLabel>,
): NonNullable<DataSetManifest['humanLabels']> {
  const reward = spec.evaluation?.reward ?? '';
  const changed = kept.filter((sample) => {
    const said = human.get(sample.id);
    const judged = valueOf(sample, reward);
    return said !== undefined && judged !== undefined && judged >= acceptThreshold !== said.accept;
  });
  return { reward, samples: human.size, changed: changed.length };
}

function manifestSample(sample: SampleRecord): DataSetManifest['samples'][number] {
  const video = sample.video;
  if (video?.source.case !== 'uri') throw new TypeError(`sample ${sample.id} has no clip in the ledger`);
  return {
    sampleId: sample.id,
    promptId: sample.promptId,
    prompt: sample.promptText,
    category: sample.category,
    seed: sample.seed,
    video: {
      uri: video.source.value,
      sha256: video.sha256,
      mediaType: video.mediaType,
      width: video.width,
      height: video.height,
      frameCount: video.frameCount,
      fps: video.fps,
    },
    ...(sample.latents === undefined
      ? {}
      : { latents: { uri: sample.latents.uri, sha256: sample.latents.sha256 } }),
    scores: Object.fromEntries(
      sample.scores.map(({ reward, outcome }) => [
        reward,
        'value' in outcome ? { value: outcome.value } : { error: outcome.error },
      ]),
    ),
  };
}

function rewardVersions(samples: readonly SampleRecord[]): DataSetManifest['rewards'] {
  const versions = new Map<string, DataSetManifest['rewards'][number]>();
  for (const { scores } of samples) {
    for (const { reward, version, weightsHash, rubricHash, outcome } of scores) {
      if ('value' in outcome) {
        const rubric = rubricHash === undefined ? {} : { rubricHash };
        versions.set(JSON.stringify([reward, version, weightsHash, rubricHash ?? '']), {
          name: reward,
          version,
          weightsHash,
          ...rubric,
        });
      }
    }
  }
  return [...versions].toSorted(([a], [b]) => compare(a, b)).map(([, version]) => version);
}

function compare(a: string, b: string): number {
  if (a === b) return 0;
  return a < b ? -1 : 1;
}
