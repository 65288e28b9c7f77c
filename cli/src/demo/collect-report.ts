import { clipMediaType, decodeClip, encodePreview, openArtifactStore, previewMediaType } from '@plumb/media';
import type { ArtifactStore } from '@plumb/media';
import type {
  IterationReport,
  Report,
  Run,
  Sample,
  SignalReport,
} from '@plumb/proto/plumb/loop/v1/loop_pb.js';
import type { ProbeResult } from '@plumb/proto/plumb/trainer/v1/trainer_pb.js';
import { Category, Split } from '@plumb/proto/plumb/prompts/v1/prompt_pb.js';
import { internal } from '@plumb/kit/errors';
import type {
  CategoryClips,
  ClipPair,
  HowToRepeat,
  JudgedClip,
  ProbeCurve,
  ReportData,
  ReportSignal,
} from '../report/report-data.ts';
import type { RunSpend } from '../judging/run-spend.ts';
import { categories } from '@plumb/charts';
import { acceptanceOf, countsOf, lastIteration } from './demo-result.ts';

/** Most further pairs with a changed verdict that a category shows. */
const changedPairLimit = 12;
/** All clips of a page together, in bytes of data URIs. */
const clipBudgetBytes = 8_000_000;

const categoryIds: ReadonlyMap<Category, string> = new Map([
  [Category.OBJECT_REMOVAL, 'OR'],
  [Category.MULTIPLE_OBJECTS, 'MO'],
  [Category.DEFORMABLE_OBJECT, 'DO'],
  [Category.DIRECTIONAL_MOVEMENT, 'DM'],
  [Category.FALLING_DOWN, 'FD'],
]);

/** One finished run with everything that the report needs of it. */
export interface FinishedRun {
  readonly run: Run;
  readonly report: Report;
  readonly samples: readonly Sample[];
}

/**
 * Gathers a report's data, of the last iteration that is evaluated: numbers from the run, clips from the artifact store.
 * @throws PlumbError FAILED_PRECONDITION for a run without an evaluation
 */
export async function collectReport(
  finished: FinishedRun,
  options: {
    readonly artifactFolder: string;
    readonly command: string;
    readonly createdAt: Date;
    readonly control?: FinishedRun;
    readonly judging?: RunSpend;
  },
): Promise<ReportData> {
  const { run, report, samples } = finished;
  const iteration = lastIteration(report);
  const spec = run.spec;
  const optimisation = spec?.optimisation;
  if (spec === undefined || optimisation === undefined)
    throw internal(new Error(`run ${run.id} has no spec`));
  const store = await openArtifactStore(options.artifactFolder);
  const control = options.control;
  return {
    name: spec.name,
    runId: run.id,
    createdAt: options.createdAt,
    seconds: run.activeSeconds,
    before: modelOf(finished, 'before'),
    after: modelOf(finished, 'after'),
    categories,
    acceptance: acceptanceOf(report),
    significance: significanceOf(iteration),
    signals: signalsOf(iteration),
    learningCurve: learningCurveOf(report),
    overOptimisation: iteration.overOptimisation,
    checks: Object.entries(iteration.checksBefore).flatMap(([name, before]) => {
      const after = iteration.checksAfter[name];
      return after === undefined ? [] : [{ name, before, after }];
    }),
    decision: {
      promoted: iteration.decision?.promoted ?? false,
      rules: iteration.decision?.rules ?? [],
    },
    training: {
      algorithm: spec.objective?.algorithm ?? '',
      steps: optimisation.steps,
      batchSize: optimisation.batchSize,
      learningRate: optimisation.learningRate,
      schedule: optimisation.schedule,
      points: iteration.training.map(({ step, loss, anchorDistance }) => ({
        step,
        loss,
        ...(anchorDistance === undefined ? {} : { anchorDistance }),
      })),
      probes: probeCurvesOf(iteration),
      probeFindings: iteration.job?.probes.at(-1)?.findings ?? [],
    },
    dataSet: {
      prompts: spec.prompts.filter(({ split }) => split === Split.TRAIN).length,
      samplesPerPrompt: spec.samplesPerPrompt,
      samples: iteration.dataSet?.samples ?? 0,
      used: iteration.dataSet?.used ?? 0,
      pairs: iteration.dataSet?.pairs ?? 0,
      acceptance: iteration.trainingAcceptance,
      excluded: iteration.dataSet?.excluded ?? {},
      uninformativePromptRatio: iteration.dataSet?.uninformativePromptRatio ?? 0,
      effectiveSampleSize: iteration.dataSet?.effectiveSampleSize ?? 0,
      largestWeight: iteration.dataSet?.largestWeight ?? 0,
    },
    counts: countsOf(run),
    ...(options.judging === undefined ? {} : { judging: options.judging }),
    clips: await clipsByCategory(store, samples, iteration, spec.evaluation?.reward ?? ''),
    howToRepeat: howToRepeat(finished, options.command),
    ...(control === undefined
      ? {}
      : { control: { after: modelOf(control, 'after'), acceptance: acceptanceOf(control.report) } }),
  };
}

