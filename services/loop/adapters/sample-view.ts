import { create } from '@bufbuild/protobuf';
import type { MessageInitShape } from '@bufbuild/protobuf';
import { PlumbError, toStatus } from '@plumb/kit/errors';
import { errorCodeNamed, reasonNamed } from './error-names.ts';
import { SampleSchema } from '@plumb/proto/plumb/loop/v1/loop_pb.js';
import type { Sample, SampleScoreSchema } from '@plumb/proto/plumb/loop/v1/loop_pb.js';
import type { Prompt } from '@plumb/proto/plumb/prompts/v1/prompt_pb.js';
import { categoryOf } from '../domain/categories.ts';
import { splitOf } from '../domain/groups.ts';
import type { LoopContext } from '../reconciler/context.ts';
import type { SampleRow, ScoreRow } from './ledger/samples.ts';
import { artifactFromText, videoFromText } from './messages.ts';
import { checksOfRow } from './sample-records.ts';

/** A sample as callers see it. */
export function sampleView(
  row: SampleRow,
  scores: readonly ScoreRow[],
  prompt: Prompt | undefined,
  signedUrl: LoopContext['signedUrl'],
): Sample {
  const video = row.video === null ? undefined : videoFromText(row.video);
  const ledgerPrompt = {
    id: row.prompt_id,
    text: row.prompt_text,
    category: categoryOf(row.category),
    split: splitOf(row.grp),
  };
  return create(SampleSchema, {
    id: row.id,
    iteration: row.iteration,
    prompt: prompt ?? ledgerPrompt,
    sampleIndex: row.sample_index,
    seed: BigInt(row.seed),
    modelVersion: row.model_version,
    ...(video === undefined ? {} : { video, clipUrl: signedUrl(video) }),
    group: row.grp,
    ...(row.preview === null ? {} : { preview: artifactFromText(row.preview) }),
    scores: scores.map(scoreView),
    traceId: row.traceparent?.split('-')[1] ?? '',
    reusedFromSampleId: row.reused_from ?? '',
    ...(row.error_code === null
      ? {}
      : { error: statusOf(row.error_code, row.error_reason, row.error_message) }),
  });
}

function scoreView(row: ScoreRow): MessageInitShape<typeof SampleScoreSchema> {
  return {
    reward: row.reward,
    version: row.version,
    outcome:
      row.value === null
        ? { case: 'error', value: statusOf(row.error_code, row.error_reason, row.error_message) }
        : { case: 'value', value: row.value },
    reason: row.reason,
    failureMode: row.failure_mode,
    checks: checksOfRow(row),
  };
}

function statusOf(code: string | null, reason: string | null, message: string | null) {
  return toStatus(
    new PlumbError({ code: errorCodeNamed(code), reason: reasonNamed(reason), message: message ?? '' }),
  );
}
