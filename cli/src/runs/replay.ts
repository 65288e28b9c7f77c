import { rm } from 'node:fs/promises';
import { resolve } from 'node:path';
import { fromJson } from '@bufbuild/protobuf';
import { failedPrecondition, invalidArgument } from '@plumb/kit/errors';
import { RunSpecSchema, RunState } from '@plumb/proto/plumb/loop/v1/loop_pb.js';
import { openProgressDisplay } from '../progress/progress-display.ts';
import type { ProgressDisplay } from '../progress/progress-display.ts';
import { existingStateFolder } from '../state/state-folder.ts';
import { withSystem } from '../with-system.ts';
import { copyModel } from './copy-artifact.ts';
import { openLoop } from './loop-client.ts';
import { registerBase, startRun } from './make-run.ts';
import { replayEvaluation } from './replay-evaluation.ts';
import { differencesOf, parseRunManifest, readManifestBytes, readRunManifest } from './run-manifest-file.ts';
import type { RunManifest } from './run-manifest-file.ts';
import { unfinished, watchRun } from './watch-run.ts';

/** Options of `plumb run replay`: it starts a system of its own, and so has no address. */
export interface ReplayOptions {
  /** State folder of the original. */
  readonly state: string;
  /** State folder of the repetition. */
  readonly work: string;
  readonly json?: true;
}

/** Exit code of a repetition that came out otherwise. */
const differsExitCode = 4;

/**
 * Repeats a run, or an evaluation, in a state folder of its own, and says what differs. Nothing is taken over but the weights
 * that it begins with.
 * @returns the exit code
 */
export async function replay(name: string, options: ReplayOptions): Promise<number> {
  const original =
    (await existingStateFolder(options.state))?.entry('artifacts') ?? process.env['PLUMB_ARTIFACTS'];
  const { bytes } = await readManifestBytes(name, original);
  const kind = kindOf(bytes);
  const display = openProgressDisplay(process.stderr);
  const work = resolve(options.work);
  if (work === resolve(options.state)) {
    throw invalidArgument('--work', 'is the state folder of the original; name another, it is removed first');
  }
  if ((await existingStateFolder(work)) !== undefined) await rm(work, { recursive: true });
  let differences: readonly string[] | undefined;
  const exitCode = await withSystem(
    {
      state: work,
      fresh: true,
      ports: {},
      command: 'replay',
      notice: display.notice,
      stopNotice: 'Stopping in order; Ctrl-C again ends at once.',
    },
    async () => {},
    async (system, _prepared, signal) => {
      const folders = { original, repeated: system.artifactFolder };
      differences =
        kind === 'plumb.evaluation'
          ? await replayEvaluation(bytes, { ...folders, addresses: system.addresses, display, signal })
          : await replayRun(parseRunManifest(bytes, name), {
              ...folders,
              loopAddress: system.addresses.loop,
              display,
              signal,
            });
    },
  ).finally(() => {
    display.close();
  });
  if (differences === undefined) return exitCode;
  const text = differences.length === 0 ? 'Nothing differs.' : differences.join('\n');
  process.stdout.write(`${options.json === true ? JSON.stringify({ differences }) : text}\n`);
  return exitCode !== 0 || differences.length === 0 ? exitCode : differsExitCode;
}

function kindOf(bytes: Uint8Array): unknown {
  let value: unknown;
  try {
    value = JSON.parse(new TextDecoder().decode(bytes));
  } catch (error) {
    throw invalidArgument('manifest', 'is no JSON', { cause: error });
  }
  return typeof value === 'object' && value !== null && 'kind' in value ? value.kind : undefined;
}

async function replayRun(
  manifest: RunManifest,
  options: {
    readonly original: string | undefined;
    readonly repeated: string;
    readonly loopAddress: string;
    readonly display: ProgressDisplay;
    readonly signal: AbortSignal;
  },
): Promise<string[]> {
  const { original, repeated, display, signal } = options;
  const spec = fromJson(RunSpecSchema, manifest.spec);
  if (spec.labels?.use === 'override') {
    throw failedPrecondition(
      'the run trained on the verdicts of people (labels.use: override), which nobody gives again in another folder; ' +
        'its data sets hold them, so repeat its training with `plumb train`, and its evaluations with `plumb run replay`',
    );
  }
  const { base } = spec;
  if (base?.weights === undefined) throw invalidArgument('manifest', 'its spec has no base with weights');
  const { sha256, mediaType } = base.weights;
  await copyModel({ version: base.version, sha256, mediaType }, original, repeated);
  const clients = await openLoop({ address: options.loopAddress });
  try {
    await registerBase(clients.registry, base, signal);
    // The same key gives the same run id, and so the same sample ids and the same order of the data.
    const key = manifest.idempotencyKey;
    const started = await startRun(clients.loop, spec, { key, notice: display.notice, signal });
    const run = await watchRun(clients.loop, started, display, signal);
    if (run.state !== RunState.SUCCEEDED) {
      throw unfinished(run, { resume: 'nothing', startOver: 'the same command' });
    }
    const repetition = await readRunManifest(run, repeated);
    return await differencesOf(manifest, repetition.manifest, original, repeated);
  } finally {
    clients.close();
  }
}
