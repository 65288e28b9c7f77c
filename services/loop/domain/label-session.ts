import { createHash } from 'node:crypto';

/** A sample that may be rated. */
export interface RateableSample {
  readonly id: string;
  readonly iteration: number;
  readonly group: 'train' | 'before' | 'after';
  readonly promptId: string;
  readonly sampleIndex: number;
  readonly category: string;
  readonly videoSha256: string;
}

/** What one item of a session shows: a sample, or two of one prompt and noise. */
export interface ChosenItem {
  readonly sampleId: string;
  readonly otherSampleId?: string;
}

/**
 * Chooses the samples of a session, evenly over groups and categories: which ones, and in which order, follows from the
 * session's id alone. Clips that are the same bit for bit are shown once.
 */
export function chooseSamples(
  sessionId: string,
  samples: readonly RateableSample[],
  size: number,
): ChosenItem[] {
  const seen = new Set<string>();
  const different = inOrderOf(samples, (sample) => rank(sessionId, 'sample', sample.id)).filter(
    ({ videoSha256 }) => !seen.has(videoSha256) && seen.add(videoSha256),
  );
  const strata = Map.groupBy(different, ({ group, category }) => `${group} ${category}`);
  return takeEvenly([...strata.values()], size).map(({ id }) => ({ sampleId: id }));
}

/** Chooses pairs of the two models' clips of one prompt and noise, evenly over categories. Pairs of equal clips are left out. */
export function choosePairs(
  sessionId: string,
  samples: readonly RateableSample[],
  size: number,
): ChosenItem[] {
  const key = ({ iteration, promptId, sampleIndex }: RateableSample): string =>
    JSON.stringify([iteration, promptId, sampleIndex]);
  const after = new Map(
    samples.filter(({ group }) => group === 'after').map((sample) => [key(sample), sample]),
  );
  const pairs = samples
    .filter(({ group }) => group === 'before')
    .flatMap((before) => {
      const other = after.get(key(before));
      return other === undefined || other.videoSha256 === before.videoSha256 ? [] : [{ before, other }];
    });
  const shuffled = inOrderOf(pairs, ({ before }) => rank(sessionId, 'pair', before.id));
  const strata = Map.groupBy(shuffled, ({ before }) => before.category);
  return takeEvenly([...strata.values()], size).map(({ before, other }) => ({
    sampleId: before.id,
    otherSampleId: other.id,
  }));
}

/** Puts items and clips of known truth into the session's order, in which a clip's place says nothing of where it is from. */
export function mixed<Item>(sessionId: string, items: readonly Item[]): Item[] {
  return items
    .map((item, index) => ({ item, rank: rank(sessionId, 'place', String(index)) }))
    .toSorted((a, b) => (a.rank < b.rank ? -1 : 1))
    .map(({ item }) => item);
}

/** The order in which a rater sees the items of a session: another one for each rater, and the same after a break. */
export function raterOrder(sessionId: string, rater: string, items: number): number[] {
  return inOrderOf(
    Array.from({ length: items }, (_, item) => item),
    (item) => rank(sessionId, rater, 'order', String(item)),
  );
}

/** Whether a rater sees the pair of an item the other way round. */
export function sidesSwapped(sessionId: string, rater: string, item: number): boolean {
  return Number.parseInt(rank(sessionId, rater, 'side', String(item)).slice(0, 2), 16) % 2 === 1;
}

function takeEvenly<Item>(strata: readonly (readonly Item[])[], size: number): Item[] {
  const taken: Item[] = [];
  for (let round = 0; taken.length < size; round += 1) {
    const left = strata.filter((stratum) => stratum.length > round);
    if (left.length === 0) break;
    for (const stratum of left) {
      const item = stratum[round];
      if (item !== undefined && taken.length < size) taken.push(item);
    }
  }
  return taken;
}

function inOrderOf<Item>(items: readonly Item[], key: (item: Item) => string): Item[] {
  return items
    .map((item) => ({ item, key: key(item) }))
    .toSorted((a, b) => (a.key < b.key ? -1 : 1))
    .map(({ item }) => item);
}

function rank(...parts: readonly string[]): string {
  return createHash('sha256').update(JSON.stringify(parts)).digest('hex');
}
