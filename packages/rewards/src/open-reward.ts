/** Opens a reward off the caller's thread. */

import { fork } from 'node:child_process';
import { availableParallelism } from 'node:os';
import { fileURLToPath } from 'node:url';
import { Worker } from 'node:worker_threads';
import { cancelled, unavailable } from '@plumb/kit/errors';
import type { PlumbError } from '@plumb/kit/errors';
import { fromWireError } from '@plumb/tensor-graph/engine/error-wire';
import { definitionHash, weightsHash } from './definition.ts';
import { checkGoldenClips } from './golden.ts';
import { progressOf } from './host-progress.ts';
import type { Progress } from './host-progress.ts';
import { fromWire } from './host.ts';
import type { HostOptions, HostReply, HostRequest } from './host.ts';
import type { LocatedDefinition } from './read-definitions.ts';
import type { Reward, RewardResult } from './reward.ts';

/** How a reward uses the machine. */
export interface OpenRewardOptions {
  /**
   * `process`: a forked process; a native crash takes only this reward. `worker`: a thread of this process; it needs less
   * memory, and a native crash is everybody's. `process` unless given.
   */
  readonly form?: 'process' | 'worker';
  /** Threads of the model runtime; one for each core unless given. */
  readonly intraOpThreads?: number;
  /** Longest time for loading and for the golden clips, in milliseconds; 600,000 unless given. */
  readonly loadWithinMs?: number;
  /**
   * Longest time for a batch, in milliseconds, until one has shown how long it takes; 600,000 unless given. From then on
   * a batch may take ten times what the slowest one took for each clip or byte, and a minute at least. A process that does
   * nothing at all is ended after some seconds (Linux).
   */
  readonly answerWithinMs?: number;
  /** Whether golden clips are checked; true unless given. Only what records them anew does without. */
  readonly checkGolden?: boolean;
}

const longestMs = 600_000;
/** What a batch may take however small it is, in milliseconds. */
const leastAnswerMs = 60_000;
/** How many times longer than the slowest one before it. */
const patience = 10;
/** Hosts are looked after so often, in milliseconds. */
const lookEveryMs = 500;
/** Looks in a row that find a host with work and without any progress, before it is ended. */
const stoodStill = 4;

/** How long a closing process may take to finish its batch before it is ended by force, in milliseconds. */
const closeDeadlineMs = 10_000;

/** One end of a channel to a host. */
interface Channel {
  send(request: HostRequest): void;
  /** Ends the host at once, where that is possible. */
  kill(): void;
  /** What the host does; undefined where nobody can tell. */
  progress(): Promise<Progress | undefined>;
}

/** What a channel tells; `how` completes the sentence "the reward ...". */
interface ChannelEvents {
  reply(reply: HostReply): void;
  exit(how: string): void;
}

/**
 * Loads the models of a definition off the caller's thread, and scores its golden clips.
 *
 * @throws PlumbError NOT_FOUND or DATA_LOSS for a file that is missing, has another hash or cannot be loaded;
 *   FAILED_PRECONDITION, reason REWARD_GOLDEN_MISMATCH, for a golden clip with another value, and for kind ai-feedback, which
 *   only a judge can score; UNAVAILABLE when the host does not start, or does not get ready in time
 */
export async function openReward(
  located: LocatedDefinition,
  options: OpenRewardOptions = {},
): Promise<Reward> {
  const { form = 'process', intraOpThreads = availableParallelism(), checkGolden = true } = options;
  const { loadWithinMs = longestMs, answerWithinMs = longestMs } = options;
  const start = form === 'process' ? forkHost : startHostThread;
  const reward = new HostedReward(
    located,
    (events) => start({ located, intraOpThreads }, events),
    answerWithinMs,
  );
  const late = setTimeout(() => reward.giveUp(`was not ready within ${loadWithinMs} ms`), loadWithinMs);
  try {
    await reward.ready;
    if (checkGolden) await checkGoldenClips(located, (inputs) => reward.score(inputs));
  } catch (error) {
    await reward.close();
    throw error;
  } finally {
    clearTimeout(late);
  }
  return reward;
}

