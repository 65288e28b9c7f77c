import { failedPrecondition } from '@plumb/kit/errors';
import type { DataSetManifest, LabelledSample, TrainingSet } from '@plumb/objective';
import type { DataSetSummary } from '@plumb/proto/plumb/trainer/v1/trainer_pb.js';
import { DataSetSummarySchema } from '@plumb/proto/plumb/trainer/v1/trainer_pb.js';
import { create } from '@bufbuild/protobuf';

/** A sample of the manifest. */
export type ManifestSample = DataSetManifest['samples'][number];

/**
 * The samples of a data set with the outcome of one reward, or with what people say in its place. A sample without that outcome counts as an error and is
 * excluded, with its reason, by the data step.
 * @throws PlumbError FAILED_PRECONDITION (DATASET_UNUSABLE) when no sample has an outcome of that reward
 */
export function labelledSamples(manifest: DataSetManifest, reward: string): LabelledSample[] {
  const byPeople = manifest.humanLabels?.reward === reward;
  const labelled = manifest.samples.map(({ sampleId, promptId, category, scores, human }): LabelledSample => {
    const origin = { sampleId, promptId, category };
    if (byPeople && human !== undefined) return { ...origin, reward: Number(human.accept) };
    const outcome = scores[reward];
    if (outcome === undefined) {
      return { ...origin, error: { reason: 'MISSING_FIELD', message: `it was not scored by ${reward}` } };
    }
    if ('error' in outcome)
      return { ...origin, error: { reason: outcome.error.reason, message: outcome.error.message } };
    return { ...origin, reward: outcome.value };
  });
  const known = new Set(manifest.samples.flatMap(({ scores }) => Object.keys(scores)));
  if (manifest.samples.length > 0 && !known.has(reward)) {
    throw failedPrecondition(
      `spec.objective.reward: no sample of the data set has a score of '${reward}'; its rewards are ${[...known].join(', ') || 'none'}`,
      { reason: 'DATASET_UNUSABLE' },
    );
  }
  return labelled;
}

/** Ids of the samples whose clips the training set needs, in order, each once. */
export function usedSampleIds(set: TrainingSet): string[] {
  const ids = set.items.flatMap((item) =>
    item.kind === 'pair' ? [item.chosenId, item.rejectedId] : [item.sampleId],
  );
  return [...new Set(ids)];
}

/** What the data step made of the labelled samples, for people and the ledger. */
export function summarise(set: TrainingSet, manifest: DataSetManifest): DataSetSummary {
  const { cap } = set.statistics;
  const excluded: Record<string, number> = {};
  const count = (reason: string): void => {
    excluded[reason] = (excluded[reason] ?? 0) + 1;
  };
  for (const { reason } of set.exclusions) count(reason);
  for (const { reason } of manifest.excluded) count(reason);
  return create(DataSetSummarySchema, {
    samples: set.statistics.samples,
    used: usedSampleIds(set).length,
    pairs: set.items.filter(({ kind }) => kind === 'pair').length,
    excluded,
    humanLabels: manifest.humanLabels?.samples ?? 0,
    humanLabelsChanged: manifest.humanLabels?.changed ?? 0,
    uninformativePromptRatio: set.statistics.uninformativePromptRatio,
    effectiveSampleSize: set.statistics.effectiveSampleSize,
    ...(cap === undefined
      ? {}
      : {
          largestWeight: Math.min(cap.largestBefore, cap.limit),
          largestUncappedWeight: cap.largestBefore,
          cappedWeights: cap.capped,
          cappedShare: cap.massMoved,
        }),
  });
}
