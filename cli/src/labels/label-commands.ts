import { createHash, randomUUID } from 'node:crypto';
import { mkdir } from 'node:fs/promises';
import { join, resolve } from 'node:path';
import { create, toJson } from '@bufbuild/protobuf';
import Table from 'cli-table3';
import { failedPrecondition } from '@plumb/kit/errors';
import { openArtifactStore } from '@plumb/media';
import {
  GetRaterAgreementResponseSchema,
  KnownClipSchema,
  LabelKind,
  LabelSessionSchema,
} from '@plumb/proto/plumb/loop/v1/label_pb.js';
import type { AgreementRow, KnownClip, Label, LabelSession } from '@plumb/proto/plumb/loop/v1/label_pb.js';
import { Split } from '@plumb/proto/plumb/prompts/v1/prompt_pb.js';
import { points } from '@plumb/charts/numbers';
import { webAddress } from '../dashboard/web-address.ts';
import { categoryOf, readLabels, toyboxLabels } from '../judging/labelled-set.ts';
import type { LabelledSet } from '../judging/labelled-set.ts';
import { allSamples } from '../runs/loop-client.ts';
import type { LabelClient } from '../runs/loop-client.ts';
import { withLoop } from '../runs/with-loop.ts';
import type { LoopConnection, LoopOptions } from '../runs/with-loop.ts';
import { writeWhole } from '../state/state-folder.ts';

/** Options that every `plumb labels` command has. */
export interface LabelOptions extends LoopOptions {
  readonly json?: true;
}

/** What answers questions where nothing runs. */
const questioned = ['nats-server', 'loop'] as const;
/** First seed of clips of known truth: far from those that judges are calibrated with. */
const checkSeed = 3_000_000;
const pageSize = 500;

async function ask(
  options: LabelOptions,
  command: string,
  work: (connection: LoopConnection) => Promise<void>,
): Promise<number> {
  return await withLoop({ ...options, command, only: questioned, notice: () => {} }, work);
}

function print(options: LabelOptions, value: unknown, text: () => string): void {
  process.stdout.write(`${options.json === true ? JSON.stringify(value) : text()}\n`);
}

/** `plumb labels open` */
export async function openSession(
  runId: string,
  options: LabelOptions & {
    readonly kind: 'verdict' | 'preference';
    readonly prompts: 'heldout' | 'train';
    readonly size: number;
    readonly name: string;
    readonly raters?: readonly string[];
    readonly toyboxChecks?: number;
    readonly known?: string;
    readonly idempotencyKey?: string;
  },
): Promise<number> {
  const sets: LabelledSet[] = [];
  if (options.known !== undefined) sets.push(await readLabels(resolve(options.known)));
  if (options.toyboxChecks !== undefined) sets.push(await toyboxLabels(options.toyboxChecks, checkSeed));
  return await ask(options, 'labels', async ({ labels, artifactFolder }) => {
    const known = await storeKnown(sets, artifactFolder);
    const { session } = await labels.createLabelSession({
      runId,
      name: options.name,
      kind: options.kind === 'verdict' ? LabelKind.VERDICT : LabelKind.PREFERENCE,
      size: options.size,
      split: options.prompts === 'train' ? Split.TRAIN : Split.HELDOUT,
      known,
      idempotencyKey: options.idempotencyKey ?? randomUUID(),
    });
    if (session === undefined) return;
    const links: Record<string, string> = {};
    for (const rater of options.raters ?? []) {
      links[rater] = await linkOf(labels, options, { sessionId: session.id, rater, days: 0 });
    }
    print(options, { session: toJson(LabelSessionSchema, session), links }, () =>
      [
        `${session.id}: ${session.items} items, ${session.checks} of them of known truth`,
        ...Object.entries(links).map(([rater, link]) => `${rater.padEnd(12)} ${link}`),
        ...(options.raters === undefined
          ? [`A link for a rater: plumb labels link ${session.id} --rater <name>`]
          : []),
      ].join('\n'),
    );
  });
}

