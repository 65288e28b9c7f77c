import assert from 'node:assert/strict';
import { execFile } from 'node:child_process';
import { glob, readFile } from 'node:fs/promises';
import { join } from 'node:path';
import { test } from 'node:test';
import { promisify } from 'node:util';
import { parse } from 'yaml';
import { z } from 'zod';
import { documentedMetrics } from './support/metric-table.ts';

const run = promisify(execFile);
const root = join(import.meta.dirname, '..');
const read = (path: string): Promise<string> => readFile(join(root, path), 'utf8');

/** Names under which Prometheus knows the documented metrics, each with the labels that are documented. */
async function prometheusNames(): Promise<Set<string>> {
  const names = new Set<string>();
  for (const { name, kind } of (await documentedMetrics()).values()) {
    const base = name.replaceAll('.', '_');
    if (kind === 'counter') names.add(`${base}_total`);
    else if (kind === 'histogram')
      for (const part of ['bucket', 'sum', 'count']) names.add(`${base}_${part}`);
    else names.add(base);
  }
  return names;
}

/** Names of metrics in an expression: words that are no functions, no keywords, no labels and no strings. */
function metricsIn(expression: string): string[] {
  const bare = expression
    .replaceAll(/"[^"]*"/g, '')
    .replaceAll(/\{[^}]*\}/g, '')
    .replaceAll(/\b(by|without|on|ignoring)\s*\([^)]*\)/g, '')
    .replaceAll(/\[[^\]]*\]/g, '')
    .replaceAll(/\boffset \w+/g, '');
  return [...bare.matchAll(/\b[a-z][a-z0-9_]*\b(?!\s*\()/g)]
    .map(([word]) => word)
    .filter((word) => !['or', 'and', 'unless', 'by', 'bool', 'offset'].includes(word));
}

const dashboardSchema = z.object({
  uid: z.string(),
  title: z.string(),
  panels: z
    .array(
      z.object({
        id: z.number(),
        title: z.string().min(1),
        description: z.string().min(20),
        gridPos: z.object({ x: z.number(), y: z.number(), w: z.number(), h: z.number() }),
        targets: z.array(z.object({ expr: z.string(), refId: z.string() })).min(1),
      }),
    )
    .min(1),
});

test('dashboards show metrics that there are, in panels that do not overlap', async () => {
  const known = await prometheusNames();
  const uids: string[] = [];
  for await (const file of glob('deploy/dashboards/*.json', { cwd: root })) {
    const { uid, panels } = dashboardSchema.parse(JSON.parse(await read(file)));
    uids.push(uid);
    for (const { title, targets } of panels) {
      for (const { expr } of targets) {
        const names = metricsIn(expr);
        assert.ok(names.length > 0, `${file}: ${title}: ${expr}`);
        for (const name of names) assert.ok(known.has(name), `${file}: ${title}: there is no ${name}`);
      }
    }
    const places = panels.map(({ gridPos }) => `${gridPos.x} ${gridPos.y}`);
    assert.equal(new Set(places).size, places.length);
    assert.equal(new Set(panels.map(({ id }) => id)).size, panels.length);
  }
  assert.deepEqual(uids.toSorted(), [
    'plumb-judge',
    'plumb-loop',
    'plumb-queues',
    'plumb-reward',
    'plumb-training',
  ]);
});

