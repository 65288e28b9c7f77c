import assert from 'node:assert/strict';
import { execFile } from 'node:child_process';
import { createHash } from 'node:crypto';
import { mkdir, mkdtemp, readFile, rm, writeFile } from 'node:fs/promises';
import { createRequire } from 'node:module';
import { tmpdir } from 'node:os';
import { join, resolve } from 'node:path';
import { after, before, test } from 'node:test';
import { promisify } from 'node:util';
import { PGlite } from '@electric-sql/pglite';
import { connect } from '@plumb/client';
import { LoopService } from '@plumb/proto/plumb/loop/v1/loop_pb.js';
import type { Browser, Locator, Page } from 'playwright-core';
import sharp from 'sharp';
import { z } from 'zod';
import { chromiumPath, complaintsOf, startBrowser } from './support/browser.ts';
import { plumb, startPlumb } from './support/command-line.ts';
import type { CommandLine } from './support/command-line.ts';
import { writeTinyStudy } from './support/tiny-study.ts';

const root = resolve(import.meta.dirname, '..');
const folder = await mkdtemp(join(tmpdir(), 'plumb web '));
const state = join(folder, 'state');
const timeout = 1_200_000;
/** For what the system does; a busy machine takes its time. */
const patience = { timeout: 300_000 };
const options =
  chromiumPath === undefined
    ? { skip: 'no Chromium on this machine: install it (Debian: chromium), or name it in PLUMB_CHROMIUM' }
    : { timeout };
/** Where pictures of every page go; none are made without it. */
const pictures = process.env['PLUMB_SCREENSHOTS'];

/** Clips of held-out prompts that are rated, and clips of known truth among them. */
const ratedClips = 44;
const checks = 6;

let system: CommandLine;
let browser: Browser;
let link: string;
let runId: string;

before(async () => {
  if (chromiumPath === undefined) return;
  await promisify(execFile)(process.execPath, [join(root, 'web/build.ts')]);
  browser = await startBrowser();
  await start();
});
after(async () => {
  await browser?.close();
  system?.signal('SIGINT');
  await system?.ended;
  await rm(folder, { recursive: true, force: true });
});

async function start(): Promise<void> {
  system = startPlumb(['up', '--state', state], folder);
  await system.said(/^Ready/);
  link = /^dashboard +(http\S+)$/m.exec(system.stdout())?.[1] ?? '';
  assert.notEqual(link, '');
}

const origin = (): string => new URL(link).origin;
const token = (): string => new URL(link).hash.slice('#token='.length);

/** A page that has come in by a link, and what it complains of. */
async function enter(
  options: { by?: string; width?: number; height?: number; colours?: 'light' | 'dark' } = {},
): Promise<{ page: Page; complaints: string[] }> {
  const { by = link, width = 1440, height = 900, colours = 'light' } = options;
  const context = await browser.newContext({ viewport: { width, height }, colorScheme: colours });
  const page = await context.newPage();
  page.setDefaultTimeout(patience.timeout);
  const complaints = complaintsOf(page);
  await page.goto(by);
  await page.getByRole('heading', { name: 'Runs' }).waitFor();
  return { page, complaints };
}

/** A link to the dashboard for a role. */
async function linkFor(role: 'read' | 'train'): Promise<string> {
  const printed = await plumb(['link', '--state', state, '--role', role], folder);
  assert.equal(printed.code, 0, printed.stderr);
  return printed.stdout.trim();
}

/** A call as a script makes it: Connect over HTTP with JSON. */
async function call(method: string, request: object, bearer: string | undefined): Promise<Response> {
  return await fetch(`${origin()}/api/plumb.loop.v1.${method}`, {
    method: 'POST',
    headers: {
      'content-type': 'application/json',
      ...(bearer === undefined ? {} : { authorization: `Bearer ${bearer}` }),
    },
    body: JSON.stringify(request),
  });
}

/** What axe finds that keeps people out. */
async function barriers(page: Page): Promise<string[]> {
  const source = await readFile(createRequire(import.meta.url).resolve('axe-core/axe.min.js'), 'utf8');
  // Through the debugger: the page's own policy lets no such script in.
  await page.evaluate(source);
  const found: unknown = await page.evaluate('axe.run()');
  const { violations } = z
    .object({
      violations: z.array(
        z.object({
          id: z.string(),
          impact: z.string().nullable(),
          nodes: z.array(z.object({ html: z.string(), failureSummary: z.string().optional() })),
        }),
      ),
    })
    .parse(found);
  return violations
    .filter(({ impact }) => impact === 'serious' || impact === 'critical')
    .map(({ id, nodes }) => `${id}: ${nodes[0]?.html ?? ''} ${nodes[0]?.failureSummary ?? ''}`);
}

const openedSchema = z.object({
  session: z.object({ id: z.string(), items: z.number(), checks: z.number().default(0) }),
  links: z.record(z.string(), z.string()),
});

async function openSession(args: readonly string[]): Promise<z.infer<typeof openedSchema>> {
  const opened = await plumb(['labels', 'open', runId, '--state', state, '--json', ...args], folder);
  assert.equal(opened.code, 0, opened.stderr);
  return openedSchema.parse(JSON.parse(opened.stdout));
}

