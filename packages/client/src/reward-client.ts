import type { MessageInitShape } from '@bufbuild/protobuf';
import { deadlineExceeded, invalidArgument, PlumbError } from '@plumb/kit/errors';
import { RewardService } from '@plumb/proto/plumb/reward/v1/reward_pb.js';
import type {
  Reward,
  ScoredItem,
  ScoreRequestSchema,
  ScoreStreamRequestSchema,
} from '@plumb/proto/plumb/reward/v1/reward_pb.js';
import { open } from './connect.ts';
import type { ConnectOptions } from './connect.ts';
import { withRetries } from './retry.ts';
import type { RetryPolicy } from './retry.ts';

export interface ScoreOptions {
  readonly signal?: AbortSignal | undefined;
  /** For the call with all its attempts and the pauses between, in milliseconds; 60,000 by default. */
  readonly deadlineMs?: number | undefined;
}

export interface ScoreStreamOptions {
  readonly signal?: AbortSignal | undefined;
  /** Items that are sent and not answered, at most; 256 by default. */
  readonly window?: number | undefined;
}

type StreamRequest = MessageInitShape<typeof ScoreStreamRequestSchema>;

/** The Reward API. Everything that its functions throw is a PlumbError of `@plumb/kit/errors`. */
export interface RewardClient {
  /** Scores up to 64 items. A failure of one item or reward is a typed error in its place and fails nothing else. */
  score(request: MessageInitShape<typeof ScoreRequestSchema>, options?: ScoreOptions): Promise<ScoredItem[]>;
  /**
   * Scores any number of items; results come as they are ready. Items are taken from `requests` only as fast as results
   * come. A stream that breaks is opened again, and what was not answered is sent again: each item is answered once.
   * Every item needs an id that no other unanswered item has.
   */
  scoreStream(
    requests: AsyncIterable<StreamRequest> | Iterable<StreamRequest>,
    options?: ScoreStreamOptions,
  ): AsyncIterable<ScoredItem>;
  listRewards(options?: ScoreOptions): Promise<Reward[]>;
  /** @throws PlumbError NOT_FOUND */
  getReward(name: string, options?: ScoreOptions): Promise<Reward>;
  /** Waits until the server can be reached. @throws PlumbError UNAVAILABLE */
  ready(options?: ScoreOptions): Promise<void>;
  close(): void;
}

/**
 * A client of the Reward API. It connects at the first call, comes back by itself, and tries again what may succeed.
 * Calls carry the trace context that is active where they are made (OpenTelemetry's API).
 *
 * @throws PlumbError CONFIGURATION_INVALID when a file cannot be used, or a token would travel in plain text
 */
export async function connectReward(
  options: ConnectOptions & { readonly retry?: RetryPolicy },
): Promise<RewardClient> {
  const { client, close } = await open(RewardService, options, 'none');
  const policy = options.retry ?? {};

  /** An operation with its attempts, all within one deadline. */
  const attempts = async <Result>(
    operation: (left: { signal: AbortSignal; deadlineMs: number }) => Promise<Result>,
    { signal, deadlineMs = 60_000 }: ScoreOptions = {},
  ): Promise<Result> => {
    const endMs = performance.now() + deadlineMs;
    const late = AbortSignal.timeout(deadlineMs);
    const either = signal === undefined ? late : AbortSignal.any([signal, late]);
    let last: unknown;
    try {
      return await withRetries(
        async () => {
          try {
            const left = Math.max(1, endMs - performance.now());
            return await operation({ signal: either, deadlineMs: left });
          } catch (error) {
            last = error;
            throw error;
          }
        },
        policy,
        either,
      );
    } catch (error) {
      if (signal?.aborted !== true && late.aborted) {
        throw deadlineExceeded(`there was no answer within ${deadlineMs} ms`, { cause: last ?? error });
      }
      throw PlumbError.from(error);
    }
  };

  return {
    score: async (request, scoreOptions) => {
      const { items } = await attempts((left) => client.score(request, left), scoreOptions);
      return items;
    },
    listRewards: async (listOptions) => {
      const { rewards } = await attempts((left) => client.listRewards({}, left), listOptions);
      return rewards;
    },
    getReward: async (name, getOptions) => {
      const { reward } = await attempts((left) => client.getReward({ name }, left), getOptions);
      if (reward === undefined) {
        throw new PlumbError({
          code: 'INTERNAL',
          reason: 'REMOTE_ERROR',
          message: 'GetReward gave no reward',
        });
      }
      return reward;
    },
    scoreStream: (requests, { signal, window = 256 } = {}) =>
      resumable(requests, window, {
        open: (sending) => client.scoreStream(sending, { signal }),
        policy,
        signal,
      }),
    ready: async (readyOptions) => {
      await client.ready(readyOptions);
    },
    close,
  };
}

