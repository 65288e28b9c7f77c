/** The one interface of every reward. */

import type { Context } from '@opentelemetry/api';
import type { Clip } from '@plumb/media';
import type { Prompt } from '@plumb/proto/plumb/prompts/v1/prompt_pb.js';
import type { Video } from '@plumb/proto/plumb/media/v1/video_pb.js';

/** Kinds of rewards, as in reward.proto. */
export type RewardKind = 'clip-score' | 'preference' | 'optical-flow' | 'ai-feedback' | 'guard';

/** What is known of a reward before anything is scored. */
export interface RewardInfo {
  readonly name: string;
  /** One sentence for people. */
  readonly description: string;
  /** Version of the definition. */
  readonly version: string;
  /** SHA-256 of the whole definition. */
  readonly definitionHash: string;
  readonly kind: RewardKind;
  /** SHA-256 over everything that a value depends on besides the clip and the prompt; empty while it is not known. */
  readonly weightsHash: string;
  /** Smallest and largest value that can occur; undefined where there is no bound. */
  readonly minimum: number | undefined;
  readonly maximum: number | undefined;
  readonly higherIsBetter: boolean;
  /** Frames that are looked at; 0 is all of them. */
  readonly framesSampled: number;
  /** Frames a second that are expected; 0 is any. */
  readonly fpsExpected: number;
  /** The judge that is asked; absent for a reward that asks none. */
  readonly judge?: string;
}

/** Whether a reward can score at the moment; the reason is for people. */
export type RewardState = { readonly serving: true } | { readonly serving: false; readonly reason: string };

/** How a reward likes its work. */
export interface Batching {
  /** Most items that are scored together. */
  readonly largestBatch: number;
  /** How long an item may wait for others to join it, in milliseconds. */
  readonly largestDelayMs: number;
  /** Batches that are scored at a time. */
  readonly concurrentBatches: number;
  /** Most items that wait; one more gets RESOURCE_EXHAUSTED. */
  readonly largestQueue: number;
}

/** An item that is ready for a batch, and what it holds until it is disposed of. */
export interface PreparedItem extends Disposable {
  readonly item: ScoringItem;
}

/** One clip to score. */
export interface ScoringItem {
  readonly video: Video;
  readonly prompt: Prompt;
  /** SHA-256 of the encoded clip. */
  readonly clipHash: string;
  /** Whose budget a judge's call counts against; empty outside of a run. */
  readonly runId: string;
  /** Nothing learns from the score, so that a held-out judge may be asked; false unless the caller says so. */
  readonly evaluation?: boolean;
  /** The decoded clip, fetched if it is not here. Whoever needs it holds on to it. @throws the reason of the signal */
  clip(): Promise<Clip>;
  /** Bytes that the decoded clip takes; undefined where its file will say. */
  readonly clipBytes: number | undefined;
  /** Aborts when nobody waits for this item any more: deadline or cancellation. */
  readonly signal: AbortSignal;
  /** When the last one who waits stops waiting; undefined if it waits for ever. */
  readonly deadline: Date | undefined;
  /** The trace of whoever wants the score; a batch starts in that of somebody else. */
  readonly trace?: Context;
}

/** A raw value with what goes with it. Shaping is the trainer's business. */
export interface ScoreValue {
  readonly value: number;
  /** Finer numbers beside the value. */
  readonly details?: Readonly<Record<string, number>>;
  /** A judge's answer in words. */
  readonly reason?: string;
  /** Why a judge rejected; empty otherwise. */
  readonly failureMode?: string;
  /** Guards by name; true is passed. */
  readonly checks?: Readonly<Record<string, boolean>>;
  /** Version and hash that made this value, where the reward learns them with it. */
  readonly version?: string;
  readonly weightsHash?: string;
  /** SHA-256 of the rubric that a judge's value follows. */
  readonly rubricHash?: string;
  /** The value came from a cache further down. */
  readonly cached?: boolean;
}

/** A value or what was thrown in its place. */
export type ItemResult = { readonly score: ScoreValue } | { readonly error: unknown };

/** A reward. */
export interface RewardScorer {
  /** May change while running, for example when a judge gets another rubric. */
  readonly info: RewardInfo;
  readonly batching: Batching;
  /** Values are kept in the score cache. False where whoever makes them keeps them. */
  readonly cacheable: boolean;
  state(): RewardState;
  /** Does for an item what may be slow and needs nothing of the model; absent where there is nothing to do. */
  prepare?(item: ScoringItem): Promise<PreparedItem>;
  /**
   * Scores a batch: one result for each item, in their order. A throw fails all of them, so a scorer throws for what
   * concerns all and returns an error for what concerns one.
   */
  score(items: readonly ScoringItem[]): Promise<readonly ItemResult[]>;
}

/** Scores items one by one: for rewards that gain nothing from batches. */
export async function scoreEach(
  items: readonly ScoringItem[],
  score: (item: ScoringItem) => Promise<ScoreValue>,
): Promise<readonly ItemResult[]> {
  return Promise.all(
    items.map(async (item): Promise<ItemResult> => {
      try {
        return { score: await score(item) };
      } catch (error) {
        return { error };
      }
    }),
  );
}
