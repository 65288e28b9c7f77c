import { z } from 'zod';
import type { Group } from '../domain/groups.ts';
import type { SampleRecord, ScoreRecord } from '../domain/sample-record.ts';
import { samplesOfGroup, scoresOf } from './ledger/samples.ts';
import type { SampleRow, ScoreRow } from './ledger/samples.ts';
import type { Ledger } from './ledger/tables.ts';
import { artifactFromText, videoFromText } from './messages.ts';

const checksSchema = z.record(z.string(), z.boolean());

/** The guard checks of a score row. */
export function checksOfRow(row: Pick<ScoreRow, 'checks'>): Record<string, boolean> {
  return checksSchema.parse(JSON.parse(row.checks));
}

/** All samples of a group with their scores, sorted by id. */
export async function sampleRecords(
  ledger: Ledger,
  key: { readonly runId: string; readonly iteration: number; readonly group: Group },
): Promise<SampleRecord[]> {
  const rows = await samplesOfGroup(ledger, key.runId, key.iteration, key.group);
  const scores = await scoresOf(
    ledger,
    rows.map(({ id }) => id),
  );
  return rows.map((row) => sampleRecord(row, scores.get(row.id) ?? []));
}

function sampleRecord(row: SampleRow, scores: readonly ScoreRow[]): SampleRecord {
  return {
    id: row.id,
    promptId: row.prompt_id,
    promptText: row.prompt_text,
    category: row.category,
    seed: row.seed,
    video: row.video === null ? undefined : videoFromText(row.video),
    latents: row.latents === null ? undefined : artifactFromText(row.latents),
    scores: scores.map(scoreRecord),
    error:
      row.error_code === null || row.error_stage === null
        ? undefined
        : {
            stage: row.error_stage,
            code: row.error_code,
            reason: row.error_reason ?? '',
            message: row.error_message ?? '',
          },
  };
}

function scoreRecord(row: ScoreRow): ScoreRecord {
  const { reward, version } = row;
  const base = { reward, version, weightsHash: row.weights_hash };
  if (row.value !== null) {
    const rubric = row.rubric_hash === '' ? {} : { rubricHash: row.rubric_hash };
    return { ...base, ...rubric, outcome: { value: row.value, checks: checksOfRow(row) } };
  }
  const error = {
    code: row.error_code ?? 'UNKNOWN',
    reason: row.error_reason ?? '',
    message: row.error_message ?? '',
  };
  return { ...base, outcome: { error } };
}
