import { setTimeout as delay } from 'node:timers/promises';
import { connect } from '@plumb/client';
import type { ConnectOptions } from '@plumb/client';
import { PlumbError } from '@plumb/kit/errors';
import type { RpcClient } from '@plumb/kit/rpc';
import { LoopService, RunState } from '@plumb/proto/plumb/loop/v1/loop_pb.js';
import type { Run, Sample } from '@plumb/proto/plumb/loop/v1/loop_pb.js';
import { LabelService } from '@plumb/proto/plumb/loop/v1/label_pb.js';
import { ModelRegistryService } from '@plumb/proto/plumb/loop/v1/model_registry_pb.js';

export type LoopClient = RpcClient<typeof LoopService>;
export type RegistryClient = RpcClient<typeof ModelRegistryService>;
export type LabelClient = RpcClient<typeof LabelService>;

/** Pause before a call is made again that found the service away, in milliseconds. */
const retryPauseMs = 300;
const pageSize = 200;

/**
 * Clients of the loop process; they wait while it restarts.
 * @throws PlumbError CONFIGURATION_INVALID when a certificate or token cannot be used
 */
export async function openLoop(
  where: Pick<ConnectOptions, 'address' | 'ca' | 'cert' | 'key' | 'tokenFile'>,
): Promise<{ loop: LoopClient; registry: RegistryClient; labels: LabelClient; close(): void }> {
  const options = { ...where, waitForReady: true, deadlineMs: 60_000 };
  const loop = await connect(LoopService, options);
  const registry = await connect(ModelRegistryService, options);
  const labels = await connect(LabelService, options);
  return {
    loop: loop.client,
    registry: registry.client,
    labels: labels.client,
    close() {
      loop.close();
      registry.close();
      labels.close();
    },
  };
}

/**
 * Makes a call again for as long as the service is away. Only for calls that are harmless twice: reads, and those with
 * an idempotency key.
 */
export async function persistently<T>(call: () => Promise<T>, signal: AbortSignal): Promise<T> {
  for (;;) {
    try {
      return await call();
    } catch (error) {
      if (signal.aborted || !PlumbError.from(error).retryable) throw error;
      await delay(retryPauseMs, undefined, { signal });
    }
  }
}

/**
 * Follows a run, through restarts of the loop, until it has ended or paused.
 * @returns the run as it was last seen
 */
export async function followRun(
  loop: LoopClient,
  id: string,
  onChange: (run: Run) => void,
  signal: AbortSignal,
): Promise<Run> {
  for (;;) {
    let latest: Run | undefined;
    try {
      for await (const { run } of loop.watchRun({ id }, { signal })) {
        if (run === undefined) continue;
        latest = run;
        onChange(run);
        if (run.state !== RunState.RUNNING) return run;
      }
    } catch (error) {
      // A stream is cut in several ways when its server is killed; the question below tells whether it is back.
      if (signal.aborted || isAboutTheRequest(PlumbError.from(error))) throw error;
    }
    if (latest === undefined || latest.state === RunState.RUNNING) {
      await delay(retryPauseMs, undefined, { signal });
      const { run } = await persistently(() => loop.getRun({ id }, { signal }), signal);
      if (run !== undefined && run.state !== RunState.RUNNING) {
        onChange(run);
        return run;
      }
    }
  }
}

/** True for answers that would be the same after a restart. */
export function isAboutTheRequest({ code }: PlumbError): boolean {
  return (
    code === 'NOT_FOUND' ||
    code === 'INVALID_ARGUMENT' ||
    code === 'UNIMPLEMENTED' ||
    code === 'PERMISSION_DENIED'
  );
}

/** All samples of a run, page by page. */
export async function allSamples(loop: LoopClient, runId: string, signal: AbortSignal): Promise<Sample[]> {
  const samples: Sample[] = [];
  let pageToken = '';
  do {
    const token = pageToken;
    const page = await persistently(
      () => loop.listSamples({ runId, pageSize, pageToken: token }, { signal }),
      signal,
    );
    samples.push(...page.samples);
    pageToken = page.nextPageToken;
  } while (pageToken !== '');
  return samples;
}
