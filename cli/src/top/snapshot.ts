import { readPrometheusText } from './prometheus-text.ts';
import type { Reading } from './prometheus-text.ts';

/** A metrics endpoint. */
export interface Source {
  readonly name: string;
  /** host:port; undefined while the process has none. */
  readonly metrics: string | undefined;
  readonly state?: string;
  readonly restarts?: number;
}

/** What all endpoints said at one moment. */
export interface Snapshot {
  readonly atMs: number;
  readonly processes: readonly (Source & {
    readonly answered: boolean;
    readonly readings: readonly Reading[];
  })[];
}

/** What is shown. Rates are per second between two snapshots; undefined where there is nothing to tell. */
export interface TopView {
  readonly processes: readonly {
    readonly name: string;
    readonly state: string;
    readonly restarts: number | undefined;
    readonly memoryBytes: number | undefined;
    readonly engineBytes: number | undefined;
  }[];
  readonly queues: readonly {
    readonly consumer: string;
    readonly waiting: number;
    readonly inWork: number;
    readonly oldestSeconds: number | undefined;
    readonly perSecond: number | undefined;
  }[];
  readonly rates: Readonly<Record<(typeof rateNames)[number], number | undefined>>;
  readonly training: { readonly loss: number | undefined; readonly stepsPerSecond: number | undefined };
  /** `cause` as the loop names it, for example endpoint-silent. */
  readonly stalls: readonly { readonly stage: string; readonly cause: string; readonly runs: number }[];
  readonly totals: Readonly<Record<(typeof totalNames)[number], number>>;
}

const rateNames = ['clips', 'scores', 'verdicts', 'judgeTokens', 'calls'] as const;
const totalNames = ['deadLetters', 'redeliveries', 'judgeFaults', 'lostSpans', 'failedSamples'] as const;

// An endpoint on this machine answers in milliseconds; one that does not is shown as such.
const timeoutMs = 2000;

/** Asks every endpoint at once. One that does not answer is part of the picture. */
export async function takeSnapshot(sources: readonly Source[]): Promise<Snapshot> {
  const processes = await Promise.all(
    sources.map(async (source) => {
      if (source.metrics === undefined) return { ...source, answered: false, readings: [] };
      try {
        const response = await fetch(`http://${source.metrics}/metrics`, {
          signal: AbortSignal.timeout(timeoutMs),
        });
        return { ...source, answered: response.ok, readings: readPrometheusText(await response.text()) };
      } catch {
        // Down, or starting: its row says so.
        return { ...source, answered: false, readings: [] };
      }
    }),
  );
  return { atMs: performance.now(), processes };
}

/** The view of the newer snapshot, with rates since the older one. */
export function viewOf(now: Snapshot, before: Snapshot | undefined): TopView {
  const readings = now.processes.flatMap((process) => process.readings);
  const earlier = before?.processes.flatMap((process) => process.readings);
  const seconds = before === undefined ? 0 : (now.atMs - before.atMs) / 1000;
  const rate = (name: string, labels: Readonly<Record<string, string>> = {}): number | undefined => {
    const current = sum(readings, name, labels);
    if (earlier === undefined || seconds <= 0 || current === undefined) return undefined;
    // A process that was started again counts from 0.
    return Math.max(0, current - (sum(earlier, name, labels) ?? 0)) / seconds;
  };
  const consumers = new Map<string, string>();
  for (const { name, labels } of readings) {
    if (name !== 'plumb_queue_depth') continue;
    consumers.set(labels['messaging_consumer_group_name'] ?? '', labels['messaging_destination_name'] ?? '');
  }
  return {
    processes: now.processes.map(({ name, state, restarts, metrics, answered, readings: own }) => ({
      name,
      state: answered || metrics === undefined ? (state ?? (answered ? 'ready' : '')) : 'no answer',
      restarts,
      memoryBytes: sum(own, 'process_memory_usage'),
      engineBytes: sum(own, 'plumb_engine_memory_usage'),
    })),
    queues: [...consumers].map(([consumer, destination]) => ({
      consumer,
      waiting: sum(readings, 'plumb_queue_depth', { messaging_consumer_group_name: consumer }) ?? 0,
      inWork: sum(readings, 'plumb_queue_unsettled', { messaging_consumer_group_name: consumer }) ?? 0,
      oldestSeconds: sum(readings, 'plumb_queue_age', { messaging_consumer_group_name: consumer }),
      perSecond: rate('messaging_process_duration_count', { messaging_destination_name: destination }),
    })),
    rates: {
      clips: rate('plumb_generator_clips_total'),
      scores: rate('plumb_reward_outcomes_total'),
      verdicts: rate('plumb_judge_verdicts_total'),
      judgeTokens: rate('gen_ai_client_token_usage_sum'),
      calls: rate('rpc_server_call_duration_count'),
    },
    training: {
      loss: sum(readings, 'plumb_trainer_loss'),
      stepsPerSecond: rate('plumb_trainer_steps_total'),
    },
    stalls: readings
      .filter(({ name, value }) => name === 'plumb_loop_stalled_stages' && value > 0)
      .map(({ labels, value }) => ({
        stage: labels['plumb_stage'] ?? '',
        cause: labels['plumb_stall_kind'] ?? '',
        runs: value,
      })),
    totals: {
      deadLetters: sum(readings, 'plumb_queue_dead_letters_stored') ?? 0,
      redeliveries: sum(readings, 'plumb_queue_redeliveries_total') ?? 0,
      judgeFaults: sum(readings, 'plumb_judge_faults_total') ?? 0,
      lostSpans: sum(readings, 'plumb_telemetry_lost_spans_total') ?? 0,
      failedSamples: sum(readings, 'plumb_loop_samples_total', { plumb_sample_event: 'failed' }) ?? 0,
    },
  };
}

function sum(
  readings: readonly Reading[],
  wanted: string,
  labels: Readonly<Record<string, string>> = {},
): number | undefined {
  const found = readings.filter(
    (reading) =>
      reading.name === wanted &&
      Object.entries(labels).every(([key, value]) => reading.labels[key] === value),
  );
  return found.length === 0 ? undefined : found.reduce((total, { value }) => total + value, 0);
}
