import type { RandomGenerator } from 'pure-rand/types/RandomGenerator';
import { shuffled } from './randomness.ts';
import type { SettingsOf } from './settings.ts';

/** A sample of one prompt as pair selection sees it. */
export interface PairCandidate {
  readonly sampleId: string;
  /** Shaped. */
  readonly reward: number;
  readonly accepted: boolean;
}

/** A preference: `chosen` over `rejected`. */
export interface SelectedPair<Candidate extends PairCandidate = PairCandidate> {
  readonly chosen: Candidate;
  readonly rejected: Candidate;
}

/** The part of the DPO settings that pair selection reads. */
export type PairSettings = Pick<
  SettingsOf<'dpo'>,
  'pairs' | 'maxPairsPerPrompt' | 'maxUsesPerSample' | 'minMargin'
>;

/**
 * Preference pairs within one prompt. No pair occurs twice, no sample more than `maxUsesPerSample` times, and there are
 * at most `maxPairsPerPrompt`. Which of the possible pairs are taken is random and follows from `random` alone.
 * @param candidates samples of one prompt, in an order that does not depend on how they arrived
 * @returns empty if the prompt has no contrast
 */
export function selectPairs<Candidate extends PairCandidate>(
  candidates: readonly Candidate[],
  settings: PairSettings,
  random: RandomGenerator,
): SelectedPair<Candidate>[] {
  const mixed = shuffled(candidates, random);
  return selectors[settings.pairs](mixed, settings, random);
}

const selectors = {
  binary: acceptedAgainstRejected,
  'best-worst': bestAgainstWorst,
  margin: anyFarApart,
} as const;

/** Walks the accepted x rejected grid along its diagonals, so that every sample is used as evenly as possible. */
function acceptedAgainstRejected<Candidate extends PairCandidate>(
  candidates: readonly Candidate[],
  { maxPairsPerPrompt, maxUsesPerSample }: PairSettings,
): SelectedPair<Candidate>[] {
  const accepted = candidates.filter((candidate) => candidate.accepted);
  const rejected = candidates.filter((candidate) => !candidate.accepted);
  const [a, r] = [accepted.length, rejected.length];
  if (a === 0 || r === 0) return [];
  const pairs = Math.min(maxPairsPerPrompt, a * r, maxUsesPerSample * Math.min(a, r));
  const diagonal = (a * r) / greatestCommonDivisor(a, r);
  return Array.from({ length: pairs }).flatMap((_, k) => {
    const better = accepted[k % a];
    // A diagonal closes after lcm(a, r) steps; moving over by one then starts the next.
    const worse = rejected[(k + Math.floor(k / diagonal)) % r];
    return better === undefined || worse === undefined ? [] : [{ chosen: better, rejected: worse }];
  });
}

function greatestCommonDivisor(a: number, b: number): number {
  return b === 0 ? a : greatestCommonDivisor(b, a % b);
}

function bestAgainstWorst<Candidate extends PairCandidate>(
  candidates: readonly Candidate[],
  { minMargin }: PairSettings,
): SelectedPair<Candidate>[] {
  // The sort is stable and the candidates are shuffled: ties are broken at random.
  const ordered = candidates.toSorted((a, b) => b.reward - a.reward);
  const [chosen, rejected] = [ordered.at(0), ordered.at(-1)];
  if (chosen === undefined || rejected === undefined) return [];
  return isFarEnough(chosen, rejected, minMargin) ? [{ chosen, rejected }] : [];
}

function anyFarApart<Candidate extends PairCandidate>(
  candidates: readonly Candidate[],
  { minMargin, maxPairsPerPrompt, maxUsesPerSample }: PairSettings,
  random: RandomGenerator,
): SelectedPair<Candidate>[] {
  const possible = candidates.flatMap((chosen) =>
    candidates
      .filter((rejected) => isFarEnough(chosen, rejected, minMargin))
      .map((rejected) => ({ chosen, rejected })),
  );
  const uses = new Map<string, number>();
  const taken: SelectedPair<Candidate>[] = [];
  for (const pair of shuffled(possible, random)) {
    if (taken.length === maxPairsPerPrompt) break;
    const ids = [pair.chosen.sampleId, pair.rejected.sampleId];
    if (ids.some((id) => (uses.get(id) ?? 0) >= maxUsesPerSample)) continue;
    for (const id of ids) uses.set(id, (uses.get(id) ?? 0) + 1);
    taken.push(pair);
  }
  return taken;
}

function isFarEnough(chosen: PairCandidate, rejected: PairCandidate, minMargin: number): boolean {
  const gap = chosen.reward - rejected.reward;
  return gap > 0 && gap >= minMargin;
}
