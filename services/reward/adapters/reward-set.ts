/** The rewards of a folder of definitions, kept as the folder says while the service runs. */

import { access } from 'node:fs/promises';
import { join } from 'node:path';
import { setTimeout as delay } from 'node:timers/promises';
import { PlumbError, describeError, invalidArgument } from '@plumb/kit/errors';
import { logger } from '@plumb/kit/telemetry';
import { definitionHash, readRewardDefinitions } from '@plumb/rewards';
import type { LocatedDefinition } from '@plumb/rewards';
import type { RewardScorer } from '../domain/reward-scorer.ts';
import type { Scoring } from '../domain/scoring.ts';

/** A scorer that was opened and has to be closed. */
export interface ManagedScorer extends RewardScorer {
  /** Resolves when it can score for the first time. @throws what keeps it from it at the first try */
  ready(): Promise<void>;
  close(): Promise<void>;
}

/** What a look at the folder changed; names of rewards, of candidates as candidates/<name>. */
export interface RewardChanges {
  readonly added: readonly string[];
  readonly exchanged: readonly string[];
  readonly removed: readonly string[];
  /** What is wrong, by name; what was there before goes on. */
  readonly refused: ReadonlyMap<string, PlumbError>;
}

/** Settings of the set. */
export interface RewardSetOptions {
  /** Folder of the definitions; its folder candidates holds those that score in the shadow. */
  readonly folder: string;
  /** Time between two looks at the folder, in milliseconds. */
  readonly everyMs: number;
  /** Longest wait at the start for all rewards to be loaded, in milliseconds. */
  readonly loadWithinMs: number;
  /** Opens a reward of whatever kind. */
  readonly open: (located: LocatedDefinition) => ManagedScorer;
  readonly signal: AbortSignal;
}

/** The set. */
export interface RewardSet {
  /** Looks at the folder now. @throws PlumbError INVALID_ARGUMENT when a definition cannot be read */
  reload(): Promise<RewardChanges>;
  close(): Promise<void>;
}

interface Member {
  readonly hash: string;
  readonly scorer: ManagedScorer;
}

/**
 * Opens every reward of the folder, and follows its changes: a new file adds a reward, a changed one exchanges it as soon
 * as the new version has given its golden clips their values, a file that is gone takes it away. The folder is read again
 * and not watched, because mounted folders (ConfigMaps, network file systems) do not tell of their changes.
 *
 * @throws PlumbError INVALID_ARGUMENT when a definition cannot be read
 */
export async function openRewardSet(scoring: Scoring, options: RewardSetOptions): Promise<RewardSet> {
  const log = logger('rewards');
  const members = new Map<string, Member>();
  const candidates = new Map<string, Member>();
  // What was refused is tried again when its definition changes, not every time.
  const refusedHashes = new Map<string, string>();
  let tail: Promise<unknown> = Promise.resolve();
  let complaint = '';

  async function read(): Promise<readonly [readonly LocatedDefinition[], readonly LocatedDefinition[]]> {
    const live = await readRewardDefinitions(options.folder);
    const folder = join(options.folder, 'candidates');
    try {
      await access(folder);
    } catch {
      return [live, []];
    }
    const shadow = await readRewardDefinitions(folder);
    for (const { definition } of shadow) {
      if (!live.some((one) => one.definition.name === definition.name)) {
        throw invalidArgument(
          `candidates/${definition.name}`,
          'is a candidate for a reward that is not there; put its definition into the folder itself',
          { reason: 'CONFIGURATION_INVALID' },
        );
      }
    }
    return [live, shadow];
  }

  async function look(): Promise<RewardChanges> {
    const [live, shadow] = await read();
    const changes = { added: [] as string[], exchanged: [] as string[], removed: [] as string[] };
    const refused = new Map<string, PlumbError>();
    const refuse = (key: string, hash: string, thrown: unknown): void => {
      const error = PlumbError.from(thrown);
      refused.set(key, error);
      refusedHashes.set(key, hash);
      log.error({ reward: key, error: describeError(error) }, 'a reward was refused; what was there goes on');
    };
    for (const located of live) {
      const { name } = located.definition;
      const hash = definitionHash(located.definition);
      const former = members.get(name);
      if (former?.hash === hash) {
        refusedHashes.delete(name);
        continue;
      }
      if (refusedHashes.get(name) === hash) continue;
      let scorer: ManagedScorer | undefined;
      try {
        scorer = options.open(located);
        // The first of its name is there from the start, and says itself that it is not serving yet.
        if (former !== undefined) await scorer.ready();
      } catch (error) {
        await scorer?.close();
        refuse(name, hash, error);
        continue;
      }
      members.set(name, { hash, scorer });
      const drained = scoring.install(scorer);
      (former === undefined ? changes.added : changes.exchanged).push(name);
      if (former !== undefined) void drained.then(() => former.scorer.close());
    }
    for (const [name, { scorer }] of members) {
      if (live.some(({ definition }) => definition.name === name)) continue;
      members.delete(name);
      changes.removed.push(name);
      void scoring.remove(name).then(() => scorer.close());
    }
    for (const located of shadow) {
      const { name } = located.definition;
      const [key, hash] = [`candidates/${name}`, definitionHash(located.definition)];
      const former = candidates.get(name);
      if (former?.hash === hash || refusedHashes.get(key) === hash) continue;
      let scorer: ManagedScorer | undefined;
      try {
        scorer = options.open(located);
        await scorer.ready();
      } catch (error) {
        await scorer?.close();
        refuse(key, hash, error);
        continue;
      }
      if (former !== undefined) void scoring.endShadow(name).then(() => former.scorer.close());
      candidates.set(name, { hash, scorer });
      scoring.shadow(scorer);
      (former === undefined ? changes.added : changes.exchanged).push(key);
    }
    for (const [name, { scorer }] of candidates) {
      if (shadow.some(({ definition }) => definition.name === name)) continue;
      candidates.delete(name);
      changes.removed.push(`candidates/${name}`);
      void scoring.endShadow(name).then(() => scorer.close());
    }
    const { added, exchanged, removed } = changes;
    if (added.length + exchanged.length + removed.length > 0) log.info(changes, 'rewards have changed');
    return { ...changes, refused };
  }

  function reload(): Promise<RewardChanges> {
    const next = tail.then(look);
    tail = next.catch(() => undefined);
    return next;
  }

  async function follow(): Promise<void> {
    try {
      await reload();
      complaint = '';
    } catch (thrown) {
      // A file may be half written: said once, and read again.
      const found = describeError(thrown);
      if (found !== complaint)
        log.error({ error: found }, 'the definitions cannot be read; what was there goes on');
      complaint = found;
    }
    if (!options.signal.aborted) setTimeout(() => void follow(), options.everyMs).unref();
  }

  await reload();
  // A service that says it is up can score; what does not load says why when it is asked for.
  const loading = Promise.allSettled([...members.values()].map(({ scorer }) => scorer.ready()));
  const patience = new AbortController();
  const end = AbortSignal.any([patience.signal, options.signal]);
  // The delay rejects when it is not needed any more.
  await Promise.race([
    loading,
    Promise.allSettled([delay(options.loadWithinMs, undefined, { signal: end })]),
  ]);
  patience.abort();
  setTimeout(() => void follow(), options.everyMs).unref();
  return {
    async reload() {
      refusedHashes.clear();
      return reload();
    },
    async close() {
      await tail;
      const all = [...members.values(), ...candidates.values()];
      await Promise.all(all.map(({ scorer }) => scorer.close()));
    },
  };
}