/** `plumb labels list` */
export async function listSessions(runId: string, options: LabelOptions): Promise<number> {
  return await ask(options, 'labels', async ({ labels }) => {
    const sessions: LabelSession[] = [];
    let pageToken = '';
    do {
      const page = await labels.listLabelSessions({ runId, pageSize, pageToken });
      sessions.push(...page.sessions);
      pageToken = page.nextPageToken;
    } while (pageToken !== '');
    print(
      options,
      sessions.map((session) => toJson(LabelSessionSchema, session)),
      () => {
        const table = new Table({
          head: ['session', 'name', 'kind', 'rater', 'answered', 'of known truth, right'],
          style: { head: [], border: [] },
        });
        for (const { id, name, kind, items, raters } of sessions) {
          const what = kind === LabelKind.VERDICT ? 'verdict' : 'preference';
          if (raters.length === 0) table.push([id, name, what, '', `0 of ${items}`, '']);
          for (const { rater, answered, checksAnswered, checksRight } of raters) {
            const right = checksAnswered === 0 ? '' : `${checksRight} of ${checksAnswered}`;
            table.push([id, name, what, rater, `${answered} of ${items}`, right]);
          }
        }
        return table.toString();
      },
    );
  });
}

/** `plumb labels link` */
export async function raterLink(
  sessionId: string,
  options: LabelOptions & { readonly rater: string; readonly days: number },
): Promise<number> {
  return await ask(options, 'labels', async ({ labels }) => {
    const link = await linkOf(labels, options, { sessionId, rater: options.rater, days: options.days });
    print(options, { link }, () => link);
  });
}

/** `plumb labels agreement` */
export async function printAgreement(sessionId: string, options: LabelOptions): Promise<number> {
  return await ask(options, 'labels', async ({ labels }) => {
    const figures = await labels.getRaterAgreement({ sessionId });
    print(options, toJson(GetRaterAgreementResponseSchema, figures), () => {
      const { fleissKappa, fleissItems, krippendorffAlpha, items, answers, raters, rewards } = figures;
      const table = new Table({
        head: ['', 'items', 'same as the majority, %', "Cohen's kappa", 'ROC AUC'],
        style: { head: [], border: [] },
      });
      for (const row of [...raters, ...rewards]) table.push(agreementCells(row));
      return [
        `${answers} answers, ${items} items with two and more`,
        `Krippendorff's alpha ${figure(krippendorffAlpha)}, Fleiss' kappa ${figure(fleissKappa)} over the ${fleissItems} items that every rater has answered`,
        table.toString(),
      ].join('\n');
    });
  });
}

/** `plumb labels export`: each clip once, with what most of its raters say; clips on which they are divided are left out. */
export async function exportLabels(
  runId: string,
  options: LabelOptions & { readonly output: string },
): Promise<number> {
  return await ask(options, 'labels', async ({ labels, loop, artifactFolder, signal }) => {
    if (artifactFolder === undefined) {
      throw failedPrecondition(
        'clips are read from the artifact store of a state folder; run this where it is, with --state',
      );
    }
    const store = await openArtifactStore(artifactFolder);
    const verdicts = await verdictsOf(labels, runId);
    const folder = resolve(options.output);
    await mkdir(join(folder, 'clips'), { recursive: true });
    const lines: string[] = [];
    let divided = 0;
    for (const sample of await allSamples(loop, runId, signal)) {
      const said = verdicts.get(sample.id);
      const { video, prompt } = sample;
      if (said === undefined || video?.source.case !== 'uri' || prompt === undefined) continue;
      const accepting = said.filter(({ answer }) => answer.case === 'accept' && answer.value);
      if (accepting.length * 2 === said.length) {
        divided += 1;
        continue;
      }
      const accept = accepting.length * 2 > said.length;
      const clip = `clips/${sample.id}${extensions[video.mediaType] ?? '.bin'}`;
      await writeWhole(join(folder, clip), await store.get(video.source.value, video.sha256));
      const mode = accept ? '' : mostFrequent(said.map(({ failureMode }) => failureMode));
      const category = Object.entries(categoryOf).find(([, value]) => value === prompt.category)?.[0];
      lines.push(
        JSON.stringify({
          clip,
          ...(video.mediaType === 'image/png' ? { frames: video.frameCount } : {}),
          prompt: prompt.text,
          ...(category === undefined ? {} : { category }),
          accept,
          ...(mode === '' ? {} : { failureMode: mode }),
        }),
      );
    }
    const file = join(folder, 'labels.jsonl');
    await writeWhole(file, lines.map((line) => `${line}\n`).join(''));
    print(options, { file, labels: lines.length, divided }, () =>
      [
        `${file}: ${lines.length} clips${divided === 0 ? '' : `; ${divided} on which raters are divided are left out`}`,
        `Next: plumb judge calibrate ${file}`,
      ].join('\n'),
    );
  });
}

