import type { Implementation } from '@plumb/kit/rpc';
import type { StudyService } from '@plumb/proto/plumb/loop/v1/study_pb.js';
import { z } from 'zod';
import { pageOf, pageSizeOf, readPageToken } from './adapters/pages.ts';
import type { StudyResult, StudyResults } from './adapters/study-results.ts';

const position = z.object({ name: z.string() });

/** StudyService: what studies have found. */
export function studyService(studies: StudyResults): Implementation<typeof StudyService> {
  return {
    async listStudies({ pageSize, pageToken }) {
      const size = pageSizeOf(pageSize);
      const after = readPageToken(position, pageToken)?.name ?? '';
      const page = pageOf(
        (await studies.list()).filter(({ name }) => name > after),
        size,
        ({ name }) => ({ name }),
      );
      return { studies: page.rows.map(summaryOf), nextPageToken: page.nextPageToken };
    },

    async getStudy({ name }) {
      const study = await studies.read(name);
      return { study: summaryOf(study), result: study.bytes };
    },
  };
}

function summaryOf({ name, headline, cells }: StudyResult) {
  return { name, headline, cells };
}
