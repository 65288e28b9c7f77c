import { create } from '@bufbuild/protobuf';
import type { MessageInitShape } from '@bufbuild/protobuf';
import { timestampFromDate } from '@bufbuild/protobuf/wkt';
import { invalidArguments, notFound, PlumbError } from '@plumb/kit/errors';
import type { Implementation } from '@plumb/kit/rpc';
import { LabelSchema } from '@plumb/proto/plumb/loop/v1/label_pb.js';
import type { Label, LabelService } from '@plumb/proto/plumb/loop/v1/label_pb.js';
import { insertLabel, listLabels } from './adapters/ledger/labels.ts';
import type { LabelRow } from './adapters/ledger/labels.ts';
import { findRun } from './adapters/ledger/runs.ts';
import { findSamples } from './adapters/ledger/samples.ts';
import type { SampleRow } from './adapters/ledger/samples.ts';
import { pageOf, pageSizeOf, readPageToken, timePosition } from './adapters/pages.ts';
import { labelIdOf } from './domain/identity.ts';
import { labelViolations } from './domain/label.ts';
import { labelSessions } from './label-sessions.ts';
import { checkKey } from './loop-service.ts';
import type { LoopContext } from './reconciler/context.ts';
import { currentTraceId } from './reconciler/iteration-trace.ts';

/** LabelService: what people say of samples. */
export function labelService(
  loop: Pick<LoopContext, 'database' | 'links' | 'signedUrl' | 'artifacts'>,
): Implementation<typeof LabelService> {
  const { database } = loop;

  async function requireSample(id: string, field: string): Promise<SampleRow> {
    const [row] = await findSamples(database, [id]);
    if (row === undefined)
      throw notFound('sample', id, { fix: `give the id of a sample of a run as ${field}` });
    return row;
  }

  return {
    ...labelSessions(loop),

    async createLabel({ label, idempotencyKey }) {
      checkKey(idempotencyKey);
      const violations = labelViolations(label);
      if (label === undefined || violations.length > 0) throw invalidArguments(violations);
      const sample = await requireSample(label.sampleId, 'label.sample_id');
      if (sample.video === null) {
        throw invalidArguments([
          { field: 'label.sample_id', description: `sample '${sample.id}' has no clip to look at` },
        ]);
      }
      if (label.answer.case === 'preferredToSampleId') {
        const other = await requireSample(label.answer.value, 'label.preferred_to_sample_id');
        if (other.prompt_text !== sample.prompt_text) {
          throw invalidArguments([
            {
              field: 'label.preferred_to_sample_id',
              description: `sample '${other.id}' is of another prompt; compare samples of one prompt`,
            },
          ]);
        }
      }
      const row = await insertLabel(database, {
        id: labelIdOf(idempotencyKey),
        idempotencyKey,
        sampleId: sample.id,
        runId: sample.run_id,
        rater: label.rater,
        accept: label.answer.case === 'accept' ? label.answer.value : null,
        preferredTo: label.answer.case === 'preferredToSampleId' ? label.answer.value : null,
        failureMode: label.failureMode,
        traceId: currentTraceId(),
        createdAt: new Date(),
      });
      checkSameLabel(row, label);
      return { label: labelView(row) };
    },

    async listLabels({ runId, pageSize, pageToken }) {
      if ((await findRun(database, runId)) === undefined) {
        throw notFound('run', runId, { reason: 'RUN_NOT_FOUND', fix: 'list the runs to see what there is' });
      }
      const size = pageSizeOf(pageSize);
      const after = readPageToken(timePosition, pageToken);
      const rows = await listLabels(database, {
        runId,
        limit: size + 1,
        after: after === undefined ? undefined : { createdAt: after.at, id: after.id },
      });
      const page = pageOf(rows, size, (row) => ({ at: row.created_at.toISOString(), id: row.id }));
      return { labels: page.rows.map(labelView), nextPageToken: page.nextPageToken };
    },
  };
}

function checkSameLabel(row: LabelRow, label: Label): void {
  const same =
    row.sample_id === label.sampleId &&
    row.rater === label.rater &&
    row.failure_mode === label.failureMode &&
    row.accept === (label.answer.case === 'accept' ? label.answer.value : null) &&
    row.preferred_to === (label.answer.case === 'preferredToSampleId' ? label.answer.value : null);
  if (same) return;
  throw new PlumbError({
    code: 'ALREADY_EXISTS',
    reason: 'IDEMPOTENCY_KEY_REUSED',
    message: `label '${row.id}' has this idempotency key and says something else; use another key`,
  });
}

function labelView(row: LabelRow): MessageInitShape<typeof LabelSchema> {
  return create(LabelSchema, {
    id: row.id,
    sampleId: row.sample_id ?? '',
    rater: row.rater,
    answer:
      row.preferred_to === null
        ? { case: 'accept', value: row.accept ?? false }
        : { case: 'preferredToSampleId', value: row.preferred_to },
    failureMode: row.failure_mode,
    createTime: timestampFromDate(row.created_at),
    sessionId: row.session_id ?? '',
  });
}
