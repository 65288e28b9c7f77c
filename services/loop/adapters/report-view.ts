import { create } from '@bufbuild/protobuf';
import type { MessageInitShape } from '@bufbuild/protobuf';
import type { Spend } from '@plumb/proto/plumb/judge/v1/judge_pb.js';
import { ReportSchema } from '@plumb/proto/plumb/loop/v1/loop_pb.js';
import type { IterationReportSchema, Report } from '@plumb/proto/plumb/loop/v1/loop_pb.js';
import type { Comparison, Estimate, PairedDifference } from '@plumb/evaluation';
import { parseEvaluation } from '../domain/evaluation.ts';
import { listProgress } from './ledger/iterations.ts';
import { latestOverride } from './ledger/overrides.ts';
import { listIterations } from './ledger/runs.ts';
import type { RunRow } from './ledger/runs.ts';
import { countSamples } from './ledger/samples.ts';
import type { Ledger } from './ledger/tables.ts';
import { loadIteration } from './loaded-iteration.ts';
import type { LoadedIteration } from './loaded-iteration.ts';
import { artifactFromText, progressFromText, specFromText } from './messages.ts';
import { decisionView } from './decision-view.ts';
import { runCounts } from './run-view.ts';

/**
 * What a run's iterations have brought so far; an iteration that is not evaluated yet has what there is.
 * @param judging what its judges have taken, where that is known
 */
export async function reportView(ledger: Ledger, run: RunRow, judging: Spend | undefined): Promise<Report> {
  const spec = specFromText(run.spec);
  const iterations: MessageInitShape<typeof IterationReportSchema>[] = [];
  for (const { iteration } of await listIterations(ledger, run.id)) {
    iterations.push(await iterationReport(ledger, await loadIteration(ledger, run, spec, iteration)));
  }
  const counts = runCounts(await countSamples(ledger, run.id));
  return create(ReportSchema, {
    runId: run.id,
    iterations,
    counts,
    ...(judging === undefined ? {} : { judging }),
    ...(run.manifest === null ? {} : { manifest: artifactFromText(run.manifest) }),
  });
}

async function iterationReport(
  ledger: Ledger,
  loaded: LoadedIteration,
): Promise<MessageInitShape<typeof IterationReportSchema>> {
  const { row, model, candidate, dataSet, job, evaluation, decision } = loaded;
  const override = await latestOverride(ledger, { runId: loaded.run.id, iteration: row.iteration });
  const curve = job === undefined ? [] : await listProgress(ledger, job.row.id);
  const summary = job?.job.dataSetSummary;
  const found = evaluation === undefined ? undefined : parseEvaluation(evaluation.result);
  return {
    iteration: row.iteration,
    beforeVersion: model.version,
    afterVersion: candidate?.version ?? '',
    training: curve.map(progressFromText),
    ...(job === undefined ? {} : { job: job.job }),
    ...(summary === undefined ? {} : { dataSet: summary }),
    ...(found === undefined
      ? {}
      : {
          before: byCategory(found.verdict, ({ before }) => rateOf(before)),
          after: byCategory(found.verdict, ({ after }) => rateOf(after)),
          difference: byCategory(found.verdict, ({ difference }) => differenceOf(difference)),
          winRate: byCategory(found.verdict, ({ winRate }) => rateOf(winRate)),
          pValue: {
            overall: found.verdict.pValue,
            ...mapValues(found.verdict.perCategory, ({ adjustedPValue }) => adjustedPValue),
          },
          ...(found.heldOut === undefined
            ? {}
            : { heldOut: signalOf(loaded.spec.evaluation?.heldOutReward ?? '', found.heldOut) }),
          ...(found.trained === undefined
            ? {}
            : { trained: signalOf(loaded.spec.objective?.reward ?? '', found.trained) }),
          guards: Object.fromEntries(
            Object.entries(found.guardRewards).map(([name, compared]) => [name, signalOf(name, compared)]),
          ),
          overOptimisation: found.overOptimisation ?? [],
          checksBefore: mapValues(found.guards, ({ before }) => rateOf(before)),
          checksAfter: mapValues(found.guards, ({ after }) => rateOf(after)),
          trainingAcceptance:
            found.training === undefined
              ? {}
              : { overall: rateOf(found.training.overall), ...mapValues(found.training.perCategory, rateOf) },
        }),
    ...(evaluation === undefined ? {} : { manifest: artifactFromText(evaluation.manifest) }),
    ...(decision === undefined ? {} : { decision: decisionView(decision, override) }),
    ...(dataSet === undefined ? {} : { dataSetManifest: artifactFromText(dataSet.manifest) }),
  };
}

function signalOf(reward: string, { before, after, difference, winRate, pValue }: Comparison) {
  return {
    reward,
    before: rateOf(before),
    after: rateOf(after),
    difference: differenceOf(difference),
    winRate: rateOf(winRate),
    pValue,
  };
}

function byCategory<Value>(
  paired: PairedDifference,
  pick: (comparison: Comparison) => Value,
): Record<string, Value> {
  return { overall: pick(paired), ...mapValues(paired.perCategory, pick) };
}

function mapValues<From, To>(
  record: Readonly<Record<string, From>>,
  map: (value: From) => To,
): Record<string, To> {
  return Object.fromEntries(Object.entries(record).map(([key, value]) => [key, map(value)]));
}

function rateOf({ value, lower, upper, samples }: Estimate) {
  return { rate: value, low: lower, high: upper, samples };
}

function differenceOf({ value, lower, upper, samples }: Estimate) {
  return { mean: value, low: lower, high: upper, pairs: samples };
}
