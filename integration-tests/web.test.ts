import assert from 'node:assert/strict';
import { execFile } from 'node:child_process';
import { mkdtemp, readFile, rm, writeFile } from 'node:fs/promises';
import { createRequire } from 'node:module';
import { tmpdir } from 'node:os';
import { join, resolve } from 'node:path';
import { after, before, test } from 'node:test';
import { promisify } from 'node:util';
import { PGlite } from '@electric-sql/pglite';
import { connect } from '@plumb/client';
import { LoopService } from '@plumb/proto/plumb/loop/v1/loop_pb.js';
import type { Browser, Page } from 'playwright-core';
import { z } from 'zod';
import { chromiumPath, complaintsOf, startBrowser } from './support/browser.ts';
import { plumb, startPlumb } from './support/command-line.ts';
import type { CommandLine } from './support/command-line.ts';

const root = resolve(import.meta.dirname, '..');
const folder = await mkdtemp(join(tmpdir(), 'plumb web '));
const state = join(folder, 'state');
const timeout = 600_000;
/** For what the system does; a busy machine takes its time. */
const patience = { timeout: 300_000 };
const options = chromiumPath === undefined ? { skip: 'there is no Chromium on this machine' } : { timeout };

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

/** A page that has come in by the link, and what it complains of. */
async function enter(
  options: { width?: number; height?: number } = {},
): Promise<{ page: Page; complaints: string[] }> {
  const { width = 1440, height = 900 } = options;
  const context = await browser.newContext({ viewport: { width, height } });
  const page = await context.newPage();
  page.setDefaultTimeout(patience.timeout);
  const complaints = complaintsOf(page);
  await page.goto(link);
  await page.getByRole('heading', { name: 'Runs' }).waitFor();
  return { page, complaints };
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
optimisation: { steps: 8, batchSize: 4, warmupSteps: 0, checkpointEverySteps: 8 }
evaluation: { samplesPerPrompt: 5 }
`,
  );
  const created = await plumb(['run', 'create', spec, '--detach', '--json', '--state', state], folder);
  assert.equal(created.code, 0, created.stderr);
  runId = z.object({ id: z.string() }).parse(JSON.parse(created.stdout.trim().split('\n').at(-1) ?? '')).id;

  // The list heard of it by itself.
  await page.getByRole('link', { name: /watched/ }).click();
  await page.getByText('running', { exact: true }).first().waitFor();
  await page.getByRole('progressbar', { name: 'train prompts, generate' }).waitFor();
  await page.getByText('succeeded', { exact: true }).first().waitFor();
  // What came with it: the gate's decision with its reasons, and the charts.
  await page.getByRole('heading', { name: /^The gate (promoted|refused)$/ }).waitFor();
  assert.ok((await page.locator('.rules li').count()) >= 2);
  await page.locator('#acceptance ~ .grid svg[role="img"]').first().waitFor();
  assert.equal(await page.locator('#training ~ .grid svg[role="img"]').count(), 2);
  assert.deepEqual(complaints, []);
  assert.deepEqual(await barriers(page), []);
  await page.context().close();
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
  assert.deepEqual(await barriers(page), []);
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

interface LabelRow {
  readonly id: string;
  readonly item: number;
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
        rows.push({ id: String(values[place('id')]), item: Number(values[place('item')]) });
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
  assert.deepEqual(await barriers(page), []);
  assert.deepEqual(complaints, []);
  await page.context().close();
});

test('nobody comes in without a link, and an artifact has no address but a signed one', options, async () => {
  assert.equal((await call('LoopService/ListRuns', {}, undefined)).status, 401);
  assert.equal((await call('LoopService/ListRuns', {}, `${token().slice(0, -4)}AAAA`)).status, 401);
  const printed = await plumb(['link', '--state', state, '--role', 'read'], folder);
  const reader = new URL(printed.stdout.trim()).hash.slice('#token='.length);
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
  assert.deepEqual(await barriers(lost), []);
  await context.close();
});

test(
  'ten thousand clips: few of them in the page, little memory, and the first view is small',
  options,
  async () => {
    system.signal('SIGINT');
    await system.ended;
    const ledger = await PGlite.create(join(state, 'ledger'));
    // Copies of what the run has made, so that every one of them has a clip and scores.
    await ledger.exec(`
    create temporary table copies as
      select s.id as original, md5(s.id || n::text) as id, n
      from (select * from samples where grp = 'train' order by position limit 20) s, generate_series(1, 497) n;
    insert into samples (id, run_id, iteration, grp, position, prompt_id, prompt_text, category, sample_index, seed,
        model_version, model_sha256, clip_key, state, video, video_sha256, preview, accepted, created_at, generated_at, scored_at)
      select c.id, run_id, iteration, grp, position + 1000 * c.n, prompt_id, prompt_text, category, sample_index + 1000 * c.n, seed,
        model_version, model_sha256, clip_key, state, video, video_sha256, preview, accepted, created_at, generated_at, scored_at
      from samples s join copies c on c.original = s.id;
    insert into scores (sample_id, reward, version, weights_hash, value, reason, failure_mode, checks, details, scored_at)
      select c.id, reward, version, weights_hash, value, reason, failure_mode, checks, details, scored_at
      from scores s join copies c on c.original = s.sample_id;
  `);
    await ledger.close();
    await start();

    const { page, complaints } = await enter();
    const transferred: unknown = await page.evaluate(
      "[...performance.getEntriesByType('resource'), ...performance.getEntriesByType('navigation')].filter(({ name }) => !name.includes('/api/')).reduce((sum, { transferSize }) => sum + transferSize, 0)",
    );
    assert.ok(z.number().parse(transferred) <= 250_000, `the first view takes ${String(transferred)} bytes`);

    await page.goto(`${origin()}/runs/${runId}/clips`);
    await page
      .locator('.shown')
      .filter({ hasText: /^10,010 clips$/ })
      .waitFor();
    let most = 0;
    const pid = await rendererOf(page);
    for (let step = 0; step <= 40; step += 1) {
      await page.locator('.tiles').evaluate((element, share) => {
        element.scrollTop = share * element.scrollHeight;
      }, step / 40);
      // Every tile that is in the page has its clip, and all the others are gone.
      await page.locator('[data-clip]').first().waitFor();
      await page.locator('[data-clip=""]').first().waitFor({ state: 'detached' });
      most = Math.max(most, await page.locator('.tiles *').count());
    }
    assert.ok(most <= 60 + 1, `${most} elements`);
    await page.locator('[data-index="10009"]').waitFor();
    const megabytes = await privateMegabytes(pid);
    assert.ok(megabytes < 300, `the page takes ${megabytes} MB`);

    await page.locator('[data-index="10009"]').click();
    await page.getByRole('complementary', { name: 'Clip' }).waitFor();
    assert.deepEqual(complaints, []);
    await page.context().close();
  },
);

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