function significanceOf({ pValue, winRate }: IterationReport): ReportData['significance'] {
  return Object.fromEntries(
    Object.entries(pValue).flatMap(([id, value]) => {
      const wins = winRate[id];
      return wins === undefined ? [] : [[id, { pValue: value, winRate: wins }] as const];
    }),
  );
}

function signalsOf({ trained, heldOut, guards }: IterationReport): ReportSignal[] {
  const named = (role: ReportSignal['role'], report: SignalReport | undefined): ReportSignal[] => {
    const { reward, before, after, difference, winRate, pValue } = report ?? {};
    if (reward === undefined || before === undefined || after === undefined) return [];
    if (difference === undefined || winRate === undefined || pValue === undefined) return [];
    return [{ reward, role, before, after, difference, winRate, pValue }];
  };
  return [
    ...named('trained on', trained),
    ...named('held out', heldOut),
    ...Object.values(guards).flatMap((guard) => named('guard', guard)),
  ];
}

function learningCurveOf({ iterations }: Report): ReportData['learningCurve'] {
  const first = iterations[0]?.before['overall'];
  if (first === undefined || iterations.length < 2) return [];
  const after = iterations.flatMap(({ iteration, after: rates }) =>
    rates['overall'] === undefined ? [] : [{ iteration, ...rates['overall'] }],
  );
  return [{ iteration: 0, ...first }, ...after];
}

/** A probe that could not be scored is left out. */
function probeCurvesOf({ job }: IterationReport): ProbeCurve[] {
  const { probe, objective } = job?.spec ?? {};
  if (job === undefined || probe === undefined) return [];
  const curve = (
    reward: string,
    role: ProbeCurve['role'],
    value: (result: ProbeResult) => number | undefined,
  ): ProbeCurve => ({
    reward,
    role,
    points: job.probes.flatMap((result) => {
      const found = value(result);
      return found === undefined ? [] : [{ step: result.step, value: found }];
    }),
  });
  const trained = probe.trainedReward === '' ? (objective?.reward ?? '') : probe.trainedReward;
  return [
    curve(trained, 'trained on', (result) => result.trained),
    curve(probe.heldOutReward, 'held out', ({ heldOut }) => heldOut),
    ...probe.guards.map((guard) => curve(guard, 'guard', ({ guards }) => guards[guard])),
  ].filter(({ points }) => points.length > 1);
}

function modelOf({ run, report }: FinishedRun, which: 'before' | 'after'): ReportData['before'] {
  const iteration = lastIteration(report);
  if (which === 'before') {
    return {
      version: iteration.beforeVersion,
      sha256: iteration.job?.spec?.base?.weights?.sha256 ?? run.spec?.base?.weights?.sha256 ?? '',
    };
  }
  return { version: iteration.afterVersion, sha256: iteration.job?.checkpoint?.sha256 ?? '' };
}

function howToRepeat({ run, report }: FinishedRun, command: string): HowToRepeat {
  const iteration = lastIteration(report);
  const sampler = run.spec?.sampler;
  const jobManifestHash = iteration.job?.manifest?.sha256;
  const evaluationManifestHash = iteration.manifest?.sha256;
  return {
    command,
    seed: String(run.spec?.seed ?? 0n),
    sampler: { steps: sampler?.steps ?? 0, guidance: sampler?.guidance ?? 0, shift: sampler?.shift ?? 0 },
    promptSetHash: run.spec?.promptSetHash ?? '',
    ...(jobManifestHash === undefined ? {} : { jobManifestHash }),
    ...(evaluationManifestHash === undefined ? {} : { evaluationManifestHash }),
  };
}

type Compared = Pick<IterationReport, 'iteration' | 'beforeVersion' | 'afterVersion'>;

interface SamplePair {
  readonly before: Sample;
  readonly after: Sample;
}