interface Stream {
  readonly open: (requests: AsyncIterable<StreamRequest>) => AsyncIterable<{ item?: ScoredItem | undefined }>;
  readonly policy: RetryPolicy;
  readonly signal: AbortSignal | undefined;
}

async function* resumable(
  requests: AsyncIterable<StreamRequest> | Iterable<StreamRequest>,
  window: number,
  stream: Stream,
): AsyncGenerator<ScoredItem> {
  const outgoing = new Outgoing(requests, window);
  try {
    for (;;) {
      let answers: AsyncIterator<{ item?: ScoredItem | undefined }> | undefined;
      const next = async () => {
        answers ??= stream.open(outgoing.sending())[Symbol.asyncIterator]();
        try {
          return await answers.next();
        } catch (error) {
          answers = undefined;
          throw outgoing.failure ?? error;
        }
      };
      for (;;) {
        // It may fail as often as a call; an answer begins the count anew.
        const answer = await withRetries(next, stream.policy, stream.signal).catch((error: unknown) => {
          throw PlumbError.from(error);
        });
        if (answer.done === true) break;
        const { item } = answer.value;
        if (item !== undefined && outgoing.answered(item.id)) yield item;
      }
      if (outgoing.finished) return;
      // The server ended the stream and owes answers: the rest goes out on a new one.
    }
  } finally {
    await outgoing.close();
  }
}

/** The items of a stream on their way: those that are sent and not answered, and those still to come. */
class Outgoing {
  readonly #source: AsyncIterator<StreamRequest> | Iterator<StreamRequest>;
  readonly #window: number;
  readonly #unanswered = new Map<string, StreamRequest>();
  #pulling: Promise<IteratorResult<StreamRequest>> | undefined;
  #ended = false;
  /** Counts the streams; only the newest takes items. */
  #stream = 0;
  #room = Promise.withResolvers<undefined>();
  /** What the caller's own items failed with. */
  failure: unknown;

  constructor(requests: AsyncIterable<StreamRequest> | Iterable<StreamRequest>, window: number) {
    this.#source =
      Symbol.asyncIterator in requests ? requests[Symbol.asyncIterator]() : requests[Symbol.iterator]();
    this.#window = window;
  }

  get finished(): boolean {
    return this.#ended && this.#unanswered.size === 0;
  }

  /** The requests of one stream: first what an earlier one left unanswered. */
  async *sending(): AsyncGenerator<StreamRequest> {
    const mine = ++this.#stream;
    yield* this.#unanswered.values();
    for (;;) {
      while (this.#unanswered.size >= this.#window) {
        await this.#room.promise;
        // An older stream wakes up here and below; what it took would never be sent.
        if (mine !== this.#stream) return;
      }
      if (this.#ended) return;
      // A stream that breaks while an item is awaited leaves it to the next.
      this.#pulling ??= Promise.resolve(this.#source.next());
      let pulled: IteratorResult<StreamRequest>;
      try {
        pulled = await this.#pulling;
        if (mine !== this.#stream) return;
        this.#pulling = undefined;
        if (pulled.done === true) {
          this.#ended = true;
          return;
        }
        this.#keep(pulled.value);
      } catch (error) {
        if (mine === this.#stream) this.failure = error;
        throw error;
      }
      yield pulled.value;
    }
  }

  /** False for an item that is not awaited, such as the second answer of one that was sent twice. */
  answered(id: string): boolean {
    const known = this.#unanswered.delete(id);
    if (known) {
      this.#room.resolve(undefined);
      this.#room = Promise.withResolvers<undefined>();
    }
    return known;
  }

  async close(): Promise<void> {
    if (!this.#ended) await this.#source.return?.();
  }

  #keep(request: StreamRequest): void {
    const id = request.item?.id ?? '';
    if (id === '') throw invalidArgument('item.id', 'is empty; results are told apart by it');
    if (this.#unanswered.has(id)) {
      throw invalidArgument('item.id', `'${id}' is under way already; give every item an id of its own`);
    }
    this.#unanswered.set(id, request);
  }
}