test('the page on dashboards has every panel, with what it means and what to do, as the panel says itself', async () => {
  const page = await read('docs/grafana.md');
  for await (const file of glob('deploy/dashboards/*.json', { cwd: root })) {
    const dashboard = dashboardSchema.parse(JSON.parse(await read(file)));
    const section = page.split(/^## /m).find((part) => part.startsWith(`${dashboard.title}\n`));
    assert.ok(section !== undefined, `docs/grafana.md has no section ${dashboard.title}`);
    const rows = [...section.matchAll(/^\| (.+) \| (.+) \| (.+) \|$/gm)].slice(1);
    assert.deepEqual(
      rows.map(([, title, means, todo]) => [title, `${means} ${todo}`]),
      dashboard.panels.map(({ title, description }) => [title, description]),
    );
  }
});

/** Labels of Prometheus itself, and of the text format. */
const builtInLabels = new Set(['job', 'instance', 'le']);

test('queries and alerts ask for labels that the metrics have', async () => {
  const labelsOf = new Map(
    [...(await documentedMetrics()).values()].map(({ name, labels }) => [
      name.replaceAll('.', '_'),
      labels?.map((label) => label.replaceAll('.', '_')),
    ]),
  );
  const expressions: string[] = [];
  for await (const file of glob('deploy/dashboards/*.json', { cwd: root })) {
    const { panels } = dashboardSchema.parse(JSON.parse(await read(file)));
    expressions.push(...panels.flatMap(({ targets }) => targets.map(({ expr }) => expr)));
  }
  const { groups } = rulesSchema.parse(parse(await read('deploy/alerts/plumb.rules.yaml')));
  expressions.push(...groups.flatMap((group) => group.rules.map(({ expr }) => expr)));
  for (const expression of expressions) {
    const names = metricsIn(expression).map((name) => name.replace(/_(total|bucket|sum|count)$/, ''));
    const known = new Set(names.flatMap((name) => labelsOf.get(name) ?? []));
    // A convention has more labels than the table repeats.
    if (names.some((name) => labelsOf.has(name) && labelsOf.get(name) === undefined)) continue;
    const asked = [
      ...[...expression.matchAll(/\bby \(([^)]*)\)/g)].flatMap(([, list = '']) => list.split(/,\s*/)),
      ...[...expression.matchAll(/[{,]\s*([a-z_]+)\s*[!=]~?=?"/g)].map(([, label = '']) => label),
    ];
    for (const label of asked) {
      assert.ok(builtInLabels.has(label) || known.has(label), `${expression}: there is no label ${label}`);
    }
  }
});

const rulesSchema = z.object({
  groups: z.array(
    z.object({
      rules: z.array(
        z.object({
          alert: z.string(),
          expr: z.string(),
          labels: z.object({ severity: z.enum(['critical', 'warning', 'info']) }),
          annotations: z.object({ summary: z.string(), runbook: z.string() }),
        }),
      ),
    }),
  ),
});
const testsSchema = z.object({
  tests: z.array(z.object({ alert_rule_test: z.array(z.object({ alertname: z.string() })) })),
});

test('every alert asks for metrics that there are, has a section in the docs, and a unit test', async () => {
  const known = await prometheusNames();
  const { groups } = rulesSchema.parse(parse(await read('deploy/alerts/plumb.rules.yaml')));
  const { tests } = testsSchema.parse(parse(await read('deploy/alerts/plumb.test.yaml')));
  const tested = new Set(tests.flatMap((one) => one.alert_rule_test.map(({ alertname }) => alertname)));
  const sections = [...(await read('docs/alerts.md')).matchAll(/^## (\w+)$/gm)].map(([, name]) => name);
  const rules = groups.flatMap((group) => group.rules);
  for (const { alert, expr, annotations } of rules) {
    for (const name of metricsIn(expr)) {
      assert.ok(name === 'up' || known.has(name), `${alert}: there is no ${name}`);
    }
    assert.equal(annotations.runbook, `docs/alerts.md#${alert.toLowerCase()}`);
    assert.ok(tested.has(alert), `${alert} has no unit test`);
  }
  assert.deepEqual(
    sections,
    rules.map(({ alert }) => alert),
  );
});

test('the rules fire when they should, and not before', async (t) => {
  try {
    await run('promtool', ['--version']);
  } catch (error) {
    assert.equal(error instanceof Error && 'code' in error && error.code, 'ENOENT', String(error));
    assert.notEqual(
      process.env['CI'],
      'true',
      "promtool is not installed: .ci/run installs it with Debian's prometheus",
    );
    t.skip("promtool is not installed; it comes with Debian's package prometheus");
    return;
  }
  const alerts = join(root, 'deploy/alerts');
  await run('promtool', ['check', 'rules', join(alerts, 'plumb.rules.yaml')]);
  await run('promtool', ['test', 'rules', join(alerts, 'plumb.test.yaml')]);
  await run('promtool', ['check', 'config', join(root, 'deploy/prometheus/prometheus.yaml')]);
});

test('the collector configuration names only what it defines', async () => {
  const collector = z
    .object({
      receivers: z.record(z.string(), z.unknown()),
      processors: z.record(z.string(), z.unknown()),
      exporters: z.record(z.string(), z.unknown()),
      service: z.object({
        pipelines: z.record(
          z.string(),
          z.object({
            receivers: z.array(z.string()),
            processors: z.array(z.string()),
            exporters: z.array(z.string()),
          }),
        ),
      }),
    })
    .parse(parse(await read('deploy/collector/collector.yaml')));
  for (const pipeline of Object.values(collector.service.pipelines)) {
    for (const part of ['receivers', 'processors', 'exporters'] as const) {
      for (const name of pipeline[part]) assert.ok(name in collector[part], `${part}: ${name}`);
    }
  }
  assert.deepEqual(Object.keys(collector.service.pipelines).toSorted(), ['metrics', 'traces']);
});