function forkHost(options: HostOptions, events: ChannelEvents): Channel {
  const child = fork(fileURLToPath(new URL('host-process.ts', import.meta.url)), [JSON.stringify(options)], {
    serialization: 'advanced',
    // Standard output belongs to the service, which prints one line on it.
    stdio: ['ignore', 2, 2, 'ipc'],
  });
  child.on('message', (reply: HostReply) => {
    events.reply(reply);
  });
  child.on('error', (error) => {
    events.exit(`failed: ${error.message}`);
  });
  child.once('exit', (code, signal) => {
    events.exit(
      signal === null
        ? `process ended with code ${code}`
        : `process was killed by ${signal}; if that is SIGKILL, the machine may have run out of memory`,
    );
  });
  return {
    send(request) {
      // An error here means that the process is gone, which `exit` reports.
      if (child.connected) child.send(request, () => undefined);
    },
    kill: () => child.kill('SIGKILL'),
    progress: async () => (child.pid === undefined ? undefined : progressOf(child.pid)),
  };
}

function startHostThread(options: HostOptions, events: ChannelEvents): Channel {
  const worker = new Worker(new URL('host-thread.ts', import.meta.url), { workerData: options });
  worker.on('message', (reply: HostReply) => {
    events.reply(reply);
  });
  worker.on('error', (error: unknown) => {
    events.exit(`thread failed: ${error instanceof Error ? error.message : String(error)}`);
  });
  worker.once('exit', (code) => {
    events.exit(`thread ended with code ${code}`);
  });
  return {
    // oxlint-disable-next-line unicorn/require-post-message-target-origin -- that is for windows
    send: (request) => worker.postMessage(request),
    // Native work cannot be interrupted within a process; a thread in it ends after it.
    kill: () => void worker.terminate(),
    progress: async () => undefined,
  };
}

/** A batch that was sent and not answered. */
interface Pending {
  readonly settle: PromiseWithResolvers<readonly RewardResult[]>;
  readonly items: number;
  /** Of its decoded clips. */
  readonly bytes: number;
}

/** The caller's side of a reward in another thread or process. It ends a host that gives no answer. */
class HostedReward implements Reward {
  readonly definition;
  readonly definitionHash: string;
  readonly weightsHash: string;
  readonly ready: Promise<void>;
  readonly ended: Promise<PlumbError | undefined>;
  readonly #channel: Channel;
  /** In the order in which the host works on them. */
  readonly #pending = new Map<number, Pending>();
  readonly #ready = Promise.withResolvers<void>();
  readonly #ended = Promise.withResolvers<PlumbError | undefined>();
  #nextId = 0;
  #closing = false;
  #failure: PlumbError | undefined;
  /** When the host began with the oldest pending batch. */
  #since = 0;
  /** The most that a batch took, in milliseconds; undefined before the first. */
  #slowest: { readonly item: number; readonly byte: number } | undefined;
  #watchdog: NodeJS.Timeout | undefined;
  #progress: Progress | undefined;
  /** Looks in a row that found no progress. */
  #stood = 0;
  readonly #answerWithinMs: number;

