import { contentHash } from '@plumb/kit/content-hash';
import type { GroupRecord, ScoredClip } from './records.ts';
import type { StudyData } from './run-study.ts';

/**
 * Everything from which a study can be repeated, and the hashes of what it made. Without times and paths: on one machine
 * with the same number of threads a repetition gives the same manifest.
 */
export function studyManifest(data: StudyData, threads: number): object {
  const { spec, modelHash, promptSetHash, rewardHashes, groups, cells } = data;
  const group = ({ key, clips }: GroupRecord) => ({ key, clips: clips.length, hash: hashOf(clips) });
  return {
    kind: 'plumb.study',
    version: 1,
    spec,
    model: modelHash,
    promptSet: promptSetHash,
    rewards: rewardHashes,
    threads,
    samples: [...groups].map(([seed, { train, heldOut }]) => ({
      seed,
      train: group(train),
      heldOut: group(heldOut),
    })),
    cells: cells.map(({ arm, seed, key, trainingSetHash, weightsHash, heldOut }) => ({
      ...arm,
      seed,
      key,
      trainingSet: trainingSetHash,
      weights: weightsHash,
      heldOut: hashOf(heldOut),
    })),
  };
}

function hashOf(clips: readonly ScoredClip[]): string {
  return contentHash({ clips });
}
