import type { PlumbError } from '@plumb/kit/errors';
import { withSpan } from '@plumb/kit/telemetry';
import { dataSetManifestSchema, dataSetMediaType } from '@plumb/objective';
import type { ModelVersion } from '@plumb/proto/plumb/models/v1/model_pb.js';
import type { Span } from '@opentelemetry/api';
import {
  findDecision,
  findEvaluation,
  insertDataSet,
  insertDecision,
  insertEvaluation,
  insertModel,
  markDecisionApplied,
} from '../adapters/ledger/iterations.ts';
import { clipVerdicts } from '../adapters/ledger/labels.ts';
import { latestOverride } from '../adapters/ledger/overrides.ts';
import { artifactMessage, artifactToText, modelToText } from '../adapters/messages.ts';
import { sampleRecords } from '../adapters/sample-records.ts';
import { candidateOf } from '../domain/candidate.ts';
import { canonicalJson } from '../domain/canonical-json.ts';
import { dataSetManifest } from '../domain/data-set.ts';
import { evaluate, evaluationManifest, evaluationMediaType, parseEvaluation } from '../domain/evaluation.ts';
import type { IterationEvaluation } from '../domain/evaluation.ts';
import { decide, parseRules, reasonsOf } from '../domain/gate.ts';
import { humanLabelsMissing, takesHumanLabels } from '../domain/human-labels.ts';
import type { ClipVerdicts } from '../domain/human-labels.ts';
import { loopMetrics } from '../metrics.ts';
import { loopTracer } from './context.ts';
import type { LoopContext } from './context.ts';
import { currentTraceId, iterationAttributes, iterationContext } from './iteration-trace.ts';
import type { LoadedIteration } from '../adapters/loaded-iteration.ts';

/*
 * The steps of an iteration that are done once, each in a span of the iteration's trace. Each may be cut short anywhere and
 * done again: what it writes is the same the second time, and the first row in the ledger stands.
 */

async function step(
  loop: LoopContext,
  loaded: LoadedIteration,
  name: string,
  body: (key: { runId: string; iteration: number }, span: Span) => Promise<void>,
): Promise<void> {
  const key = { runId: loaded.run.id, iteration: loaded.row.iteration };
  const parent = await iterationContext(loop, key);
  await withSpan(loopTracer, name, { parent, attributes: iterationAttributes(key) }, async (span) => {
    await body(key, span);
  });
}

/** Writes the data set's manifest. */
export async function freezeDataSet(loop: LoopContext, loaded: LoadedIteration): Promise<void> {
  await step(loop, loaded, 'freeze', async (key, span) => {
    const samples = await sampleRecords(loop.database, { ...key, group: 'train' });
    const verdicts = await verdictsOn(loop, loaded);
    const manifest = dataSetManifestSchema.parse(
      dataSetManifest({ ...key, spec: loaded.spec, model: loaded.model, samples, verdicts }),
    );
    const stored = await loop.artifacts.put(canonicalJson(manifest), { mediaType: dataSetMediaType });
    span.setAttributes({
      'plumb.data_set.samples': manifest.samples.length,
      'plumb.data_set.excluded': manifest.excluded.length,
      'plumb.data_set.human_labels': manifest.humanLabels?.samples ?? 0,
      'plumb.data_set.sha256': stored.sha256,
    });
    await insertDataSet(loop.database, {
      ...key,
      manifest: artifactToText(artifactMessage(stored, dataSetMediaType)),
      samples: manifest.samples.length,
      excluded: manifest.excluded.length,
      traceId: currentTraceId(),
      now: new Date(),
    });
  });
}

/** Why the data set has to wait for people; undefined when it has not. */
export async function awaitedHumanLabels(
  loop: LoopContext,
  loaded: LoadedIteration,
): Promise<PlumbError | undefined> {
  const verdicts = await verdictsOn(loop, loaded);
  return humanLabelsMissing(loaded.spec, loaded.row.iteration, verdicts.values());
}

/** What people say of the iteration's training clips, by sample; nothing where the spec does not take it. */
async function verdictsOn(
  loop: LoopContext,
  { run, row, spec }: LoadedIteration,
): Promise<ReadonlyMap<string, ClipVerdicts>> {
  if (!takesHumanLabels(spec)) return new Map();
  return await clipVerdicts(loop.database, { runId: run.id, iteration: row.iteration });
}