async function clipsByCategory(
  store: ArtifactStore,
  samples: readonly Sample[],
  iteration: Compared,
  reward: string,
): Promise<Record<string, CategoryClips>> {
  const pairs = pairSamples(samples, iteration);
  const previews = previewSource(store);
  const byCategory: Record<string, CategoryClips> = {};
  for (const { id } of categories) {
    const own = pairs.filter(({ before }) => categoryIds.get(before.prompt?.category ?? 0) === id);
    const verdicts = own.map((pair) => ({
      pair,
      before: verdictOf(pair.before, reward),
      after: verdictOf(pair.after, reward),
    }));
    const isFixed = ({ pair }: (typeof verdicts)[number]): boolean => pair.before.sampleIndex === 0;
    const changed = verdicts.filter(({ before, after }) => before !== after);
    const shown = (of: typeof verdicts): Promise<ClipPair[]> =>
      inOrder(of, ({ pair }) => clipPair(pair, reward, previews));
    byCategory[id] = {
      fixed: await shown(verdicts.filter(isFixed)),
      changed: await shown(changed.filter((pair) => !isFixed(pair)).slice(0, changedPairLimit)),
      pairs: own.length,
      better: changed.filter(({ after }) => after === 'accepted').length,
      worse: changed.filter(({ before }) => before === 'accepted').length,
    };
  }
  return byCategory;
}

/** Pairs of the two models' clips of one prompt and noise, in order of prompt and sample. */
function pairSamples(
  samples: readonly Sample[],
  { iteration, beforeVersion, afterVersion }: Compared,
): readonly SamplePair[] {
  const key = (sample: Sample): string =>
    `${sample.prompt?.id ?? ''} ${String(sample.sampleIndex).padStart(6, '0')}`;
  // A promoted model draws the same clips again as the `before` of the next iteration.
  const heldOut = samples.filter(
    (sample) => sample.iteration === iteration && sample.prompt?.split === Split.HELDOUT,
  );
  const after = new Map(
    heldOut
      .filter(({ modelVersion }) => modelVersion === afterVersion)
      .map((sample) => [key(sample), sample]),
  );
  return heldOut
    .filter(({ modelVersion }) => modelVersion === beforeVersion)
    .toSorted((a, b) => (key(a) < key(b) ? -1 : 1))
    .flatMap((before) => {
      const partner = after.get(key(before));
      return partner === undefined ? [] : [{ before, after: partner }];
    });
}

function verdictOf(sample: Sample, reward: string): JudgedClip['verdict'] {
  const score = sample.scores.find((candidate) => candidate.reward === reward);
  if (score?.outcome.case !== 'value') return 'error';
  return score.outcome.value >= 0.5 ? 'accepted' : 'rejected';
}

type PreviewSource = (sample: Sample) => Promise<string | undefined>;

async function clipPair(pair: SamplePair, reward: string, previews: PreviewSource): Promise<ClipPair> {
  return {
    prompt: pair.before.prompt?.text ?? '',
    sampleIndex: pair.before.sampleIndex,
    seed: String(pair.before.seed),
    before: await judgedClip(pair.before, reward, previews),
    after: await judgedClip(pair.after, reward, previews),
  };
}

async function judgedClip(sample: Sample, reward: string, previews: PreviewSource): Promise<JudgedClip> {
  const score = sample.scores.find((candidate) => candidate.reward === reward);
  const preview = await previews(sample);
  const error = sample.error?.message ?? (score?.outcome.case === 'error' ? score.outcome.value.message : '');
  return {
    ...(preview === undefined ? {} : { preview }),
    verdict: verdictOf(sample, reward),
    reason: error === '' ? (score?.reason ?? '') : error,
    failureMode: score?.failureMode ?? '',
  };
}

/** Animated pictures in the clip's own size (the page enlarges them), until the page's budget is used up. */
function previewSource(store: ArtifactStore): PreviewSource {
  let left = clipBudgetBytes;
  return async ({ video }) => {
    if (video?.source.case !== 'uri' || video.mediaType !== clipMediaType) return undefined;
    const bytes = await store.get(video.source.value, video.sha256);
    const shape = { width: video.width, height: video.height, frames: video.frameCount, fps: video.fps };
    const picture = await encodePreview(await decodeClip(bytes, shape), { scale: 1 });
    const uri = `data:${previewMediaType};base64,${Buffer.from(picture).toString('base64')}`;
    if (uri.length > left) return undefined;
    left -= uri.length;
    return uri;
  };
}

async function inOrder<From, To>(items: readonly From[], make: (item: From) => Promise<To>): Promise<To[]> {
  const made: To[] = [];
  for (const item of items) made.push(await make(item));
  return made;
}