test('a run is watched live to its end, without a reload', options, async () => {
  const { page, complaints } = await enter();
  const spec = join(folder, 'spec.yaml');
  await writeFile(
    spec,
    `
name: watched
model: ${JSON.stringify(join(root, 'models/toybox/model.safetensors'))}
prompts: { set: ${JSON.stringify(join(root, 'prompts/toybox.json'))}, trainPerCategory: 2, heldoutPerCategory: 1 }
samplesPerPrompt: 2
sampler: { steps: 8 }
rewards: [aif, motion_floor]
heldOutJudge: object_persistence
probe: { everySteps: 4 }
optimisation: { steps: 8, batchSize: 4, warmupSteps: 0, checkpointEverySteps: 8 }
evaluation: { samplesPerPrompt: 5 }
`,
  );
  const created = await plumb(['run', 'create', spec, '--detach', '--json', '--state', state], folder);
  assert.equal(created.code, 0, created.stderr);
  runId = z.object({ id: z.string() }).parse(JSON.parse(created.stdout.trim().split('\n').at(-1) ?? '')).id;

  // The list heard of it by itself, and so does a page of clips that is open all the while.
  const { page: gallery, complaints: others } = await enter();
  await gallery.goto(`${origin()}/runs/${runId}/clips`);
  await gallery
    .locator('.shown')
    .filter({ hasText: /^45 clips$/ })
    .waitFor();
  await page.getByRole('link', { name: /watched/ }).click();
  await page.getByText('running', { exact: true }).first().waitFor();
  await page.getByRole('progressbar', { name: 'train prompts, generate' }).waitFor();
  await page.getByText('succeeded', { exact: true }).first().waitFor();
  // What came with it: the gate's decision with its reasons, and the charts.
  await page.getByRole('heading', { name: /^The gate (promoted|refused)$/ }).waitFor();
  assert.ok((await page.locator('.rules li').count()) >= 2);
  await page.locator('#acceptance ~ .grid svg[role="img"]').first().waitFor();
  await page.getByRole('img', { name: 'Training loss by step' }).waitFor();
  await page
    .getByRole('img', { name: 'Held-out judge against the reward that is trained on' })
    .first()
    .waitFor();
  // The candidate's clips came later, with their verdicts; nobody has loaded the page again.
  await gallery
    .locator('.shown')
    .filter({ hasText: /^70 clips$/ })
    .waitFor();
  await gallery.locator('.tile.pending').first().waitFor({ state: 'detached' });
  const judged = await gallery.locator('.tile.accepted, .tile.rejected').count();
  assert.ok(judged > 0);
  assert.equal(judged, await gallery.locator('.tile').count());
  assert.deepEqual([...complaints, ...others], []);
  await gallery.context().close();
  await page.context().close();
});

test('whoever may only read is offered nothing that would be refused', options, async () => {
  // It waits for people, who never come.
  const spec = join(folder, 'waiting.yaml');
  const text = (await readFile(join(folder, 'spec.yaml'), 'utf8')).replace('name: watched', 'name: waiting');
  await writeFile(spec, `${text}labels: { use: override, atLeast: 20 }\n`);
  const created = await plumb(['run', 'create', spec, '--detach', '--json', '--state', state], folder);
  assert.equal(created.code, 0, created.stderr);
  const id = z
    .object({ id: z.string() })
    .parse(JSON.parse(created.stdout.trim().split('\n').at(-1) ?? '')).id;
  const look = async (by: string): Promise<string[]> => {
    const { page, complaints } = await enter({ by });
    const offered: string[] = [];
    for (const [path, shown] of [
      [`/runs/${id}`, /people have decided on 0 training clips of iteration 1, and the spec waits for 20/],
      [`/runs/${id}/labels`, /Nobody has been asked yet/],
    ] as const) {
      const told = page.waitForResponse(/GetCaller$/);
      await page.goto(origin() + path);
      await told;
      await page.getByText('paused', { exact: true }).first().waitFor();
      await page.getByText(shown).waitFor();
      offered.push(...(await page.locator('main').getByRole('button').allTextContents()));
    }
    assert.deepEqual(complaints, []);
    await page.context().close();
    return offered;
  };
  assert.deepEqual(await look(await linkFor('train')), ['Resume', 'Cancel', 'Open']);
  assert.deepEqual(await look(await linkFor('read')), []);
  const ended = await plumb(['run', 'cancel', id, '--state', state], folder);
  assert.equal(ended.code, 0, ended.stderr);
});

