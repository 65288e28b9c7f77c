import { toJson } from '@bufbuild/protobuf';
import { timestampDate } from '@bufbuild/protobuf/wkt';
import Table from 'cli-table3';
import { invalidArgument, notFound } from '@plumb/kit/errors';
import { DeadLetterSchema } from '@plumb/proto/plumb/loop/v1/loop_pb.js';
import type { DeadLetter } from '@plumb/proto/plumb/loop/v1/loop_pb.js';
import type { LoopClient } from '../runs/loop-client.ts';
import { withLoop } from '../runs/with-loop.ts';
import type { LoopConnection, LoopOptions } from '../runs/with-loop.ts';

/** Options that every `plumb dead-letters` command has. */
export interface DeadLetterOptions extends LoopOptions {
  readonly json?: true;
}

async function ask(
  options: DeadLetterOptions,
  work: (connection: LoopConnection) => Promise<void>,
): Promise<number> {
  return await withLoop(
    { ...options, command: 'dead-letters', only: ['nats-server', 'loop'], notice: () => {} },
    work,
  );
}

function print(options: DeadLetterOptions, value: unknown, text: () => string): void {
  process.stdout.write(`${options.json === true ? JSON.stringify(value) : text()}\n`);
}

/** All dead letters, or those of a run, oldest first. */
async function deadLetters(loop: LoopClient, runId: string, signal: AbortSignal): Promise<DeadLetter[]> {
  const found: DeadLetter[] = [];
  let pageToken = '';
  do {
    const page = await loop.listDeadLetters({ pageSize: 200, pageToken, runId }, { signal });
    found.push(...page.deadLetters);
    pageToken = page.nextPageToken;
  } while (pageToken !== '');
  return found;
}

/** `plumb dead-letters list` */
export async function listDeadLetters(options: DeadLetterOptions & { run?: string }): Promise<number> {
  return await ask(options, async ({ loop, signal }) => {
    const letters = await deadLetters(loop, options.run ?? '', signal);
    print(options, { deadLetters: letters.map((letter) => toJson(DeadLetterSchema, letter)) }, () => {
      if (letters.length === 0) return 'There is no dead letter.';
      const table = new Table({
        head: ['number', 'given up', 'consumer', 'reason', 'tries', 'run', 'sample'],
        style: { head: [], border: [] },
      });
      for (const { sequence, createTime, consumer, reason, deliveries, runId, sampleId } of letters) {
        table.push([
          String(sequence),
          createTime === undefined ? '' : timestampDate(createTime).toISOString().slice(0, 19),
          consumer,
          reason,
          String(deliveries),
          runId,
          sampleId.slice(0, 12),
        ]);
      }
      return table.toString();
    });
  });
}

/** `plumb dead-letters show`. @throws PlumbError NOT_FOUND */
export async function showDeadLetter(number: bigint, options: DeadLetterOptions): Promise<number> {
  return await ask(options, async ({ loop, signal }) => {
    const letter = (await deadLetters(loop, '', signal)).find(({ sequence }) => sequence === number);
    if (letter === undefined) {
      throw notFound('dead letter', String(number), { fix: 'list them with `plumb dead-letters list`' });
    }
    print(options, toJson(DeadLetterSchema, letter), () =>
      [
        `dead letter ${letter.sequence} of ${letter.subject}, given up by ${letter.consumer} after ${letter.deliveries} deliveries`,
        `${letter.code}, ${letter.reason}: ${letter.message}`,
        ...(letter.runId === '' ? [] : [`run ${letter.runId}`]),
        ...(letter.sampleId === ''
          ? []
          : [`sample ${letter.sampleId}; what happened: plumb trace ${letter.sampleId.slice(0, 12)}`]),
      ].join('\n'),
    );
  });
}

/** `plumb dead-letters replay`. @throws PlumbError INVALID_ARGUMENT when it is not said which; NOT_FOUND */
export async function replayDeadLetters(
  numbers: readonly bigint[],
  options: DeadLetterOptions & { run?: string; all?: true },
): Promise<number> {
  const ways = [numbers.length > 0, options.run !== undefined, options.all === true].filter(Boolean);
  if (ways.length !== 1) {
    throw invalidArgument('dead letters', 'are not named; give numbers of the list, --run <id>, or --all');
  }
  return await ask(options, async ({ loop, signal }) => {
    // Listed first: what fails again comes back at the end of the list.
    const wanted =
      numbers.length > 0
        ? numbers
        : (await deadLetters(loop, options.run ?? '', signal)).map(({ sequence }) => sequence);
    for (const sequence of wanted) await loop.replayDeadLetter({ sequence }, { signal });
    print(options, { replayed: wanted.map(String) }, () =>
      wanted.length === 1
        ? '1 message was published again.'
        : `${wanted.length} messages were published again.`,
    );
  });
}