  constructor(
    { definition }: LocatedDefinition,
    connect: (events: ChannelEvents) => Channel,
    answerWithinMs: number,
  ) {
    this.#answerWithinMs = answerWithinMs;
    this.definition = definition;
    this.definitionHash = definitionHash(definition);
    this.weightsHash = weightsHash(definition);
    this.ready = this.#ready.promise;
    this.ended = this.#ended.promise;
    this.#channel = connect({
      reply: (reply) => {
        this.#onReply(reply);
      },
      exit: (how) => {
        this.#onExit(how);
      },
    });
  }

  score(inputs: Parameters<Reward['score']>[0]): Promise<readonly RewardResult[]> {
    if (this.#failure !== undefined) return Promise.reject(this.#failure);
    const id = this.#nextId;
    this.#nextId += 1;
    const settle = Promise.withResolvers<readonly RewardResult[]>();
    const bytes = inputs.reduce((sum, { clip }) => sum + clip.data.length, 0);
    if (this.#pending.size === 0) this.#since = performance.now();
    this.#pending.set(id, { settle, items: inputs.length, bytes });
    this.#channel.send({ kind: 'score', id, inputs });
    return settle.promise;
  }

  /** Ends the host, which has not done what it should; `how` completes the sentence "its host ...". */
  giveUp(how: string): void {
    this.#channel.kill();
    this.#onExit(`host ${how} and was ended`);
  }

  async close(): Promise<void> {
    if (!this.#closing) {
      this.#closing = true;
      clearTimeout(this.#watchdog);
      this.#failure ??= unavailable(`reward '${this.definition.name}' is closed`, {
        reason: 'SHUTTING_DOWN',
      });
      this.#rejectAll(cancelled('the reward was closed before the batch had been scored'));
      this.#channel.send({ kind: 'close' });
    }
    const timer = setTimeout(() => {
      this.#channel.kill();
    }, closeDeadlineMs);
    await this.ended;
    clearTimeout(timer);
  }

  #onReply(reply: HostReply): void {
    switch (reply.kind) {
      case 'ready':
        this.#ready.resolve();
        this.#watch();
        return;
      case 'failed':
        this.#ready.reject(fromWireError(reply.error));
        return;
      case 'results':
        this.#take(reply.id)?.resolve(reply.results.map(fromWire));
        return;
      case 'error':
        this.#take(reply.id)?.reject(fromWireError(reply.error));
    }
  }

  #take(id: number): Pending['settle'] | undefined {
    const pending = this.#pending.get(id);
    this.#pending.delete(id);
    const now = performance.now();
    if (pending !== undefined && pending.items > 0) {
      const { item = 0, byte = 0 } = this.#slowest ?? {};
      const took = now - this.#since;
      this.#slowest = {
        item: Math.max(item, took / pending.items),
        byte: Math.max(byte, took / Math.max(1, pending.bytes)),
      };
    }
    this.#since = now;
    return pending?.settle;
  }

  /** Looks after the host from now on. */
  #watch(): void {
    this.#watchdog = setTimeout(() => void this.#look(), lookEveryMs).unref();
  }

  /**
   * A host that owes an answer and does nothing is ended at once; one that works may take its time, and one that waits for a
   * processor on a busy machine too. A host without work is asked for a sign of life: a batch of nothing.
   */
  async #look(): Promise<void> {
    const [oldest] = this.#pending.values();
    const waited = performance.now() - this.#since;
    if (oldest === undefined) {
      // How it ends, `ended` tells.
      this.score([]).catch(() => undefined);
      this.#stood = 0;
    } else if (waited > this.#limitMs(oldest)) {
      this.giveUp(`gave no answer for ${Math.round(waited)} ms`);
    } else {
      const before = this.#progress;
      this.#progress = await this.#channel.progress();
      const still = this.#progress?.busy === false && this.#progress.ticks === before?.ticks;
      this.#stood = still && this.#pending.values().next().value === oldest ? this.#stood + 1 : 0;
      if (this.#stood === stoodStill)
        this.giveUp(`gave no answer and did nothing for ${Math.round(waited)} ms`);
    }
    if (this.#failure === undefined) this.#watch();
  }

  #limitMs({ items, bytes }: Pending): number {
    if (this.#slowest === undefined) return this.#answerWithinMs;
    const { item, byte } = this.#slowest;
    return Math.max(leastAnswerMs, patience * Math.max(item * items, byte * bytes));
  }

  #onExit(how: string): void {
    clearTimeout(this.#watchdog);
    const error = unavailable(`reward '${this.definition.name}': its ${how}`, { reason: 'ENGINE_FAILED' });
    this.#failure ??= error;
    this.#ready.reject(error);
    this.#rejectAll(error);
    this.#ended.resolve(this.#closing ? undefined : error);
  }

  #rejectAll(error: PlumbError): void {
    for (const { settle } of this.#pending.values()) settle.reject(error);
    this.#pending.clear();
  }
}
