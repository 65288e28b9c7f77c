/** From answers to a verdict: votes, calibration, threshold, and the rules of panels. */

import { calibrate } from '@plumb/evaluation';
import type { Judge, Panel } from './judge-definition.ts';
import type { KeptAnswer } from './verdict.ts';

/** What a judge or a panel says of a clip. */
export interface ClipVerdict {
  /** Set for judges of mode binary and for panels. */
  readonly accept?: boolean;
  /** 1 to 5; set for judges of mode grade: the median of the votes. */
  readonly grade?: number;
  /** P(accept), 0 to 1; undefined where nothing tells. */
  readonly probability?: number;
  /** Before calibration, 0 to 1: the mean of the votes' P(accept), or of their grades moved from 1..5 to 0..1. */
  readonly score: number;
  readonly reason: string;
  readonly failureMode: string;
  /** Checks by name; each as most votes have it. */
  readonly checks: Readonly<Record<string, boolean>>;
  readonly model: string;
  readonly inputTokens: number;
  readonly outputTokens: number;
  readonly endpointMs: number;
  readonly calls: number;
  readonly votes: number;
  /** Seeds of the calls that were answered, by vote; empty for a judge without a seed. */
  readonly seeds: readonly number[];
  /** Every answer was there already. */
  readonly cached: boolean;
}

/** An answer and whether it was there already. */
export type Vote = KeptAnswer & { readonly cached: boolean };

/** The verdict of one judge. The same answers always give the same verdict. */
export function combineVotes(judge: Judge, votes: readonly Vote[]): ClipVerdict {
  const [first] = votes;
  if (first === undefined) throw new TypeError('a verdict needs an answer');
  const score = mean(votes.map(scoreOf));
  const confident = judge.calibration !== undefined || votes.length > 1 || first.probability !== undefined;
  const graded = judge.definition.mode === 'grade';
  // Without a calibration a mean grade is no probability.
  const probability =
    judge.calibration !== undefined
      ? calibrate(judge.calibration.mapping, score)
      : confident && !graded
        ? score
        : undefined;
  const accept =
    probability === undefined ? first.accept === true : probability >= judge.definition.threshold;
  const speaker = (graded ? undefined : votes.find((vote) => vote.accept === accept)) ?? first;
  return {
    ...(graded ? { grade: median(votes.map((vote) => vote.grade ?? 1)) } : { accept }),
    ...(probability === undefined ? {} : { probability }),
    score,
    reason: speaker.reason,
    failureMode: !graded && accept ? '' : speaker.failureMode,
    checks: mostly(votes.map((vote) => vote.checks)),
    ...totals(votes),
    votes: votes.length,
    seeds: votes.flatMap(({ seed }) => seed ?? []),
  };
}

/** The verdict of a panel, from those of its members in their order. */
export function combinePanel(panel: Panel, members: readonly ClipVerdict[]): ClipVerdict {
  const values = members.map((member) => member.probability ?? member.score);
  const accepted = members.filter((member, index) => acceptedBy(panel.members[index], member));
  const { rule, threshold } = panel.definition;
  const score = { all: Math.min(...values), majority: accepted.length / members.length, mean: mean(values) }[
    rule
  ];
  const accept = {
    all: accepted.length === members.length,
    majority: accepted.length > members.length / 2,
    mean: score >= threshold,
  }[rule];
  const speaker = members.find((member) => accepted.includes(member) === accept) ?? members[0];
  return {
    accept,
    probability: score,
    score,
    reason: members.map((member, index) => `${panel.members[index]?.name ?? ''}: ${member.reason}`).join(' '),
    failureMode: accept ? '' : (speaker?.failureMode ?? ''),
    checks: mostly(members.map((member) => member.checks)),
    ...totals(members),
    model: [...new Set(members.map((member) => member.model))].join(', '),
    votes: members.reduce((sum, member) => sum + member.votes, 0),
    seeds: members.flatMap(({ seeds }) => seeds),
  };
}

function acceptedBy(judge: Judge | undefined, verdict: ClipVerdict): boolean {
  if (verdict.accept !== undefined) return verdict.accept;
  return (verdict.probability ?? verdict.score) >= (judge?.definition.threshold ?? 0.5);
}

function scoreOf(vote: Vote): number {
  if (vote.grade !== undefined) return (vote.grade - 1) / 4;
  return vote.probability ?? Number(vote.accept === true);
}

function mean(values: readonly number[]): number {
  return values.reduce((sum, value) => sum + value, 0) / values.length;
}

/** The lower of the two in the middle, where there are two: a doubt counts against the clip. */
function median(values: readonly number[]): number {
  return values.toSorted((a, b) => a - b)[Math.floor((values.length - 1) / 2)] ?? 1;
}

function mostly(checks: readonly Readonly<Record<string, boolean>>[]): Record<string, boolean> {
  const names = [...new Set(checks.flatMap((one) => Object.keys(one)))];
  return Object.fromEntries(
    names.map((name) => {
      const said = checks.flatMap((one) => one[name] ?? []);
      return [name, said.filter(Boolean).length * 2 > said.length];
    }),
  );
}

function totals(parts: readonly (Vote | ClipVerdict)[]) {
  const sum = (value: (part: Vote | ClipVerdict) => number): number =>
    parts.reduce((total, part) => total + value(part), 0);
  return {
    model: parts[0]?.model ?? '',
    inputTokens: sum((part) => part.inputTokens),
    outputTokens: sum((part) => part.outputTokens),
    endpointMs: sum((part) => part.endpointMs),
    calls: sum((part) => part.calls),
    cached: parts.every((part) => part.cached),
  };
}