/** Puts the trained model into the registry, as a candidate. */
export async function registerCandidate(loop: LoopContext, loaded: LoadedIteration): Promise<void> {
  await step(loop, loaded, 'register', async (key, span) => {
    const { job } = loaded;
    if (job === undefined) throw new TypeError('there is no job whose checkpoint could be registered');
    const candidate = candidateOf({ ...key, model: loaded.model, job: job.job });
    span.setAttribute('plumb.model.version', candidate.version);
    const registered = await loop.registry.register(candidate);
    await insertModel(loop.database, {
      ...key,
      version: registered.version,
      model: registered.model,
      sha256: registered.weights?.sha256 ?? '',
      record: modelToText(registered),
      traceId: currentTraceId(),
      now: new Date(),
    });
  });
}

/** Compares the two models on the held-out prompts, and writes the evaluation's manifest. */
export async function evaluateCandidate(loop: LoopContext, loaded: LoadedIteration): Promise<void> {
  await step(loop, loaded, 'evaluate', async (key, span) => {
    const candidate = candidateIn(loaded);
    const before = await sampleRecords(loop.database, { ...key, group: 'before' });
    const after = await sampleRecords(loop.database, { ...key, group: 'after' });
    const train = await sampleRecords(loop.database, { ...key, group: 'train' });
    const earlier = await earlierEvaluations(loop, loaded);
    const inputs = { ...key, spec: loaded.spec, before, after, train, earlier };
    const result = evaluate(inputs);
    const manifest = evaluationManifest({ ...inputs, result, model: loaded.model, candidate });
    const stored = await loop.artifacts.put(canonicalJson(manifest), { mediaType: evaluationMediaType });
    span.setAttribute('plumb.evaluation.gain', result.verdict.difference.value);
    const run = { 'plumb.run.id': key.runId };
    loopMetrics.evaluationGain.record(result.verdict.difference.value, run);
    loopMetrics.overOptimised.record((result.overOptimisation ?? []).length > 0 ? 1 : 0, run);
    await insertEvaluation(loop.database, {
      ...key,
      beforeVersion: loaded.model.version,
      afterVersion: candidate.version,
      result: JSON.stringify(result),
      manifest: artifactToText(artifactMessage(stored, evaluationMediaType)),
      traceId: currentTraceId(),
      now: new Date(),
    });
  });
}

async function earlierEvaluations(loop: LoopContext, loaded: LoadedIteration) {
  const earlier: { result: IterationEvaluation; promoted: boolean }[] = [];
  for (let iteration = 1; iteration < loaded.row.iteration; iteration += 1) {
    const key = { runId: loaded.run.id, iteration };
    const evaluation = await findEvaluation(loop.database, key);
    const decision = await findDecision(loop.database, key);
    if (evaluation === undefined || decision === undefined) continue;
    const override = await latestOverride(loop.database, key);
    earlier.push({
      result: parseEvaluation(evaluation.result),
      promoted: override?.promoted ?? decision.promoted,
    });
  }
  return earlier;
}

/** Asks the gate. */
export async function decideCandidate(loop: LoopContext, loaded: LoadedIteration): Promise<void> {
  await step(loop, loaded, 'gate', async (key, span) => {
    if (loaded.evaluation === undefined) throw new TypeError('there is no evaluation to decide by');
    const decision = decide(loaded.spec, parseEvaluation(loaded.evaluation.result));
    span.setAttribute('plumb.gate.promoted', decision.promoted);
    loopMetrics.gateDecisions.add(1, { 'plumb.gate.decision': decision.promoted ? 'promoted' : 'refused' });
    await insertDecision(loop.database, {
      ...key,
      promoted: decision.promoted,
      rules: JSON.stringify(decision.rules),
      traceId: currentTraceId(),
      now: new Date(),
    });
  });
}

/** Writes the gate's decision to the registry; after a promotion the run goes on from the candidate. */
export async function applyDecision(loop: LoopContext, loaded: LoadedIteration): Promise<void> {
  const { decision } = loaded;
  if (decision === undefined) throw new TypeError('there is no decision to apply');
  const candidate = candidateIn(loaded);
  await step(loop, loaded, decision.promoted ? 'promote' : 'refuse', async (key, span) => {
    span.setAttribute('plumb.model.version', candidate.version);
    const reasons = [
      `${decision.promoted ? 'Promoted' : 'Refused'} by the gate in iteration ${key.iteration} of ${key.runId}`,
      ...reasonsOf(parseRules(decision.rules), decision.promoted),
    ];
    const written = decision.promoted
      ? await loop.registry.promote(candidate.version, reasons)
      : await loop.registry.refuse(candidate.version, reasons);
    await markDecisionApplied(loop.database, {
      ...key,
      currentModel: decision.promoted ? modelToText(written) : modelToText(loaded.model),
      now: new Date(),
    });
  });
}

function candidateIn(loaded: LoadedIteration): ModelVersion {
  if (loaded.candidate === undefined) throw new TypeError('there is no candidate yet');
  return loaded.candidate;
}
