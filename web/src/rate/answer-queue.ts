import { create } from '@bufbuild/protobuf';
import { RateRequestSchema, RatingAnswerSchema } from '@plumb/proto/plumb/loop/v1/label_pb.js';
import type { RatingAnswer } from '@plumb/proto/plumb/loop/v1/label_pb.js';
import { signal } from '@preact/signals';
import { openDB } from 'idb';
import type { DBSchema, IDBPDatabase } from 'idb';
import { errorText, isAway, labels } from '../api.ts';
import { pause } from '../page/live.ts';

/** An answer as it waits in the browser. */
export interface WaitingAnswer {
  readonly session: string;
  readonly rater: string;
  readonly item: number;
  readonly accept?: boolean;
  readonly preferred?: number;
  /** Takes the answer back. */
  readonly withdrawn?: true;
  readonly failureMode: string;
  /** Made once, with the answer: sent ten times, it is one answer. */
  readonly idempotencyKey: string;
}

interface Answers extends DBSchema {
  answers: { key: number; value: WaitingAnswer };
}

/** Answers that the service does not have yet. */
export const waiting = signal(0);
/** Why answers wait; empty while they do not. */
export const holdUp = signal('');

const firstPauseMs = 500;
const longestPauseMs = 10_000;

/**
 * Keeps answers in the browser's database until the service has them: a connection that drops, a page that is closed or a
 * browser that dies loses none. They are sent one after the other, in the order in which they were given, each with the
 * key that it was born with, so that none counts twice.
 */
export class AnswerQueue {
  readonly #session: string;
  readonly #rater: string;
  readonly #stop = new AbortController();
  #database: IDBPDatabase<Answers> | undefined;
  #sending = false;
  #added = 0;
  #awake: AbortController = new AbortController();

  private constructor(session: string, rater: string) {
    this.#session = session;
    this.#rater = rater;
  }

  static async open(session: string, rater: string): Promise<AnswerQueue> {
    const queue = new AnswerQueue(session, rater);
    queue.#database = await openDB<Answers>('plumb-answers', 1, {
      upgrade: (database) => {
        database.createObjectStore('answers', { autoIncrement: true });
      },
    });
    await queue.#count();
    queue.#send();
    addEventListener('online', queue.#wake);
    return queue;
  }

  /** The answers that wait, in the order in which they were given. */
  async left(): Promise<readonly WaitingAnswer[]> {
    return (await this.#mine()).map(({ answer }) => answer);
  }

  /** Keeps an answer; when this resolves it is in the browser's database. */
  async add(answer: Omit<WaitingAnswer, 'session' | 'rater' | 'idempotencyKey'>): Promise<void> {
    await this.#database?.add('answers', {
      ...answer,
      session: this.#session,
      rater: this.#rater,
      idempotencyKey: crypto.randomUUID(),
    });
    waiting.value += 1;
    this.#added += 1;
    this.#send();
  }

  close(): void {
    this.#stop.abort();
    removeEventListener('online', this.#wake);
    this.#database?.close();
  }

  readonly #wake = (): void => {
    this.#awake.abort();
  };

  async #mine(): Promise<{ key: number; answer: WaitingAnswer }[]> {
    const found: { key: number; answer: WaitingAnswer }[] = [];
    const transaction = this.#database?.transaction('answers');
    for (let cursor = await transaction?.store.openCursor(); cursor; cursor = await cursor.continue()) {
      const { session, rater } = cursor.value;
      if (session === this.#session && rater === this.#rater)
        found.push({ key: cursor.key, answer: cursor.value });
    }
    return found;
  }

  async #count(): Promise<number> {
    const { length } = await this.#mine();
    waiting.value = length;
    return length;
  }

  #send(): void {
    if (this.#sending) return;
    this.#sending = true;
    void this.#sendAll();
  }

  async #sendAll(): Promise<void> {
    let pauseMs = firstPauseMs;
    while (!this.#stop.signal.aborted) {
      const added = this.#added;
      const [next] = await this.#mine();
      if (next === undefined) {
        // One that came while the last look was under way is still to be sent.
        if (added !== this.#added) continue;
        waiting.value = 0;
        this.#sending = false;
        return;
      }
      try {
        const { answer } = next;
        await labels.rate(
          create(RateRequestSchema, {
            item: answer.item,
            idempotencyKey: answer.idempotencyKey,
            answer: messageOf(answer),
          }),
          { timeoutMs: 15_000 },
        );
        await this.#database?.delete('answers', next.key);
        holdUp.value = '';
        pauseMs = firstPauseMs;
        await this.#count();
      } catch (thrown) {
        if (this.#stop.signal.aborted) return;
        holdUp.value = isAway(thrown) ? 'no connection' : errorText(thrown);
        this.#awake = new AbortController();
        await pause(pauseMs, AbortSignal.any([this.#awake.signal, this.#stop.signal]));
        pauseMs = Math.min(pauseMs * 2, longestPauseMs);
      }
    }
  }
}

function messageOf({ accept, preferred, failureMode }: WaitingAnswer): RatingAnswer {
  if (accept !== undefined) {
    return create(RatingAnswerSchema, { answer: { case: 'accept', value: accept }, failureMode });
  }
  if (preferred !== undefined) {
    return create(RatingAnswerSchema, { answer: { case: 'preferred', value: preferred } });
  }
  return create(RatingAnswerSchema, { answer: { case: 'withdrawn', value: true } });
}
