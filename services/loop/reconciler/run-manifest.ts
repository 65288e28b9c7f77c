import { internal } from '@plumb/kit/errors';
import { artifactFromText, artifactMessage, artifactToText } from '../adapters/messages.ts';
import { latestOverride } from '../adapters/ledger/overrides.ts';
import { listIterations } from '../adapters/ledger/runs.ts';
import { countSamples } from '../adapters/ledger/samples.ts';
import { loadIteration } from '../adapters/loaded-iteration.ts';
import type { LoadedIteration } from '../adapters/loaded-iteration.ts';
import { canonicalJson } from '../domain/canonical-json.ts';
import type { Group } from '../domain/groups.ts';
import { runManifest, runManifestMediaType } from '../domain/run-manifest.ts';
import type { ManifestIteration } from '../domain/run-manifest.ts';
import type { LoopContext } from './context.ts';

/** Writes the manifest of a run whose iterations are all done; gives its artifact as ledger text. */
export async function writeRunManifest(loop: LoopContext, last: LoadedIteration): Promise<string> {
  const { run, spec } = last;
  const counts = await countSamples(loop.database, run.id);
  const iterations: ManifestIteration[] = [];
  for (const { iteration } of await listIterations(loop.database, run.id)) {
    const loaded = await loadIteration(loop.database, run, spec, iteration);
    const { model, candidate, dataSet, job, evaluation, decision } = loaded;
    if (
      candidate === undefined ||
      dataSet === undefined ||
      evaluation === undefined ||
      decision === undefined
    ) {
      throw internal(new Error(`iteration ${iteration} of ${run.id} is not complete`));
    }
    const override = await latestOverride(loop.database, { runId: run.id, iteration });
    const countsOf = (group: Group) => {
      const found = counts.find((count) => count.iteration === iteration && count.group === group);
      return { samples: found?.rows ?? 0, errors: found?.failed ?? 0, accepted: found?.accepted ?? 0 };
    };
    iterations.push({
      iteration,
      before: { version: model.version, sha256: model.weights?.sha256 ?? '' },
      after: { version: candidate.version, sha256: candidate.weights?.sha256 ?? '' },
      dataSet: artifactFromText(dataSet.manifest).sha256,
      job: job?.job.manifest?.sha256 ?? '',
      evaluation: artifactFromText(evaluation.manifest).sha256,
      promoted: override?.promoted ?? decision.promoted,
      counts: { train: countsOf('train'), before: countsOf('before'), after: countsOf('after') },
    });
  }
  const manifest = runManifest({ runId: run.id, idempotencyKey: run.idempotency_key, spec, iterations });
  const stored = await loop.artifacts.put(canonicalJson(manifest), { mediaType: runManifestMediaType });
  return artifactToText(artifactMessage(stored, runManifestMediaType));
}