test('clips are filtered, opened with all that is known of them, and compared in step', options, async () => {
  const { page, complaints } = await enter();
  await page.goto(`${origin()}/runs/${runId}/clips`);
  const shown = page.locator('.shown');
  await shown.filter({ hasText: /^70 clips$/ }).waitFor();
  await page.getByLabel('Verdict').selectOption('rejected');
  await shown.filter({ hasNotText: /^(70 clips|Looking …)$/ }).waitFor();
  const rejected = Number(/\d+/.exec((await shown.textContent()) ?? '')?.[0]);
  await page.getByLabel('Verdict').selectOption('accepted');
  await shown.filter({ hasText: new RegExp(`^${70 - rejected} clips$`) }).waitFor();
  await page.getByRole('button', { name: 'Clear' }).click();
  await page.getByLabel('Prompts').selectOption('after');
  await shown.filter({ hasText: /^25 clips$/ }).waitFor();
  assert.match(page.url(), /\?group=after$/);

  // By keyboard alone: into the grid, one to the right, open.
  await page.locator('[data-clip]').first().focus();
  await page.keyboard.press('ArrowRight');
  await page.locator('[data-index="1"]:focus').waitFor();
  await page.keyboard.press('Enter');
  const panel = page.getByRole('complementary', { name: 'Clip' });
  await panel.getByRole('heading', { name: 'Scores' }).waitFor();
  assert.equal(await panel.locator('canvas').count(), 2);
  await panel.getByText('motion_floor', { exact: true }).waitFor();
  await panel.getByRole('img', { name: 'Picture 1 that the judge saw' }).waitFor();
  await panel.locator('.waterfall li').first().waitFor();
  const manifest = await page.request.get(
    new URL(
      (await panel.getByRole('link', { name: 'of the evaluation' }).getAttribute('href')) ?? '',
      origin(),
    ).href,
  );
  assert.equal(manifest.status(), 200);
  assert.match(JSON.stringify(await manifest.json()), /evaluation/);
  assert.deepEqual(await barriers(page), []);
  await page.keyboard.press('Escape');
  await panel.waitFor({ state: 'detached' });

  await page.getByRole('link', { name: 'Before and after' }).click();
  await page.locator('.pair').first().waitFor();
  await page.getByRole('button', { name: 'Stop' }).click();
  const slider = page.getByRole('slider', { name: 'Frame' });
  await slider.fill('0');
  await page.keyboard.press('.');
  assert.equal(await slider.inputValue(), '1');
  const pairs = page.getByRole('status').filter({ hasText: /pairs$/ });
  await pairs.filter({ hasText: /^25 pairs$/ }).waitFor();
  await page.getByLabel('Category').selectOption({ label: 'Falling down' });
  await pairs.filter({ hasText: /^5 pairs$/ }).waitFor();
  const prompt = (await page.locator('.pair .prompt').first().textContent()) ?? '';
  await page.getByLabel('Category').selectOption('');
  // In a list the key would be a letter of what is looked for.
  await page.getByLabel('Category').blur();
  await page.keyboard.press('/');
  await page.keyboard.type(prompt.toUpperCase());
  await pairs.filter({ hasText: /^5 pairs$/ }).waitFor();
  assert.deepEqual([...new Set(await page.locator('.pair .prompt').allTextContents())], [prompt]);
  assert.deepEqual(complaints, []);
  await page.context().close();
});

