import type { MessageInitShape } from '@bufbuild/protobuf';
import { failedPrecondition, invalidArgument, notFound } from '@plumb/kit/errors';
import type { GetSampleResponseSchema, TraceSpanSchema } from '@plumb/proto/plumb/loop/v1/loop_pb.js';
import { spansOfTraces } from '@plumb/trace/span-files';
import { loadIteration } from './adapters/loaded-iteration.ts';
import { findRun } from './adapters/ledger/runs.ts';
import { findPartner, findSamples, scoresOf } from './adapters/ledger/samples.ts';
import { artifactFromText, specFromText } from './adapters/messages.ts';
import { sampleView } from './adapters/sample-view.ts';
import type { LoopContext } from './reconciler/context.ts';

/** One sample with everything that is known of it. @throws PlumbError NOT_FOUND */
export async function getSample(
  loop: LoopContext,
  id: string,
  evidence: boolean,
): Promise<MessageInitShape<typeof GetSampleResponseSchema>> {
  const { database, signedUrl } = loop;
  const [row] = await findSamples(database, [id]);
  const run = row === undefined ? undefined : await findRun(database, row.run_id);
  if (row === undefined || run === undefined) {
    throw notFound('sample', id, { fix: 'list the samples of a run to see what there is' });
  }
  const spec = specFromText(run.spec);
  const prompt = spec.prompts.find((candidate) => candidate.id === row.prompt_id);
  const partner = await findPartner(database, row);
  const scores = await scoresOf(database, [row.id, ...(partner === undefined ? [] : [partner.id])]);
  const sample = sampleView(row, scores.get(row.id) ?? [], prompt, signedUrl);
  const { evaluation, dataSet } = await loadIteration(database, run, spec, row.iteration);
  const manifest = row.grp === 'train' ? dataSet?.manifest : evaluation?.manifest;
  const asked =
    evidence && sample.video !== undefined && sample.prompt !== undefined
      ? await loop.judgeQuestions(
          sample.scores.map(({ reward }) => reward),
          sample.video,
          sample.prompt,
        )
      : { questions: [], missing: '' };
  return {
    sample,
    ...(partner === undefined
      ? {}
      : { partner: sampleView(partner, scores.get(partner.id) ?? [], prompt, signedUrl) }),
    questions: asked.questions,
    questionsMissing: asked.missing,
    manifestUrl:
      manifest === undefined
        ? ''
        : signedUrl({ ...artifactFromText(manifest), mediaType: 'application/json' }),
  };
}

/** The spans of a trace, from the span files. @throws PlumbError FAILED_PRECONDITION where there are none to read */
export async function traceSpans(
  folder: string | undefined,
  traceId: string,
): Promise<MessageInitShape<typeof TraceSpanSchema>[]> {
  if (!/^[0-9a-f]{32}$/.test(traceId)) throw invalidArgument('trace_id', 'give 32 hexadecimal digits');
  if (folder === undefined) {
    throw failedPrecondition(
      'this loop service writes no span files; look into the tracing backend, or set PLUMB_SPAN_DIRECTORY',
    );
  }
  const spans = await spansOfTraces(folder, new Set([traceId]));
  return spans
    .toSorted((a, b) => a.startMs - b.startMs)
    .map(
      ({ spanId, parentSpanId, name, kind, service, startMs, endMs, status, statusMessage, attributes }) => ({
        spanId,
        parentSpanId: parentSpanId ?? '',
        name,
        kind,
        service,
        startMs,
        endMs,
        failed: status === 'error',
        statusMessage: statusMessage ?? '',
        attributes: Object.fromEntries(
          Object.entries(attributes).map(([key, value]) => [key, String(value)]),
        ),
      }),
    );
}
