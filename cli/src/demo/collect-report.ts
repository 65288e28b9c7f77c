import { clipMediaType, decodeClip, encodePreview, openFolderStore, previewMediaType } from '@plumb/media';
import type { ArtifactStore } from '@plumb/media';
import type { Report, Run, Sample } from '@plumb/proto/plumb/loop/v1/loop_pb.js';
import { Category, Split } from '@plumb/proto/plumb/prompts/v1/prompt_pb.js';
import { internal } from '@plumb/kit/errors';
import type { CategoryClips, ClipPair, HowToRepeat, JudgedClip, ReportData } from '../report/report-data.ts';
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

/** Gathers a report's data: numbers from the run, clips from the artifact store. */
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
  const store = await openFolderStore(options.artifactFolder);
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

function modelOf({ run, report }: FinishedRun, which: 'before' | 'after'): ReportData['before'] {
  const iteration = lastIteration(report);
  if (which === 'before') {
    return {
      version: iteration.beforeVersion,
      sha256: run.spec?.base?.weights?.sha256 ?? '',
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

interface SamplePair {
  readonly before: Sample;
  readonly after: Sample;
}

async function clipsByCategory(
  store: ArtifactStore,
  samples: readonly Sample[],
  versions: { readonly beforeVersion: string; readonly afterVersion: string },
  reward: string,
): Promise<Record<string, CategoryClips>> {
  const pairs = pairSamples(samples, versions);
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
  versions: { readonly beforeVersion: string; readonly afterVersion: string },
): readonly SamplePair[] {
  const key = (sample: Sample): string =>
    `${sample.prompt?.id ?? ''} ${String(sample.sampleIndex).padStart(6, '0')}`;
  const heldOut = samples.filter(({ prompt }) => prompt?.split === Split.HELDOUT);
  const after = new Map(
    heldOut
      .filter(({ modelVersion }) => modelVersion === versions.afterVersion)
      .map((sample) => [key(sample), sample]),
  );
  return heldOut
    .filter(({ modelVersion }) => modelVersion === versions.beforeVersion)
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
