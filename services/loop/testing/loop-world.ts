import assert from 'node:assert/strict';
import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import path from 'node:path';
import type { PlumbError } from '@plumb/kit/errors';
import { createClient } from '@plumb/kit/rpc';
import type { RpcClient } from '@plumb/kit/rpc';
import { startNatsServer } from '@plumb/kit/testing/nats-server';
import { openFolderStore } from '@plumb/media';
import { LabelService } from '@plumb/proto/plumb/loop/v1/label_pb.js';
import { LoopService, RunState } from '@plumb/proto/plumb/loop/v1/loop_pb.js';
import type { Run, RunSpec, Sample } from '@plumb/proto/plumb/loop/v1/loop_pb.js';
import { ModelRegistryService } from '@plumb/proto/plumb/loop/v1/model_registry_pb.js';
import { startLoop } from './loop-process.ts';
import type { LoopProcess } from './loop-process.ts';
import { startPeers } from './protocol-peers.ts';
import type { ProtocolPeers } from './protocol-peers.ts';
import { modelFixture, specFixture } from './run-spec-fixture.ts';

/** A loop service with everything around it. */
export interface World {
  readonly loop: LoopProcess;
  readonly peers: ProtocolPeers;
  readonly client: RpcClient<typeof LoopService>;
  readonly registry: RpcClient<typeof ModelRegistryService>;
  readonly labels: RpcClient<typeof LabelService>;
  readonly artifacts: string;
  readonly spec: RunSpec;
  stop(): Promise<void>;
}

/** Starts a broker, the peers of the protocol and the loop service, each for this test alone. */
export async function startWorld(environment: Readonly<Record<string, string>> = {}): Promise<World> {
  const folder = await mkdtemp(path.join(tmpdir(), 'plumb-loop-'));
  const nats = await startNatsServer();
  const artifacts = path.join(folder, 'artifacts');
  const peers = await startPeers({ natsUrl: nats.url, artifacts });
  const store = await openFolderStore(artifacts);
  const weights = await putWeights(store);
  const loop = await startLoop({
    PLUMB_NATS_URL: nats.url,
    PLUMB_ARTIFACTS: artifacts,
    PLUMB_DATABASE_URL: `pglite:${path.join(folder, 'ledger')}`,
    PLUMB_TRAINER_ADDRESS: peers.trainerAddress,
    PLUMB_SPAN_DIRECTORY: path.join(folder, 'spans'),
    ...environment,
  });
  const client = createClient(LoopService, loop.address);
  const registry = createClient(ModelRegistryService, loop.address);
  const labels = createClient(LabelService, loop.address);
  return {
    loop,
    peers,
    client,
    registry,
    labels,
    artifacts,
    spec: specFixture({ train: 6, heldout: 6, samplesPerPrompt: 4, base: modelFixture(weights) }),
    async stop() {
      client.close();
      registry.close();
      labels.close();
      const exitCode = await loop.stop();
      await peers.stop();
      await nats.stop();
      await rm(folder, { recursive: true, force: true });
      assert.equal(exitCode, 0);
    },
  };
}

/** Weights whose hash begins with an `a`, by which the peers know the base model. */
async function putWeights(store: Awaited<ReturnType<typeof openFolderStore>>): Promise<string> {
  for (let salt = 0; ; salt += 1) {
    const { sha256 } = await store.put(Buffer.from(`weights ${salt}`), {
      mediaType: 'application/octet-stream',
    });
    if (sha256.startsWith('a')) return sha256;
  }
}

/** Watches a run until it is in a state, through restarts of the service. */
export async function until(world: World, id: string, done: (run: Run) => boolean): Promise<Run> {
  for (;;) {
    try {
      for await (const { run } of world.client.watchRun({ id }))
        if (run !== undefined && done(run)) return run;
    } catch (error) {
      if (!(error as PlumbError).retryable && (error as PlumbError).code !== 'UNKNOWN') throw error;
    }
    const { run } = await world.client.getRun({ id }, patiently);
    if (run !== undefined && done(run)) return run;
  }
}

/** A killed service may take a while to come back on a busy machine. */
export const patiently = { waitForReady: true, deadlineMs: 120_000 };

export const hasEnded = ({ state }: Run): boolean => state !== RunState.RUNNING;

export async function samplesOf(world: World, runId: string): Promise<Sample[]> {
  const samples: Sample[] = [];
  let pageToken = '';
  do {
    const page = await world.client.listSamples({ runId, pageSize: 17, pageToken });
    samples.push(...page.samples);
    pageToken = page.nextPageToken;
  } while (pageToken !== '');
  return samples;
}
