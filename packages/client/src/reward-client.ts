import { setTimeout as delay } from 'node:timers/promises';
import { create } from '@bufbuild/protobuf';
import type { MessageInitShape } from '@bufbuild/protobuf';
import { deadlineExceeded, invalidArgument, PlumbError } from '@plumb/kit/errors';
import { RewardService, ScoreRequestSchema } from '@plumb/proto/plumb/reward/v1/reward_pb.js';
import type {
  ReloadRewardsResponse,
  Reward,
  ScoredItem,
  ScoreStreamRequestSchema,
  ShadowReport,
} from '@plumb/proto/plumb/reward/v1/reward_pb.js';
import { open } from './connect.ts';
import type { ConnectOptions } from './connect.ts';
import { pauseMs, usualLimit, withRetries } from './retry.ts';
import type { RetryPolicy } from './retry.ts';
import { unfinished, withError, withLater } from './unfinished.ts';

export interface ScoreOptions {
  readonly signal?: AbortSignal | undefined;
  /** For the call with all its attempts and the pauses between, in milliseconds; 60,000 by default. */
  readonly deadlineMs?: number | undefined;
}

export interface ScoreStreamOptions {
  readonly signal?: AbortSignal | undefined;
  /** For the whole stream, in milliseconds; none by default. */
  readonly deadlineMs?: number | undefined;
  /** Items that are sent and not answered, at most; 256 by default. */
  readonly window?: number | undefined;
}

const usualDeadlineMs = 60_000;

type StreamRequest = MessageInitShape<typeof ScoreStreamRequestSchema>;

