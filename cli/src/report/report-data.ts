import type {
  Acceptance,
  DifferenceInterval,
  NamedCategory,
  RateInterval,
  TrainingPoint,
} from '@plumb/charts';
import type { RunSpend } from '../judging/run-spend.ts';

/** Everything that a report shows, as plain data: no artifact has to be read to make the page. */
export interface ReportData {
  /** Name of the run, for people. */
  readonly name: string;
  readonly runId: string;
  /** When the report was made. */
  readonly createdAt: Date;
  /** Seconds of work, without pauses. */
  readonly seconds: number;
  readonly before: ReportModel;
  readonly after: ReportModel;
  /** In the order of the report. */
  readonly categories: readonly NamedCategory[];
  readonly acceptance: Acceptance;
  /** Of the difference in acceptance, by category id and 'overall'. */
  readonly significance: Readonly<Record<string, Significance>>;
  /** Means of the rewards beside the verdict: trained on, held out, guards. */
  readonly signals: readonly ReportSignal[];
  /** Acceptance after each iteration; 0 is the model that the run started from. Empty for a run of one iteration. */
  readonly learningCurve: readonly ({ readonly iteration: number } & RateInterval)[];
  /** Signs of over-optimisation over the iterations, in sentences. */
  readonly overOptimisation: readonly string[];
  /** Guard checks of the judge, by name. */
  readonly checks: readonly CheckRate[];
  readonly decision: {
    readonly promoted: boolean;
    readonly rules: readonly { readonly rule: string; readonly passed: boolean; readonly reason: string }[];
  };
  readonly training: ReportTraining;
  readonly dataSet: ReportDataSet;
  readonly counts: { readonly samples: number; readonly judged: number; readonly errors: number };
  /** What judging took, by the judges' price lists. */
  readonly judging?: RunSpend;
  /** Evaluation clips by category id. */
  readonly clips: Readonly<Record<string, CategoryClips>>;
  readonly howToRepeat: HowToRepeat;
  /** The control: finetuning on the same samples without feedback. */
  readonly control?: { readonly after: ReportModel; readonly acceptance: Acceptance };
}

export interface ReportModel {
  readonly version: string;
  /** SHA-256 of the weights. */
  readonly sha256: string;
}

export interface Significance {
  /** Two-sided; that of a category is corrected by Holm. */
  readonly pValue: number;
  /** Share of pairs in which only the clip after is accepted, ties counting half. */
  readonly winRate: RateInterval;
}

/** Means of one reward on held-out prompts, in its own unit. */
export interface ReportSignal {
  readonly reward: string;
  readonly role: 'trained on' | 'held out' | 'guard';
  readonly before: RateInterval;
  readonly after: RateInterval;
  readonly difference: DifferenceInterval;
  readonly winRate: RateInterval;
  /** Not corrected for there being several signals. */
  readonly pValue: number;
}

/** One reward along training, by the probe. */
export interface ProbeCurve {
  readonly reward: string;
  readonly role: ReportSignal['role'];
  readonly points: readonly { readonly step: number; readonly value: number }[];
}

export interface CheckRate {
  readonly name: string;
  readonly before: RateInterval;
  readonly after: RateInterval;
}

export interface ReportTraining {
  readonly algorithm: string;
  readonly steps: number;
  readonly batchSize: number;
  readonly learningRate: number;
  readonly schedule: string;
  /** In order of steps. Anchor distance: mean squared distance of policy and reference predictions, where measured. */
  readonly points: readonly TrainingPoint[];
  /** Empty without a probe. */
  readonly probes: readonly ProbeCurve[];
  /** What the probes showed of over-optimisation, in sentences. */
  readonly probeFindings: readonly string[];
}

export interface ReportDataSet {
  readonly prompts: number;
  readonly samplesPerPrompt: number;
  readonly samples: number;
  readonly used: number;
  readonly pairs: number;
  /** Share of accepted training samples, by category id and 'overall'. */
  readonly acceptance: Readonly<Record<string, RateInterval>>;
  /** Exclusions by reason. */
  readonly excluded: Readonly<Record<string, number>>;
  /** Share of prompts whose samples all have the same label. */
  readonly uninformativePromptRatio: number;
  /** Kish's effective sample size of the weights. */
  readonly effectiveSampleSize: number;
  readonly largestWeight: number;
}

/** The clips that are shown of one category, and what the others did. */
export interface CategoryClips {
  /** Chosen by rule before anything is looked at: the first sample of every prompt. */
  readonly fixed: readonly ClipPair[];
  /** Pairs beyond the fixed ones whose verdict changed, in order of prompt and sample, cut to what fits. */
  readonly changed: readonly ClipPair[];
  /** Pairs of the category, and how many went from rejected to accepted and back. */
  readonly pairs: number;
  readonly better: number;
  readonly worse: number;
}

/** The same prompt and the same noise, drawn by both models. */
export interface ClipPair {
  readonly prompt: string;
  readonly sampleIndex: number;
  readonly seed: string;
  readonly before: JudgedClip;
  readonly after: JudgedClip;
}

export interface JudgedClip {
  /** Animated picture as a data URI; absent where it did not fit. */
  readonly preview?: string;
  readonly verdict: 'accepted' | 'rejected' | 'error';
  readonly reason: string;
  /** For example wrong_direction; empty when accepted. */
  readonly failureMode: string;
}

export interface HowToRepeat {
  readonly command: string;
  readonly seed: string;
  readonly sampler: { readonly steps: number; readonly guidance: number; readonly shift: number };
  readonly promptSetHash: string;
  /** SHA-256 of the data set's and the evaluation's manifest, where there are such. */
  readonly jobManifestHash?: string;
  readonly evaluationManifestHash?: string;
}