const extensions: Readonly<Record<string, string>> = {
  'image/png': '.png',
  'image/webp': '.webp',
  'image/gif': '.gif',
  'image/apng': '.apng',
  'video/mp4': '.mp4',
  'video/webm': '.webm',
};

async function verdictsOf(labels: LabelClient, runId: string): Promise<Map<string, Label[]>> {
  const all: Label[] = [];
  let pageToken = '';
  do {
    const page = await labels.listLabels({ runId, pageSize, pageToken });
    all.push(...page.labels.filter(({ answer }) => answer.case === 'accept'));
    pageToken = page.nextPageToken;
  } while (pageToken !== '');
  return Map.groupBy(all, ({ sampleId }) => sampleId);
}

function mostFrequent(words: readonly string[]): string {
  const counts = [...Map.groupBy(words.filter(Boolean), (word) => word)];
  return counts.toSorted(([, a], [, b]) => b.length - a.length)[0]?.[0] ?? '';
}

async function storeKnown(
  sets: readonly LabelledSet[],
  artifactFolder: string | undefined,
): Promise<KnownClip[]> {
  if (sets.length === 0) return [];
  if (artifactFolder === undefined) {
    throw failedPrecondition(
      'clips of known truth are put into the artifact store of a state folder; run this where it is, with --state',
    );
  }
  const store = await openArtifactStore(artifactFolder);
  const known: KnownClip[] = [];
  for (const { prompt, category, accept, clip } of sets.flatMap(({ clips }) => clips)) {
    const { video } = await clip();
    if (video.source?.case !== 'inline' || video.source.value === undefined) continue;
    const bytes = video.source.value;
    const mediaType = video.mediaType ?? '';
    const { uri } = await store.put(bytes, { mediaType });
    known.push(
      create(KnownClipSchema, {
        video: {
          ...video,
          source: { case: 'uri', value: uri },
          sha256: createHash('sha256').update(bytes).digest('hex'),
        },
        prompt: { text: prompt, ...(category === undefined ? {} : { category: categoryOf[category] }) },
        accept,
      }),
    );
  }
  return known;
}

async function linkOf(
  labels: LabelClient,
  options: LabelOptions,
  request: { readonly sessionId: string; readonly rater: string; readonly days: number },
): Promise<string> {
  const { path } = await labels.createRaterLink(request);
  const running = options.address === undefined ? await webAddress(options.state) : undefined;
  // Elsewhere only the people there know the dashboard's address.
  return running === undefined ? path : `http://${running.address}${path}`;
}

function agreementCells({ name, items, accuracy, kappa, rocAuc }: AgreementRow): string[] {
  return [name, String(items), points(accuracy), figure(kappa), figure(rocAuc)];
}

function figure(value: number | undefined): string {
  return value === undefined ? '–' : value.toFixed(3);
}