/** The Reward API. Everything that its functions throw is a PlumbError of `@plumb/kit/errors`. */
export interface RewardClient {
  /**
   * Scores up to 64 items. A failure of one item or reward is a typed error in its place and fails nothing else. What may
   * come out otherwise later (UNAVAILABLE, RESOURCE_EXHAUSTED, ABORTED) is asked for again, those items and rewards only, as
   * long as attempts and deadline allow; after that it is the last error that came.
   */
  score(request: MessageInitShape<typeof ScoreRequestSchema>, options?: ScoreOptions): Promise<ScoredItem[]>;
  /**
   * Scores any number of items; results come as they are ready. Items are taken from `requests` only as fast as results
   * come. A stream that breaks is opened again, and what was not answered is sent again: each item is answered once.
   * Every item needs an id that no other unanswered item has. What may come out otherwise later is asked for again, as by
   * `score`; it counts as unanswered until then.
   *
   * @throws PlumbError DEADLINE_EXCEEDED when the stream has not ended by its deadline
   */
  scoreStream(
    requests: AsyncIterable<StreamRequest> | Iterable<StreamRequest>,
    options?: ScoreStreamOptions,
  ): AsyncIterable<ScoredItem>;
  listRewards(options?: ScoreOptions): Promise<Reward[]>;
  /** @throws PlumbError NOT_FOUND */
  getReward(name: string, options?: ScoreOptions): Promise<Reward>;
  /**
   * How the candidate in a reward's shadow compares with it.
   * @throws PlumbError NOT_FOUND; FAILED_PRECONDITION for a reward without a candidate
   */
  getShadowReport(name: string, options?: ScoreOptions): Promise<ShadowReport>;
  /** Has the service read its definitions anew. @throws PlumbError INVALID_ARGUMENT for one that cannot be read */
  reloadRewards(options?: ScoreOptions): Promise<ReloadRewardsResponse>;
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
    { signal, deadlineMs = usualDeadlineMs }: ScoreOptions = {},
  ): Promise<Result> => {
    const endMs = performance.now() + deadlineMs;
    const late = AbortSignal.timeout(Math.ceil(deadlineMs));
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
    score: async (request, scoreOptions = {}) => {
      const { signal, deadlineMs = usualDeadlineMs } = scoreOptions;
      const endMs = performance.now() + deadlineMs;
      const whole = create(ScoreRequestSchema, request);
      const { items } = await attempts((left) => client.score(whole, left), scoreOptions);
      for (let attempt = 0; attempt < (policy.limit ?? usualLimit); attempt++) {
        const open = items.flatMap((item, index) => {
          const rest = unfinished(item);
          return rest === undefined ? [] : [{ index, ...rest }];
        });
        const asked = open.flatMap(({ retryAfterMs }) => retryAfterMs ?? []);
        const pause = pauseMs(policy, attempt, asked.length === 0 ? undefined : Math.max(...asked));
        if (open.length === 0 || performance.now() + pause >= endMs) break;
        const again = {
          ...whole,
          rewards: [...new Set(open.flatMap(({ rewards }) => rewards))],
          items: open.flatMap(({ index }) => whole.items[index] ?? []),
        };
        let later: readonly ScoredItem[] | undefined;
        let failure: unknown;
        try {
          await delay(pause, undefined, signal === undefined ? {} : { signal });
          const left = { ...scoreOptions, deadlineMs: Math.max(1, endMs - performance.now()) };
          later = (await attempts((own) => client.score(again, own), left)).items;
        } catch (error) {
          if (signal?.aborted === true) throw PlumbError.from(error);
          failure = error;
        }
        for (const [place, { index, rewards }] of open.entries()) {
          const [item, newer] = [items[index], later?.[place]];
          if (item === undefined) continue;
          items[index] = newer === undefined ? withError(item, rewards, failure) : withLater(item, newer);
        }
        if (later === undefined) break;
      }
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
    getShadowReport: async (name, reportOptions) => {
      const { report } = await attempts((left) => client.getShadowReport({ name }, left), reportOptions);
      if (report === undefined) {
        throw new PlumbError({
          code: 'INTERNAL',
          reason: 'REMOTE_ERROR',
          message: 'GetShadowReport gave no report',
        });
      }
      return report;
    },
    reloadRewards: async (reloadOptions) =>
      await attempts((left) => client.reloadRewards({}, left), reloadOptions),
    scoreStream: (requests, { signal, deadlineMs = Infinity, window = 256 } = {}) => {
      const late = deadlineMs === Infinity ? undefined : AbortSignal.timeout(Math.ceil(deadlineMs));
      const signals = [signal, late].filter((one) => one !== undefined);
      const either = signals.length === 0 ? undefined : AbortSignal.any(signals);
      return resumable(requests, window, {
        open: (sending) => client.scoreStream(sending, { signal: either }),
        policy,
        signal: either,
        endMs: performance.now() + deadlineMs,
        failure: (error) =>
          signal?.aborted !== true && late?.aborted === true
            ? deadlineExceeded(`the stream had not ended within ${deadlineMs} ms`, { cause: error })
            : PlumbError.from(error),
      });
    },
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
  /** When the deadline is, on the clock of performance.now. */
  readonly endMs: number;
  /** What is thrown for an error that ended the stream. */
  readonly failure: (error: unknown) => PlumbError;
}

async function* resumable(
  requests: AsyncIterable<StreamRequest> | Iterable<StreamRequest>,
  window: number,
  stream: Stream,
): AsyncGenerator<ScoredItem> {
  const outgoing = new Outgoing(requests, window, stream);
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
          throw stream.failure(error);
        });
        if (answer.done === true) break;
        const { item } = answer.value;
        const finished = item === undefined ? undefined : outgoing.answered(item);
        if (finished !== undefined) yield finished;
      }
      if (outgoing.finished) return;
      // The server ended the stream and owes answers: the rest goes out on a new one.
    }
  } finally {
    await outgoing.close();
  }
}

/** An item that was sent and not answered for good. */
interface Sent {
  /** What is asked: the rewards that are still open. */
  request: StreamRequest;
  /** What came so far, if some of it is open. */
  item: ScoredItem | undefined;
  attempts: number;
  /** When it goes out again, on the clock of performance.now; undefined while its answer is awaited. */
  dueMs: number | undefined;
}

/** The items of a stream on their way: those that are sent and not answered, and those still to come. */
class Outgoing {
  readonly #source: AsyncIterator<StreamRequest> | Iterator<StreamRequest>;
  readonly #window: number;
  readonly #stream: Pick<Stream, 'policy' | 'endMs'>;
  readonly #unanswered = new Map<string, Sent>();
  #pulling: Promise<IteratorResult<StreamRequest>> | undefined;
  #ended = false;
  /** Counts the streams; only the newest takes items. */
  #count = 0;
  /** Resolves when there may be something to send. */
  #wake = Promise.withResolvers<undefined>();
  /** What the caller's own items failed with. */
  failure: unknown;