test('a view leaves as one file that asks nobody for anything', options, async () => {
  const { page, complaints } = await enter();
  await page.goto(`${origin()}/runs/${runId}/compare`);
  await page.locator('.pair canvas').first().waitFor();
  const exported = async (name: RegExp): Promise<Buffer> => {
    await page.getByText('Export', { exact: true }).click();
    const coming = page.waitForEvent('download');
    await page.getByRole('button', { name }).click();
    const download = await coming;
    return await readFile(await download.path());
  };
  const html = (await exported(/HTML/)).toString('utf8');
  assert.doesNotMatch(html, /<script/i);
  assert.doesNotMatch(html, /(src|href)="(?!data:)/);
  assert.match(html, /@keyframes strip-0/);
  assert.match(html, /Content-Security-Policy" content="default-src 'none'/);
  const file = join(folder, 'exported.html');
  await writeFile(file, html);
  const other = await page.context().newPage();
  const requests: string[] = [];
  other.on('request', (request) => requests.push(request.url()));
  const asked = complaintsOf(other);
  await other.goto(`file://${encodeURI(file)}`);
  assert.ok((await other.locator('.pair [class*="strip-"]').count()) >= 10);
  assert.deepEqual(
    requests.filter((url) => !url.startsWith('data:')),
    [`file://${encodeURI(file)}`],
  );
  assert.deepEqual(asked, []);
  const png = await exported(/PNG/);
  assert.equal(png.subarray(1, 4).toString('latin1'), 'PNG');
  assert.deepEqual(complaints, []);

  // A clip that cannot be had is said, and no half file is left behind.
  await page.route('**/artifacts/**', (route) =>
    route.fulfill({ status: 403, body: 'this address is not signed or has expired; load the page again' }),
  );
  await page.getByText('Export', { exact: true }).click();
  await page.getByRole('button', { name: /HTML/ }).click();
  await page
    .getByRole('alert')
    .filter({ hasText: /^Nothing was exported: a clip cannot be had \(403\): .* load the page again$/ })
    .waitFor();
  await page.context().close();
});

test(
  '50 clips are rated by keyboard, the connection drops in between: none is lost, none counts twice',
  options,
  async () => {
    const { session, links } = await openSession([
      `--size=${ratedClips}`,
      `--toybox-checks=${checks}`,
      '--raters=ann',
      '--name=Held-out clips',
    ]);
    const total = ratedClips + checks;
    assert.deepEqual([session.items, session.checks], [total, checks]);
    const context = await browser.newContext({ viewport: { width: 1440, height: 900 } });
    const page = await context.newPage();
    page.setDefaultTimeout(patience.timeout);
    await page.goto(links['ann'] ?? '');
    const answered = page.locator('header .number');
    await answered.filter({ hasText: `0 / ${total}` }).waitFor();
    assert.doesNotMatch(page.url(), /token/);
    assert.deepEqual(await barriers(page), []);

    const rateUrl = '**/LabelService/Rate';
    for (let place = 1; place <= total; place += 1) {
      // Answers that arrive while their confirmation is lost; then no connection at all; then everything comes back.
      if (place === 15) {
        await page.route(rateUrl, async (route) => {
          await route.fetch();
          await route.abort('connectionreset');
        });
      }
      if (place === 20) {
        await context.setOffline(true);
        await page.unroute(rateUrl);
      }
      if (place === 35) await context.setOffline(false);
      await page.keyboard.press(place % 3 === 0 ? 'a' : String((place % 7) + 1));
      await answered.filter({ hasText: `${place} / ${total}` }).waitFor();
      if (place === 34) await page.getByText(/kept here: no connection/).waitFor();
      // One that was wrong: taken back, and given again.
      if (place === 10) {
        await page.keyboard.press('u');
        await answered.filter({ hasText: `9 / ${total}` }).waitFor();
        await page.keyboard.press('a');
        await answered.filter({ hasText: `10 / ${total}` }).waitFor();
      }
    }
    await page.getByText('all saved').waitFor();
    await page.getByText('That was all.').waitFor();
    await page.reload();
    await answered.filter({ hasText: `${total} / ${total}` }).waitFor();
    await context.close();

    const rows = await labelRows(session.id);
    // Fifty answers, and the two of the one that was taken back and given again.
    assert.equal(rows.length, total + 2);
    assert.equal(new Set(rows.map(({ id }) => id)).size, total + 2);
    const byItem = Map.groupBy(rows, ({ item }) => item);
    assert.equal(byItem.size, total);
    assert.deepEqual(
      [...byItem.values()].filter((of) => of.length !== 1).map((of) => of.length),
      [3],
    );
    const listed = await plumb(['labels', 'list', runId, '--state', state, '--json'], folder);
    const [seen] = z
      .array(
        z.object({
          raters: z.array(z.object({ rater: z.string(), answered: z.number(), checksAnswered: z.number() })),
        }),
      )
      .parse(JSON.parse(listed.stdout));
    assert.deepEqual(seen?.raters, [
      { ...seen?.raters[0], rater: 'ann', answered: total, checksAnswered: checks },
    ]);

    // They are a labelled set for the judge's calibration.
    const output = join(folder, 'labelled');
    const written = await plumb(
      ['labels', 'export', runId, '--state', state, '--json', '--output', output],
      folder,
    );
    assert.equal(written.code, 0, written.stderr);
    const lines = (await readFile(join(output, 'labels.jsonl'), 'utf8')).trimEnd().split('\n');
    assert.equal(lines.length, ratedClips);
    const calibrated = await plumb(
      [
        'judge',
        'calibrate',
        join(output, 'labels.jsonl'),
        '--state',
        state,
        '--output',
        join(folder, 'calibration'),
        '--json',
      ],
      folder,
    );
    assert.equal(calibrated.code, 0, calibrated.stderr);
  },
);

test(
  'the better of two is said with the arrow keys, and one that was wrong is taken back',
  options,
  async () => {
    const { session, links } = await openSession([
      '--kind=preference',
      '--size=6',
      '--raters=pia',
      '--name=Pairs',
    ]);
    const { items } = session;
    const context = await browser.newContext({ viewport: { width: 1440, height: 900 } });
    const page = await context.newPage();
    page.setDefaultTimeout(patience.timeout);
    const complaints = complaintsOf(page);
    await page.goto(links['pia'] ?? '');
    const answered = page.locator('header .number');
    await answered.filter({ hasText: `0 / ${items}` }).waitFor();
    await page.getByRole('img', { name: 'Left clip' }).waitFor();
    assert.equal(await page.locator('.question canvas').count(), 2);
    for (let place = 1; place <= items; place += 1) {
      await page.keyboard.press(place % 2 === 0 ? 'ArrowRight' : 'ArrowLeft');
      await answered.filter({ hasText: `${place} / ${items}` }).waitFor();
    }
    await page.keyboard.press('u');
    await answered.filter({ hasText: `${items - 1} / ${items}` }).waitFor();
    await page.keyboard.press('ArrowLeft');
    await page.getByText('That was all.').waitFor();
    await page.getByText('all saved').waitFor();
    assert.deepEqual(complaints, []);
    await context.close();

    const rows = await labelRows(session.id);
    assert.equal(new Set(rows.map(({ item }) => item)).size, items);
    assert.equal(rows.length, items + 2);
    assert.ok(rows.every(({ preferredTo }) => preferredTo !== null));
    const figures = z
      .object({ answers: z.number() })
      .parse(await (await call('LabelService/GetRaterAgreement', { sessionId: session.id }, token())).json());
    assert.equal(figures.answers, items);
  },
);

interface LabelRow {
  readonly id: string;
  readonly item: number;
  /** The sample that this one was better than. */
  readonly preferredTo: string | null;
}

/** The rows that the ledger has of a session. */
async function labelRows(session: string): Promise<LabelRow[]> {
  const status = await plumb(['status', '--json', '--state', state], folder);
  const { components } = z
    .object({ components: z.array(z.object({ name: z.string(), address: z.string() })) })
    .parse(JSON.parse(status.stdout));
  const address = components.find(({ name }) => name === 'loop')?.address ?? '';
  const { client, close } = await connect(LoopService, { address });
  try {
    const rows: LabelRow[] = [];
    for await (const { columns, rows: batch } of client.exportRun({ runId, tables: ['labels'] })) {
      const place = (name: string): number => columns.findIndex((column) => column.name === name);
      for (const text of batch) {
        const values: unknown[] = z.array(z.unknown()).parse(JSON.parse(text));
        if (values[place('session_id')] !== session) continue;
        rows.push({
          id: String(values[place('id')]),
          item: Number(values[place('item')]),
          preferredTo: z.string().nullable().parse(values[place('preferred_to')]),
        });
      }
    }
    return rows;
  } finally {
    close();
  }
}

test("two raters' scripted labels give the agreement of a published example", options, async () => {
  // Krippendorff 2011, "Computing Krippendorff's Alpha-Reliability", example A: two observers, ten units, alpha .095.
  const observers = { meg: '0100000010', owen: '1110010000' };
  const { session, links } = await openSession(['--size=10', '--raters=meg,owen', '--name=Example A']);
  for (const [rater, answers] of Object.entries(observers)) {
    const bearer = new URL(links[rater] ?? '').hash.slice('#token='.length);
    for (const [item, answer] of Array.from(answers).entries()) {
      const response = await call(
        'LabelService/Rate',
        { item, answer: { accept: answer === '1' }, idempotencyKey: `${session.id} ${rater} ${item}` },
        bearer,
      );
      assert.equal(response.status, 200, await response.text());
    }
    // A rater's link opens the rating page and nothing else, and never another's.
    assert.equal((await call('LoopService/ListSamples', { runId }, bearer)).status, 403);
    assert.equal(
      (await call('LabelService/GetRaterAgreement', { sessionId: session.id }, bearer)).status,
      403,
    );
    const stranger = { item: 0, rater: 'somebody', answer: { accept: true }, idempotencyKey: 'k' };
    assert.equal((await call('LabelService/Rate', stranger, bearer)).status, 403);
    const queue = await (await call('LabelService/GetRatingQueue', {}, bearer)).text();
    assert.doesNotMatch(queue, /toybox@|aif|before|after|known/);
  }
  const figures = z
    .object({
      krippendorffAlpha: z.number(),
      fleissKappa: z.number(),
      fleissItems: z.number(),
      answers: z.number(),
      rewards: z.array(z.object({ name: z.string() })).default([]),
    })
    .parse(await (await call('LabelService/GetRaterAgreement', { sessionId: session.id }, token())).json());
  assert.equal(figures.krippendorffAlpha.toFixed(3), '0.095');
  // The same data by Fleiss 1971: observed .6, expected (26 accepted... of 20 ratings: 6 and 14) .58, kappa .048.
  assert.equal(figures.fleissKappa.toFixed(3), '0.048');
  assert.deepEqual([figures.fleissItems, figures.answers], [10, 20]);
  assert.ok(figures.rewards.some(({ name }) => name === 'aif'));

  const { page, complaints } = await enter();
  await page.goto(`${origin()}/runs/${runId}/labels`);
  await page.getByText('0.095').waitFor();
  const card = page.locator('section.card').filter({ hasText: 'Example A' });
  await card.getByText('Reliability diagrams').click();
  await card.getByText(/^aif, expected calibration error 0\.\d{3}$/).waitFor();
  await card.getByRole('img', { name: 'Share of accepted clips against score' }).first().waitFor();

  // A session is opened here as well, on training clips, with a link for a rater.
  await page.getByLabel('Name').fill('Training clips');
  await page.getByLabel('Prompts').selectOption({ label: 'training, latest iteration' });
  await page.getByRole('spinbutton', { name: 'Items' }).fill('5');
  await page.getByRole('button', { name: 'Open' }).click();
  const opened = page.locator('section.card').filter({ hasText: 'Training clips accept or reject, 5 items' });
  await opened.getByLabel('Another rater').fill('zoe');
  await opened.getByRole('button', { name: 'Make a link' }).click();
  const made = await opened.getByRole('textbox', { name: 'Link of the rater' }).inputValue();
  const queue = await call('LabelService/GetRatingQueue', {}, made.slice(made.indexOf('#token=') + 7));
  assert.equal(z.object({ items: z.array(z.unknown()) }).parse(await queue.json()).items.length, 5);
  assert.deepEqual(complaints, []);
  await page.context().close();
});

test('nobody comes in without a link, and an artifact has no address but a signed one', options, async () => {
  assert.equal((await call('LoopService/ListRuns', {}, undefined)).status, 401);
  assert.equal((await call('LoopService/ListRuns', {}, `${token().slice(0, -4)}AAAA`)).status, 401);
  const reader = new URL(await linkFor('read')).hash.slice('#token='.length);
  const listed = await call('LoopService/ListSamples', { runId, pageSize: 1 }, reader);
  const { samples } = z
    .object({ samples: z.array(z.object({ clipUrl: z.string() })) })
    .parse(await listed.json());
  assert.equal((await call('LoopService/CancelRun', { id: runId, idempotencyKey: 'k' }, reader)).status, 403);

  const signed = samples[0]?.clipUrl ?? '';
  const clip = await fetch(origin() + signed);
  assert.deepEqual([clip.status, clip.headers.get('content-type')], [200, 'image/png']);
  const [path = '', query = ''] = signed.split('?');
  for (const wrong of [
    path,
    `${path}?${query.replace(/until=\d+/, 'until=4102444800')}`,
    `${path.replace('image/png', 'application/json')}?${query}`,
    `${path.replace(/[0-9a-f]{64}/, 'a'.repeat(64))}?${query}`,
    '/artifacts/..%2f..%2fweb-key?until=4102444800&signature=',
  ]) {
    assert.equal((await fetch(origin() + wrong)).status, 403, wrong);
  }
  const page = await fetch(origin());
  assert.match(page.headers.get('content-security-policy') ?? '', /script-src 'self';/);
  assert.doesNotMatch(page.headers.get('content-security-policy') ?? '', /unsafe|\*|http/);
  assert.doesNotMatch(await page.text(), /<script(?![^>]*src=)|<style|style=/);
  assert.equal((await fetch(`${origin()}/../../package.json`)).status, 404);

  // Whoever comes without one is told how to get one.
  const context = await browser.newContext();
  const lost = await context.newPage();
  await lost.goto(origin());
  await lost.getByRole('heading', { name: 'This page needs a link' }).waitFor();
  // One that does not hold is said to be none, and one that holds opens the page that was asked for.
  const field = lost.getByLabel('Link or token');
  await field.fill('not a link!');
  await field.press('Enter');
  await lost.getByRole('alert').filter({ hasText: 'neither a link nor a token' }).waitFor();
  await field.fill(`${link.slice(0, -4)}AAAA`);
  await field.press('Enter');
  await lost.getByRole('alert').filter({ hasText: 'This link does not hold' }).waitFor();
  await field.fill(link);
  await field.press('Enter');
  await lost.getByRole('heading', { name: 'Runs' }).waitFor();
  await context.close();
});

test('a study that has run to its end is there with its matrix and its charts', options, async () => {
  const { page, complaints } = await enter();
  await page.getByRole('link', { name: 'Studies' }).click();
  await page.getByText('No study has run to its end.').waitFor();
  await writeTinyStudy(folder);
  const studied = await plumb(['study', 'run', 'tiny.yaml', '--threads', '1'], folder);
  assert.equal(studied.code, 0, studied.stderr);
  await page.reload();
  await page.getByRole('link', { name: /^tiny/ }).click();
  const matrix = page.getByRole('region', { name: 'Comparison matrix' });
  await matrix.waitFor();
  assert.deepEqual(await matrix.locator('tbody th').allTextContents(), ['sft', 'rwr', 'dpo']);
  assert.deepEqual(await matrix.locator('thead th').allTextContents(), ['Algorithm', 'none', 'optical_flow']);
  assert.match((await matrix.locator('tbody td').first().textContent()) ?? '', /to/);
  for (const name of ['Gain in accepted held-out clips', 'Change of the trained-on reward']) {
    await page.getByRole('img', { name }).waitFor();
  }
  assert.deepEqual(complaints, []);
  await page.context().close();
  // Nothing but the names of studies leads anywhere.
  for (const name of ['..', '../state', 'none', '']) {
    assert.equal((await call('StudyService/GetStudy', { name }, token())).status, 404, name);
  }
});

test('every page keeps nobody out: light, dark, and on a telephone', options, async () => {
  const { links } = await openSession(['--size=4', '--raters=lea', '--name=A look']);
  const { samples } = z
    .object({ samples: z.array(z.object({ id: z.string() })) })
    .parse(
      await (
        await call('LoopService/ListSamples', { runId, pageSize: 1, filter: { group: 'after' } }, token())
      ).json(),
    );
  const run = `/runs/${runId}`;
  const pages: Readonly<Record<string, { path: string; shows: (page: Page) => Locator }>> = {
    runs: { path: '/', shows: (page) => page.getByRole('link', { name: /watched/ }).first() },
    run: { path: run, shows: (page) => page.getByRole('img', { name: 'Training loss by step' }) },
    clips: { path: `${run}/clips`, shows: (page) => page.locator('.tile.accepted').first() },
    clip: {
      path: `${run}/clips?sample=${samples[0]?.id}`,
      shows: (page) => page.locator('.waterfall li').first(),
    },
    compare: { path: `${run}/compare`, shows: (page) => page.locator('.pair canvas').first() },
    labels: { path: `${run}/labels`, shows: (page) => page.getByText('0.095') },
    studies: { path: '/studies', shows: (page) => page.getByRole('link', { name: /^tiny/ }) },
    study: {
      path: '/studies/tiny',
      shows: (page) => page.getByRole('img', { name: 'Change of the trained-on reward' }),
    },
    'given-up': { path: '/given-up', shows: (page) => page.getByText('No message was given up.') },
    nowhere: { path: '/nowhere', shows: (page) => page.getByText('There is nothing here') },
    rate: { path: links['lea'] ?? '', shows: (page) => page.locator('.question canvas') },
  };
  for (const [width, height, colours] of [
    [1440, 900, 'light'],
    [1440, 900, 'dark'],
    [390, 844, 'light'],
  ] as const) {
    const { page, complaints } = await enter({ width, height, colours });
    for (const [name, { path, shows }] of Object.entries(pages)) {
      await page.goto(new URL(path, origin()).href);
      await shows(page).waitFor();
      const where = `${name}, ${width} pixels, ${colours}`;
      assert.deepEqual(await barriers(page), [], where);
      const wide: unknown = await page.evaluate('document.documentElement.scrollWidth');
      assert.ok(
        z.number().parse(wide) <= width,
        `${where}: ${String(wide)} pixels are wider than the window`,
      );
      if (pictures !== undefined) {
        await mkdir(pictures, { recursive: true });
        await page.screenshot({
          path: join(pictures, `${name}-${width}-${colours}.png`),
          fullPage: width === 390,
        });
      }
    }
    await page.goto(origin());
    await page.getByRole('heading', { name: 'Runs' }).waitFor();
    await page.keyboard.press('?');
    await page.getByRole('dialog', { name: 'Keys' }).waitFor();
    assert.deepEqual(await barriers(page), [], 'the list of keys');
    assert.deepEqual(complaints, []);
    await page.context().close();
  }
  const context = await browser.newContext();
  const lost = await context.newPage();
  await lost.goto(origin());
  await lost.getByRole('heading', { name: 'This page needs a link' }).waitFor();
  assert.deepEqual(await barriers(lost), [], 'without a link');
  await context.close();
});

/** Clips of the gallery that is scrolled through, beside those of the run itself. */
const copies = 9_940;
/** Elements that the grid may have: itself, what gives it its height, and tiles. */
const mostElements = 60;

test(
  'ten thousand different clips: few elements in the page, little memory, and the first view is small',
  options,
  async (t) => {
    await restartWith(copyClips);
    const { page, complaints } = await enter();
    const transferred: unknown = await page.evaluate(
      "[...performance.getEntriesByType('resource'), ...performance.getEntriesByType('navigation')].filter(({ name }) => !name.includes('/api/')).reduce((sum, { transferSize }) => sum + transferSize, 0)",
    );
    assert.ok(z.number().parse(transferred) <= 250_000, `the first view takes ${String(transferred)} bytes`);
    t.diagnostic(`the first view takes ${String(transferred)} bytes`);
    await page.context().close();
    t.diagnostic(`the first view is there after ${(await firstViews(7)).join(', ')} ms`);

    const { page: gallery, complaints: others } = await enter();
    await gallery.goto(`${origin()}/runs/${runId}/clips`);
    await gallery
      .locator('.shown')
      .filter({ hasText: /^10,010 clips$/ })
      .waitFor();
    let most = 0;
    let all = 0;
    const seen = new Set<string>();
    const pid = await rendererOf(gallery);
    for (let step = 0; step <= 40; step += 1) {
      await gallery.locator('.tiles').evaluate((element, share) => {
        element.scrollTop = share * element.scrollHeight;
      }, step / 40);
      // Every tile that is in the page has its clip, and all the others are gone.
      await gallery.locator('[data-clip]').first().waitFor();
      await gallery.locator('[data-clip=""]').first().waitFor({ state: 'detached' });
      most = Math.max(most, await gallery.locator('.tiles, .tiles *').count());
      all = Math.max(all, await gallery.locator('*').count());
      for (const id of await gallery
        .locator('[data-clip]')
        .evaluateAll((tiles) => tiles.map((tile) => tile.getAttribute('data-clip') ?? ''))) {
        seen.add(id);
      }
    }
    assert.ok(most <= mostElements, `${most} elements`);
    await gallery.locator('[data-index="10009"]').waitFor();
    const megabytes = await privateMegabytes(pid);
    assert.ok(megabytes < 300, `the page takes ${megabytes} MB`);
    t.diagnostic(
      `${most} elements in the grid, ${all} in the whole page; ${megabytes} MB after ${seen.size} different clips`,
    );

    await gallery.locator('[data-index="10009"]').click();
    await gallery.getByRole('complementary', { name: 'Clip' }).waitFor();
    assert.deepEqual([...complaints, ...others], []);
    await gallery.context().close();
  },
);

/** What an expression gives in the page, once it gives something. Not `waitForFunction`: the page's policy forbids what that does. */
async function valueOf(page: Page, expression: string): Promise<unknown> {
  for (;;) {
    const value: unknown = await page.evaluate(
      `new Promise((resolve) => requestAnimationFrame(() => resolve(${expression})))`,
    );
    if (value !== undefined && value !== false) return value;
  }
}

/** Milliseconds from the address to the list of runs with a run in it, each time in a browser that has seen nothing. */
async function firstViews(times: number): Promise<number[]> {
  const found: number[] = [];
  for (let time = 0; time < times; time += 1) {
    const context = await browser.newContext({ viewport: { width: 1440, height: 900 } });
    const page = await context.newPage();
    // In the page itself: what the debugger takes is not what somebody waits for.
    await page.addInitScript(`
      new MutationObserver((_, observer) => {
        if (document.querySelector('.run-row') === null) return;
        observer.disconnect();
        requestAnimationFrame(() => { globalThis.firstViewMs = performance.now(); });
      }).observe(document, { childList: true, subtree: true });
    `);
    await page.goto(link);
    found.push(Math.round(z.number().parse(await valueOf(page, 'globalThis.firstViewMs'))));
    await context.close();
  }
  return found;
}

test(
  'a film that the browser plays follows the clock of all, and leaves with the page',
  options,
  async () => {
    await restartWith(putFilms);
    const { page, complaints } = await enter();
    await page.goto(`${origin()}/runs/${runId}/compare`);
    const films = page.locator('.pair video');
    await films.first().waitFor();
    await page.getByRole('button', { name: 'Stop' }).click();
    const slider = page.getByRole('slider', { name: 'Frame' });
    // Each frame of the film is lighter than the one before by so much.
    const [darkest, step] = [20, 28];
    for (const frame of [0, 5, 2, 7]) {
      await slider.fill(String(frame));
      await valueOf(
        page,
        `(() => {
        const levels = [...document.querySelectorAll('.pair video')].map((video) => {
          const canvas = new OffscreenCanvas(1, 1);
          canvas.getContext('2d').drawImage(video, 0, 0, 1, 1);
          return canvas.getContext('2d').getImageData(0, 0, 1, 1).data[0];
        });
        return levels.length === 2 && levels.every((level) => Math.abs(level - ${darkest + step * frame}) < ${step / 2});
      })()`,
      );
    }
    await page.getByText('Export', { exact: true }).click();
    const coming = page.waitForEvent('download');
    await page.getByRole('button', { name: /HTML/ }).click();
    const file = join(folder, 'films.html');
    await (await coming).saveAs(file);
    const other = await page.context().newPage();
    const asked = complaintsOf(other);
    await other.goto(`file://${encodeURI(file)}`);
    // They play, without anybody who asks for anything.
    await valueOf(
      other,
      "(() => { const films = [...document.querySelectorAll('video')]; return films.length === 2 && films.every((film) => film.src.startsWith('data:video/mp4') && film.currentTime > 0); })()",
    );
    assert.deepEqual([...complaints, ...asked], []);
    await page.context().close();
  },
);

/** Stops the system, changes its ledger and its artifacts, and starts it again. */
async function restartWith(change: (ledger: PGlite) => Promise<void>): Promise<void> {
  system.signal('SIGINT');
  await system.ended;
  const ledger = await PGlite.create(join(state, 'ledger'));
  try {
    await change(ledger);
  } finally {
    await ledger.close();
  }
  await start();
}

/** Where the embedded system keeps what has this hash. */
async function putArtifact(bytes: Uint8Array): Promise<string> {
  const hash = createHash('sha256').update(bytes).digest('hex');
  const home = join(state, 'artifacts/sha256', hash.slice(0, 2));
  await mkdir(home, { recursive: true });
  await writeFile(join(home, hash), bytes);
  return hash;
}

/** Copies what the run has made until there are ten thousand clips, each with pixels of its own. */
async function copyClips(ledger: PGlite): Promise<void> {
  const { rows } = await ledger.query<{ id: string; video_sha256: string }>(
    "select id, video_sha256 from samples where run_id = $1 and grp = 'train' order by position limit 20",
    [runId],
  );
  const clips: { original: string; from: string; to: string; n: number }[] = [];
  for (const { id, video_sha256: from } of rows) {
    const { data, info } = await sharp(join(state, 'artifacts/sha256', from.slice(0, 2), from))
      .raw()
      .toBuffer({ resolveWithObject: true });
    for (let n = 1; n <= copies / rows.length; n += 1) {
      const pixels = Uint8Array.from(data);
      // No two of them are alike: the number stands in the first pixels, and all are a little lighter or darker.
      pixels.set([n & 255, n >> 8, id.charCodeAt(0)]);
      for (let at = 3; at < pixels.length; at += 1) pixels[at] = Math.max(0, (pixels[at] ?? 0) - (n % 31));
      const { width, height, channels } = info;
      const png = await sharp(pixels, { raw: { width, height, channels } })
        .png({ compressionLevel: 1, adaptiveFiltering: false })
        .toBuffer();
      clips.push({ original: id, from, to: await putArtifact(png), n });
    }
  }
  assert.equal(new Set(clips.map(({ to }) => to)).size, copies);
  await ledger.exec(
    'create temporary table copies (original text, from_sha256 text, to_sha256 text, n integer, id text)',
  );
  await ledger.query(
    `insert into copies select original, "from", "to", n, md5(original || n::text)
     from json_to_recordset($1::json) as given (original text, "from" text, "to" text, n integer)`,
    [JSON.stringify(clips)],
  );
  await ledger.exec(`
    insert into samples (id, run_id, iteration, grp, position, prompt_id, prompt_text, category, sample_index, seed,
        model_version, model_sha256, clip_key, state, video, video_sha256, preview, accepted, created_at, generated_at, scored_at)
      select c.id, run_id, iteration, grp, position + 1000 * c.n, prompt_id, prompt_text, category, sample_index + 1000 * c.n, seed,
        model_version, model_sha256, clip_key, state, replace(video, c.from_sha256, c.to_sha256), c.to_sha256, preview, accepted,
        created_at, generated_at, scored_at
      from samples s join copies c on c.original = s.id;
    insert into scores (sample_id, reward, version, weights_hash, value, reason, failure_mode, checks, details, scored_at)
      select c.id, reward, version, weights_hash, value, reason, failure_mode, checks, details, scored_at
      from scores s join copies c on c.original = s.sample_id;
  `);
}

/** Puts a film of eight frames in the place of the first pair's clips. */
async function putFilms(ledger: PGlite): Promise<void> {
  const film = await readFile(join(import.meta.dirname, 'support/clips/eight-grey-levels.mp4'));
  const sha256 = await putArtifact(film);
  const video = {
    uri: `artifact:sha256/${sha256}`,
    sha256,
    mediaType: 'video/mp4',
    width: 64,
    height: 64,
    frameCount: 8,
    fps: 8,
  };
  await ledger.query(
    `update samples set video = $1, video_sha256 = $2
     where run_id = $3 and grp in ('before', 'after') and position = 0`,
    [JSON.stringify(video), sha256, runId],
  );
}

/** The process that draws a page. */
async function rendererOf(page: Page): Promise<number> {
  const session = await browser.newBrowserCDPSession();
  const { processInfo } = await session.send('SystemInfo.getProcessInfo');
  const renderers = processInfo.filter(({ type }) => type === 'renderer');
  await session.detach();
  assert.equal(page.context().pages().length, 1);
  // One page is open, and one process draws it; a spare one that waits for work has used the least.
  return renderers.toSorted((a, b) => b.cpuTime - a.cpuTime)[0]?.id ?? 0;
}

/** Memory that a process shares with nobody. */
async function privateMegabytes(pid: number): Promise<number> {
  const rollup = await readFile(`/proc/${pid}/smaps_rollup`, 'utf8');
  const kilobytes = [...rollup.matchAll(/^Private_\w+: +(\d+) kB$/gm)].reduce(
    (sum, [, size]) => sum + Number(size),
    0,
  );
  return Math.round(kilobytes / 1024);
}
