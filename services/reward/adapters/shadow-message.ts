/** Shadow reports as messages. */

import { create } from '@bufbuild/protobuf';
import { timestampFromDate } from '@bufbuild/protobuf/wkt';
import { ShadowReportSchema } from '@plumb/proto/plumb/reward/v1/reward_pb.js';
import type { ShadowReport as ShadowReportMessage } from '@plumb/proto/plumb/reward/v1/reward_pb.js';
import type { ShadowReport } from '../domain/shadow-comparison.ts';
import { duration } from './outcome-message.ts';

/** The message of a report; numbers that are none are left out. */
export function shadowMessage(report: ShadowReport): ShadowReportMessage {
  const { meanDifference, meanAbsoluteDifference, largestAbsoluteDifference, correlation, sameOrder } =
    report;
  const numbers = {
    meanDifference,
    meanAbsoluteDifference,
    largestAbsoluteDifference,
    correlation,
    sameOrder,
  };
  return create(ShadowReportSchema, {
    name: report.reward.name,
    version: report.reward.version,
    weightsHash: report.reward.weightsHash,
    candidateVersion: report.candidate.version,
    candidateWeightsHash: report.candidate.weightsHash,
    since: timestampFromDate(report.since),
    compared: BigInt(report.compared),
    identical: BigInt(report.identical),
    candidateErrors: BigInt(report.candidateErrors),
    rewardErrors: BigInt(report.rewardErrors),
    skipped: BigInt(report.skipped),
    ...Object.fromEntries(Object.entries(numbers).filter(([, value]) => Number.isFinite(value))),
    ...(report.compared === 0
      ? {}
      : {
          inference: duration(report.rewardInferenceMs),
          candidateInference: duration(report.candidateInferenceMs),
        }),
  });
}