  constructor(
    requests: AsyncIterable<StreamRequest> | Iterable<StreamRequest>,
    window: number,
    stream: Pick<Stream, 'policy' | 'endMs'>,
  ) {
    this.#source =
      Symbol.asyncIterator in requests ? requests[Symbol.asyncIterator]() : requests[Symbol.iterator]();
    this.#window = window;
    this.#stream = stream;
  }

  get finished(): boolean {
    return this.#ended && this.#unanswered.size === 0;
  }

  /** The requests of one stream: first what an earlier one left unanswered, then what is due again and what is new. */
  async *sending(): AsyncGenerator<StreamRequest> {
    const mine = ++this.#count;
    const awaited = [...this.#unanswered.values()].filter(({ dueMs }) => dueMs === undefined);
    for (const { request } of awaited) yield request;
    for (;;) {
      // An older stream wakes up here and below; what it took would never be sent.
      if (mine !== this.#count) return;
      const paused = [...this.#unanswered.values()].filter(({ dueMs }) => dueMs !== undefined);
      const due = paused.find(({ dueMs = Infinity }) => dueMs <= performance.now());
      if (due !== undefined) {
        due.dueMs = undefined;
        yield due.request;
        continue;
      }
      if (this.#ended && paused.length === 0) return;
      const pulled = await this.#next(mine);
      if (pulled !== undefined) yield pulled;
    }
  }

  /** The next new item; undefined when there may be something else to send, or nothing. */
  async #next(mine: number): Promise<StreamRequest | undefined> {
    const wake = this.#wake.promise;
    if (this.#ended || this.#unanswered.size >= this.#window) return wake;
    // A stream that breaks while an item is awaited leaves it to the next.
    this.#pulling ??= Promise.resolve(this.#source.next());
    try {
      const pulled = await Promise.race([this.#pulling, wake]);
      if (mine !== this.#count || pulled === undefined) return undefined;
      this.#pulling = undefined;
      if (pulled.done === true) {
        this.#ended = true;
        return undefined;
      }
      this.#keep(pulled.value);
      return pulled.value;
    } catch (error) {
      if (mine === this.#count) this.failure = error;
      throw error;
    }
  }

  /**
   * Takes an answer.
   *
   * @returns the item if it is finished; undefined for one that goes out again, and for one that is not awaited, such as the
   *   second answer of an item that was sent twice
   */
  answered(answer: ScoredItem): ScoredItem | undefined {
    const sent = this.#unanswered.get(answer.id);
    if (sent === undefined) return undefined;
    const item = sent.item === undefined ? answer : withLater(sent.item, answer);
    const { policy, endMs } = this.#stream;
    const rest = unfinished(item);
    const pause = pauseMs(policy, sent.attempts, rest?.retryAfterMs);
    const dueMs = performance.now() + pause;
    if (rest === undefined || sent.attempts >= (policy.limit ?? usualLimit) || dueMs >= endMs) {
      this.#unanswered.delete(answer.id);
      this.#wakeUp();
      return item;
    }
    sent.item = item;
    sent.attempts += 1;
    sent.dueMs = dueMs;
    sent.request = { ...sent.request, rewards: [...rest.rewards] };
    // A timer may fire up to a millisecond early.
    setTimeout(() => this.#wakeUp(), Math.ceil(pause) + 1);
    return undefined;
  }

  async close(): Promise<void> {
    if (!this.#ended) await this.#source.return?.();
  }

  #wakeUp(): void {
    this.#wake.resolve(undefined);
    this.#wake = Promise.withResolvers<undefined>();
  }

  #keep(request: StreamRequest): void {
    const id = request.item?.id ?? '';
    if (id === '') throw invalidArgument('item.id', 'is empty; results are told apart by it');
    if (this.#unanswered.has(id)) {
      throw invalidArgument('item.id', `'${id}' is under way already; give every item an id of its own`);
    }
    this.#unanswered.set(id, { request, item: undefined, attempts: 0, dueMs: undefined });
  }
}
