import { agreement, fleissKappa, krippendorffAlpha, reliability } from '@plumb/evaluation';
import type { Reliability } from '@plumb/evaluation';

/** A standing answer to an item whose truth is not known. */
export interface RatedItem {
  readonly item: number;
  readonly rater: string;
  /** Accepted; or, of a pair, the candidate's clip was preferred. */
  readonly yes: boolean;
}

/** What a reward says of an item, on the scale where 0.5 and above means yes. */
export interface ScoredItem {
  readonly item: number;
  readonly reward: string;
  readonly score: number;
}

/** How somebody's answers agree with those of a majority. */
export interface RowOfAgreement {
  readonly name: string;
  readonly items: number;
  /** Share of items with the majority's answer. */
  readonly accuracy: number;
  /** Cohen's kappa; null where it is not defined. */
  readonly kappa: number | null;
  /** Chance that an item with a yes scores above one with a no; null where there is one kind only. */
  readonly rocAuc: number | null;
}

/** How a reward agrees with raters, and, where its scores are shares, how far they are probabilities. */
export interface RewardRow extends RowOfAgreement {
  readonly reliability: Reliability | undefined;
}

/** How raters agree with each other, and rewards with them. */
export interface RaterAgreement {
  readonly answers: number;
  /** Items with two answers and more. */
  readonly items: number;
  /** Over the items that every rater has answered; null where it is not defined. */
  readonly fleissKappa: number | null;
  readonly fleissItems: number;
  /** Over all items with two answers and more; null where it is not defined. */
  readonly krippendorffAlpha: number | null;
  /** Against the majority of the other raters; ties of theirs are left out. */
  readonly raters: readonly RowOfAgreement[];
  /** Against the majority of all raters. */
  readonly rewards: readonly RewardRow[];
}

/** The figures of a session. Sources of the statistics: see `@plumb/evaluation`. */
export function raterAgreement(answers: readonly RatedItem[], scores: readonly ScoredItem[]): RaterAgreement {
  const raters = [...new Set(answers.map(({ rater }) => rater))].toSorted();
  const byItem = Map.groupBy(answers, ({ item }) => item);
  const units = [...byItem.values()];
  const complete = units.filter((unit) => unit.length === raters.length);
  const counts = complete.map((unit) => {
    const yes = unit.filter((answer) => answer.yes).length;
    return [yes, unit.length - yes];
  });
  const ofRater = (rater: string): RowOfAgreement | undefined =>
    row(
      rater,
      (byRater.get(rater) ?? []).flatMap(({ item, yes }) => {
        const truth = majority((byItem.get(item) ?? []).filter((answer) => answer.rater !== rater));
        return truth === undefined ? [] : [{ truth, score: yes ? 1 : 0 }];
      }),
    );
  const byRater = Map.groupBy(answers, ({ rater }) => rater);
  const byReward = Map.groupBy(scores, ({ reward }) => reward);
  return {
    answers: answers.length,
    items: units.filter((unit) => unit.length >= 2).length,
    fleissKappa: raters.length >= 2 && counts.length > 0 ? fleissKappa(counts) : null,
    fleissItems: raters.length >= 2 ? counts.length : 0,
    krippendorffAlpha: krippendorffAlpha(
      units.map((unit) => unit.map(({ yes }) => (yes ? 1 : 0))),
      'nominal',
    ),
    raters: raters.flatMap((rater) => ofRater(rater) ?? []),
    rewards: [...byReward.keys()].toSorted().flatMap((reward) => {
      const judged = (byReward.get(reward) ?? []).flatMap(({ item, score }) => {
        const truth = majority(byItem.get(item) ?? []);
        return truth === undefined ? [] : [{ truth, score }];
      });
      const found = row(reward, judged);
      const areShares = judged.every(({ score }) => score >= 0 && score <= 1);
      return found === undefined
        ? []
        : [{ ...found, reliability: areShares ? reliability(judged) : undefined }];
    }),
  };
}

/** What more than half of the answers say; undefined for a tie and for none. */
export function majority(answers: readonly { readonly yes: boolean }[]): boolean | undefined {
  const yes = answers.filter((answer) => answer.yes).length;
  return yes * 2 === answers.length ? undefined : yes * 2 > answers.length;
}

function row(
  name: string,
  judged: readonly { readonly truth: boolean; readonly score: number }[],
): RowOfAgreement | undefined {
  if (judged.length === 0) return undefined;
  const { accuracy, kappa, rocAuc } = agreement(judged.map((one) => ({ ...one, category: '' }))).overall;
  return { name, items: judged.length, accuracy, kappa, rocAuc };
}
