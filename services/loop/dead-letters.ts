import { fromBinary } from '@bufbuild/protobuf';
import type { MessageInitShape } from '@bufbuild/protobuf';
import { timestampFromDate } from '@bufbuild/protobuf/wkt';
import { subjects } from '@plumb/kit/bus';
import type { Bus, DeadLetter } from '@plumb/kit/bus';
import type { Implementation } from '@plumb/kit/rpc';
import type { DeadLetterSchema, LoopService } from '@plumb/proto/plumb/loop/v1/loop_pb.js';
import {
  GenerationTaskSchema,
  SampleFailedSchema,
  SampleGeneratedSchema,
  SampleScoredSchema,
  ScoringTaskSchema,
} from '@plumb/proto/plumb/tasks/v1/tasks_pb.js';
import { z } from 'zod';
import { pageSizeOf, pageToken as tokenOf, readPageToken } from './adapters/pages.ts';

const position = z.object({ sequence: z.int().min(0) });

const schemas = {
  [subjects.taskGenerate]: GenerationTaskSchema,
  [subjects.taskScore]: ScoringTaskSchema,
  [subjects.sampleGenerated]: SampleGeneratedSchema,
  [subjects.sampleScored]: SampleScoredSchema,
  [subjects.sampleFailed]: SampleFailedSchema,
};

/** The part of LoopService about messages that were given up. */
export function deadLetterMethods(
  bus: Bus,
): Pick<Implementation<typeof LoopService>, 'listDeadLetters' | 'replayDeadLetter'> {
  return {
    async listDeadLetters({ pageSize, pageToken, runId }) {
      const size = pageSizeOf(pageSize);
      const deadLetters: MessageInitShape<typeof DeadLetterSchema>[] = [];
      let after = readPageToken(position, pageToken)?.sequence ?? 0;
      // Dead letters of all runs lie in one stream: a page of one run may need a look at several pages of the stream.
      for (;;) {
        const letters = await bus.deadLetters.list({ limit: size, after });
        for (const letter of letters) {
          after = letter.sequence;
          const view = deadLetterView(letter);
          if (runId === '' || view.runId === runId) deadLetters.push(view);
          if (deadLetters.length === size) {
            return { deadLetters, nextPageToken: tokenOf({ sequence: after }) };
          }
        }
        if (letters.length < size) return { deadLetters, nextPageToken: '' };
      }
    },

    async replayDeadLetter({ sequence }) {
      await bus.deadLetters.replay(Number(sequence));
      return {};
    },
  };
}

function deadLetterView(letter: DeadLetter) {
  const { sampleId = '', runId = '' } = ownerOf(letter) ?? {};
  return {
    sequence: BigInt(letter.sequence),
    subject: letter.subject,
    consumer: letter.consumer,
    code: letter.code,
    reason: letter.reason,
    message: letter.message,
    deliveries: letter.deliveries,
    createTime: timestampFromDate(letter.at),
    sampleId,
    runId,
  };
}

/** Whose the message is; undefined where it cannot be read, which may be why it was given up. */
function ownerOf(letter: DeadLetter): { sampleId: string; runId: string } | undefined {
  const schema = Object.entries(schemas).find(([subject]) => subject === letter.subject)?.[1];
  if (schema === undefined) return undefined;
  try {
    return fromBinary(schema, letter.data);
  } catch {
    return undefined;
  }
}
