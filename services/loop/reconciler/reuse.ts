import { findDonors, recordScored, scoresOf, takeOverClips } from '../adapters/ledger/samples.ts';
import type { Donor, DueSample, ScoreRow, ScoredClip } from '../adapters/ledger/samples.ts';
import type { RewardVersion } from '../adapters/reward-versions.ts';
import { checksOfRow } from '../adapters/sample-records.ts';
import { needsLatents, rewardsOf } from '../domain/sample-plan.ts';
import { artifactFromText } from '../adapters/messages.ts';
import { describeError } from '@plumb/kit/errors';
import { z } from 'zod';
import { loopLogger } from './context.ts';
import type { LoopContext } from './context.ts';
import { traceIdOf } from './iteration-trace.ts';
import type { PublishOptions } from './publishing.ts';

const detailsSchema = z.record(z.string(), z.number());

/**
 * Gives samples the clip of an earlier sample with the same model, prompt text, seed and sampler, if the store still has it,
 * and its scores too if every reward is known to be of the same version still. Gives the ids of those that have a clip now.
 */
export async function reuseSamples(
  loop: LoopContext,
  options: PublishOptions,
  rows: readonly DueSample[],
): Promise<ReadonlySet<string>> {
  const donors = await findDonors(
    loop.database,
    rows.map(({ clip_key }) => clip_key),
  );
  const pairs: { sampleId: string; row: DueSample; donor: Donor }[] = [];
  for (const row of rows) {
    const donor = donors.get(row.clip_key);
    if (donor === undefined || donor.id === row.id) continue;
    const model = options.models[row.grp];
    const latents = donor.latents === null ? undefined : artifactFromText(donor.latents).sha256;
    const needed = model !== undefined && needsLatents(model, row.grp);
    if (needed && (latents === undefined || !(await loop.artifacts.has(latents)))) continue;
    if (await loop.artifacts.has(donor.videoSha256)) pairs.push({ sampleId: row.id, row, donor });
  }
  if (pairs.length === 0) return new Set();
  await takeOverClips(loop.database, pairs, new Date());
  await takeOverScores(loop, options, pairs);
  return new Set(pairs.map(({ sampleId }) => sampleId));
}

async function takeOverScores(
  loop: LoopContext,
  options: PublishOptions,
  pairs: readonly { readonly row: DueSample; readonly donor: Donor }[],
): Promise<void> {
  const versions = await currentVersions(loop, options, pairs);
  if (versions === undefined) return;
  const scores = await scoresOf(
    loop.database,
    pairs.map(({ donor }) => donor.id),
  );
  const scored: ScoredClip[] = [];
  for (const { row, donor } of pairs) {
    const required = rewardsOf(options.spec, row.grp);
    const standing = (scores.get(donor.id) ?? []).filter(
      (score) => required.includes(score.reward) && isCurrent(score, versions),
    );
    // All or none: a half-scored sample would be scored again anyway.
    if (standing.length < required.length) continue;
    scored.push({
      sampleId: row.id,
      required,
      verdictReward: options.spec.evaluation?.reward ?? '',
      traceId: traceIdOf(donor.traceparent),
      scoredAt: new Date(),
      results: standing.map((score) => ({
        reward: score.reward,
        version: score.version,
        weightsHash: score.weights_hash,
        outcome: {
          value: score.value ?? Number.NaN,
          reason: score.reason,
          failureMode: score.failure_mode,
          checks: checksOfRow(score),
          details: detailsSchema.parse(JSON.parse(score.details)),
          rubricHash: score.rubric_hash,
        },
      })),
    });
  }
  if (scored.length > 0) await recordScored(loop.database, scored);
}

function isCurrent(score: ScoreRow, versions: ReadonlyMap<string, RewardVersion>): boolean {
  const current = versions.get(score.reward);
  return (
    score.value !== null && current?.version === score.version && current.weightsHash === score.weights_hash
  );
}

async function currentVersions(
  loop: LoopContext,
  options: PublishOptions,
  pairs: readonly { readonly row: DueSample }[],
): Promise<ReadonlyMap<string, RewardVersion> | undefined> {
  const names = new Set(pairs.flatMap(({ row }) => [...rewardsOf(options.spec, row.grp)]));
  try {
    return await loop.rewardVersions([...names], options.signal);
  } catch (error) {
    // Nothing is lost: the clips are scored again.
    loopLogger.warn(
      { runId: options.runId, error: describeError(error) },
      'the versions of the rewards are not known',
    );
    return undefined;
  }
}
