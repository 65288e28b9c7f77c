import assert from 'node:assert/strict';
import { mkdtemp, readFile, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, before, test } from 'node:test';
import { setTimeout as delay } from 'node:timers/promises';
import { z } from 'zod';
import { plumb, startPlumb } from './support/command-line.ts';
import { documentedMetrics } from './support/metric-table.ts';
import { startOtlpReceiver } from './support/otlp-receiver.ts';
import type { OtlpReceiver, ReceivedSpan } from './support/otlp-receiver.ts';
import { parseResult, smallDemo, smallDemoSamples } from './support/small-demo.ts';

const folder = await mkdtemp(join(tmpdir(), 'plumb traces '));
after(() => rm(folder, { recursive: true, force: true }));
const timeout = 600_000;

/** The spans of a demo, as a collector got them. */
interface Traces {
  readonly all: readonly ReceivedSpan[];
  readonly byId: ReadonlyMap<string, ReceivedSpan>;
  readonly samples: readonly ReceivedSpan[];
}

function tracesOf({ spans }: OtlpReceiver): Traces {
  return {
    all: spans,
    byId: new Map(spans.map((span) => [span.spanId, span])),
    samples: spans.filter(({ name }) => name === 'sample'),
  };
}

/** `service name` of a span and of everything above it, from the root down. */
function lineage(traces: Traces, span: ReceivedSpan): string[] {
  const above = traces.byId.get(span.parentSpanId);
  const own = `${span.service.replace('plumb-', '')} ${span.name}`;
  return above === undefined ? [own] : [...lineage(traces, above), own];
}

/** What must lie above each other in the trace of every sample, from the root down; others may lie between. */
const sampleEdges: readonly (readonly string[])[] = [
  ['loop sample', 'loop send plumb.tasks.generate', 'generator wait plumb.tasks.generate'],
  [
    'loop sample',
    'loop send plumb.tasks.generate',
    'generator process plumb.tasks.generate',
    'generator generate',
    'generator wait for batch',
  ],
  ['generator process plumb.tasks.generate', 'generator generate', 'generator sample clip'],
  ['generator process plumb.tasks.generate', 'generator generate', 'generator store'],
  [
    'generator process plumb.tasks.generate',
    'generator send plumb.events.sample.generated',
    'loop process plumb.events.sample.generated',
    'loop ledger',
  ],
  ['generator send plumb.events.sample.generated', 'loop wait plumb.events.sample.generated'],
  ['loop sample', 'loop wait for plan'],
  ['loop sample', 'loop send plumb.tasks.score', 'reward wait plumb.tasks.score'],
  [
    'loop sample',
    'loop send plumb.tasks.score',
    'reward process plumb.tasks.score',
    'reward score aif',
    'reward plumb.judge.v1.JudgeService/Judge',
    'judge plumb.judge.v1.JudgeService/Judge',
    'judge chat toybox-referee',
    'referee POST /v1/chat/completions',
  ],
  [
    'reward process plumb.tasks.score',
    'reward send plumb.events.sample.scored',
    'loop process plumb.events.sample.scored',
    'loop ledger',
  ],
];

function assertSampleTraces(traces: Traces, wanted: readonly (readonly string[])[]): void {
  const ids = new Set(traces.samples.map(({ attributes }) => attributes['plumb.sample.id']));
  assert.equal(ids.size, smallDemoSamples);
  assert.equal(traces.samples.length, smallDemoSamples, 'every sample has one trace');
  for (const root of traces.samples) {
    const id = root.attributes['plumb.sample.id'];
    const own = traces.all.filter(({ traceId }) => traceId === root.traceId);
    const elsewhere = traces.all.filter(
      ({ attributes, traceId }) => attributes['plumb.sample.id'] === id && traceId !== root.traceId,
    );
    assert.deepEqual(
      elsewhere.map(({ name }) => name),
      [],
      `spans of ${String(id)} in other traces`,
    );
    assert.deepEqual([...new Set(own.map(({ service }) => service))].toSorted(), [
      'plumb-generator',
      'plumb-judge',
      'plumb-loop',
      'plumb-referee',
      'plumb-reward',
    ]);
    const lineages = own.map((span) => lineage(traces, span));
    for (const edge of wanted) {
      const found = lineages.some((names) => {
        let place = -1;
        return (
          edge.every((name) => (place = names.indexOf(name, place + 1)) >= 0) && names.at(-1) === edge.at(-1)
        );
      });
      assert.ok(
        found,
        `${String(id)} lacks ${edge.join(' > ')}; it has\n${lineages.map((one) => one.join(' > ')).join('\n')}`,
      );
    }
    assert.ok(
      root.attributes['plumb.prompt.id'] !== undefined && root.attributes['plumb.category'] !== undefined,
    );
  }
}

function assertIteration(traces: Traces): void {
  const iterations = traces.all.filter(({ name }) => name === 'iteration');
  assert.equal(iterations.length, 1);
  const [root] = iterations;
  assert.ok(root !== undefined);
  const own = traces.all.filter(({ traceId }) => traceId === root.traceId);
  const steps = new Set(
    own.filter(({ parentSpanId }) => parentSpanId === root.spanId).map(({ name }) => name),
  );
  for (const step of ['plan', 'freeze', 'train', 'register', 'evaluate', 'gate'])
    assert.ok(steps.has(step), step);
  assert.ok(steps.has('promote') || steps.has('refuse'));
  const training = own.find(({ name, service }) => name === 'train' && service === 'plumb-trainer');
  assert.ok(training !== undefined);
  assert.deepEqual(lineage(traces, training).slice(0, 2), ['loop iteration', 'loop train']);
  assert.ok(
    own.some(({ name }) => name.startsWith('engine ')),
    'the engine of the trainer is in the trace',
  );

  // Both ways, and to spans that exist.
  const linkedFromPlans = new Set(
    own.filter(({ name }) => name === 'plan').flatMap(({ links }) => links.map(({ spanId }) => spanId)),
  );
  for (const sample of traces.samples) {
    assert.ok(linkedFromPlans.has(sample.spanId), 'the iteration links to the sample');
    const back = sample.links.map(({ spanId }) => traces.byId.get(spanId));
    assert.ok(back.some((span) => span?.name === 'plan' && span.traceId === root.traceId));
  }
}

function assertNoOrphans(traces: Traces): void {
  const orphans = traces.all.filter(
    ({ parentSpanId }) => parentSpanId !== '' && !traces.byId.has(parentSpanId),
  );
  assert.deepEqual(
    orphans.map(({ service, name }) => `${service} ${name}`),
    [],
  );
}

function assertLinksResolve(traces: Traces): void {
  for (const { name, links } of traces.all) {
    for (const { traceId, spanId } of links) {
      assert.equal(traces.byId.get(spanId)?.traceId, traceId, `a link of '${name}' leads nowhere`);
    }
  }
  for (const [kind, item] of [
    ['sample batch', /^generate$/],
    ['score batch', /^score /],
  ] as const) {
    // Of a batch that died with its process only that it was there is known.
    const batches = traces.all.filter(
      ({ name, attributes }) => name === kind && attributes['error.type'] !== 'process_died',
    );
    assert.ok(batches.length > 0, kind);
    for (const batch of batches) {
      assert.equal(batch.links.length, batch.attributes['plumb.batch.size'], kind);
      for (const { spanId } of batch.links) {
        const linked = traces.byId.get(spanId);
        assert.match(linked?.name ?? '', item);
        const back = traces.all.some(
          ({ traceId, links }) =>
            traceId === linked?.traceId && links.some((link) => link.spanId === batch.spanId),
        );
        assert.ok(back, `${kind}: no link back`);
      }
    }
  }
}

let receiver: OtlpReceiver;
let traces: Traces;
const state = join(folder, 'state');

before(
  async () => {
    receiver = await startOtlpReceiver();
    process.env['OTEL_EXPORTER_OTLP_ENDPOINT'] = receiver.url;
    const demo = await plumb([...smallDemo, '--state', state], folder);
    assert.equal(demo.code, 0, demo.stderr);
    traces = tracesOf(receiver);
  },
  { timeout },
);
after(() => {
  receiver.close();
});

test('every sample is one trace across five processes, with every step under the right parent', () => {
  assertSampleTraces(traces, sampleEdges);
});

test('an iteration is one trace, with links to its samples and back', () => {
  assertIteration(traces);
});

test('no span has a parent that is not there, and every link leads to a span', () => {
  assertNoOrphans(traces);
  assertLinksResolve(traces);
});

test('statements are spans without values, and nothing of a prompt or a picture is in any span', async () => {
  const statements = traces.all.filter(({ attributes }) => attributes['db.system.name'] !== undefined);
  assert.ok(statements.some(({ name }) => name === 'UPDATE samples'));
  const verdicts = traces.all.filter(({ name }) => name.startsWith('chat '));
  for (const { attributes } of verdicts) {
    assert.ok(Number(attributes['gen_ai.usage.input_tokens']) > 0);
    assert.equal(attributes['gen_ai.request.model'], 'toybox-referee');
  }
  const prompts = z
    .object({ prompts: z.array(z.object({ text: z.string() })) })
    .parse(JSON.parse(await readFile(new URL('../prompts/toybox.json', import.meta.url), 'utf8')))
    .prompts.map(({ text }) => text);
  for (const { name, attributes } of traces.all) {
    const text = JSON.stringify(attributes);
    assert.ok(!prompts.some((prompt) => text.includes(prompt)), name);
    assert.doesNotMatch(text, /data:image/);
  }
});

test('metrics are those of the documented table: names, kinds and units', async () => {
  const documented = await documentedMetrics();
  const exported = [...receiver.metrics.values()];
  assert.deepEqual(
    exported.map(({ name }) => name).filter((name) => !documented.has(name)),
    [],
    'exported, and not in docs/metrics.md',
  );
  for (const { name, kind, unit } of exported) {
    const { kind: saidKind, unit: saidUnit } = documented.get(name) ?? {};
    assert.deepEqual({ name, kind, unit }, { name, kind: saidKind, unit: saidUnit });
  }
  const missing = [...documented.values()].filter(
    ({ name, always }) => always && !receiver.metrics.has(name),
  );
  assert.deepEqual(
    missing.map(({ name }) => name),
    [],
    'in docs/metrics.md, and not exported by a demo',
  );
});

const summarySchema = z.object({
  wallMs: z.number(),
  accountedShare: z.number(),
  orphans: z.number(),
  stages: z.array(z.object({ stage: z.string(), ms: z.number() })),
});

test('plumb trace: a sample in 80 columns, at least 95% of its time accounted for; an iteration, a run', async () => {
  const text = await plumb(['trace', '--state', state], folder);
  assert.equal(text.code, 0, text.stderr);
  assert.ok(
    text.stdout.split('\n').every((line) => line.length <= 80),
    text.stdout,
  );
  assert.match(text.stdout, /^sample [0-9a-f]+\n/);
  assert.match(text.stdout, /judge +chat toybox-referee +#/);
  for (const root of traces.samples.slice(0, 5)) {
    const id = String(root.attributes['plumb.sample.id']);
    const one = await plumb(['trace', id, '--json', '--state', state], folder);
    const { wallMs, accountedShare, orphans, stages } = summarySchema.parse(JSON.parse(one.stdout));
    assert.ok(accountedShare >= 0.95, `${accountedShare} of ${id}`);
    assert.equal(orphans, 0);
    assert.ok(Math.abs(stages.reduce((sum, { ms }) => sum + ms, 0) - wallMs) < 1);
  }
  const runId = String(traces.samples[0]?.attributes['plumb.run.id']);
  const iteration = await plumb(['trace', `${runId}/1`, '--state', state], folder);
  assert.match(iteration.stdout, /freeze[\s\S]*evaluate[\s\S]*gate/);
  const run = await plumb(['trace', runId, '--json', '--state', state], folder);
  const whole = z.object({ samples: z.number() }).parse(JSON.parse(run.stdout));
  assert.equal(whole.samples, smallDemoSamples);
  const unknown = await plumb(['trace', 'nothing-of-ours', '--state', state], folder);
  assert.equal(unknown.code, 1);
  assert.match(unknown.stderr, /nothing-of-ours/);
});

const statusSchema = z.object({
  components: z.array(z.object({ name: z.string(), pid: z.number().optional() })),
});

test(
  'after SIGKILLs of generator, reward and judge every sample is still one whole trace, without gaps and orphans',
  { timeout },
  async (t) => {
    const other = await startOtlpReceiver();
    t.after(() => {
      other.close();
    });
    process.env['OTEL_EXPORTER_OTLP_ENDPOINT'] = other.url;
    const killed = join(folder, 'killed');
    // Steps enough for the first batch to be under way when the generator dies.
    const demo = startPlumb([...smallDemo, '--sampler-steps=24', '--state', killed], folder);
    let ended = false;
    void demo.ended.then(() => (ended = true));
    const seen = async (what: (span: ReceivedSpan) => boolean): Promise<void> => {
      while (!other.spans.some(what)) {
        assert.ok(!ended, demo.stderr());
        await delay(50);
      }
    };
    const pidOf = async (name: string): Promise<number> => {
      const status = await plumb(['status', '--json', '--state', killed], folder);
      const { components } = statusSchema.parse(JSON.parse(status.stdout));
      const pid = components.find((component) => component.name === name)?.pid;
      assert.ok(pid !== undefined, name);
      return pid;
    };
    await seen(({ name }) => name === 'load model');
    process.kill(await pidOf('generator'), 'SIGKILL');
    await seen(({ name }) => name.startsWith('chat '));
    // While the judge stands still the reward service has work that it cannot end.
    const [judge, reward] = [await pidOf('judge'), await pidOf('reward')];
    process.kill(judge, 'SIGSTOP');
    const asked = (): number => other.spans.filter(({ name }) => name === 'send plumb.tasks.score').length;
    const before = asked();
    await seen(() => asked() > before + 1);
    process.kill(reward, 'SIGKILL');
    process.kill(judge, 'SIGCONT');
    const again = (service: string) => (span: ReceivedSpan) =>
      span.service === service && Number(span.attributes['plumb.message.deliveries']) > 1;
    await seen(again('plumb-reward'));
    process.kill(judge, 'SIGKILL');
    assert.equal(await demo.ended, 0, demo.stderr());
    assert.equal(parseResult(demo.stdout()).errors, 0);
    const after = tracesOf(other);
    assertSampleTraces(after, sampleEdges);
    assertIteration(after);
    assertNoOrphans(after);
    assertLinksResolve(after);
    for (const service of ['plumb-generator', 'plumb-reward']) {
      assert.ok(after.all.some(again(service)), `tasks were delivered again to ${service}`);
    }
    assert.ok(
      after.all.some(({ attributes }) => attributes['error.type'] === 'process_died'),
      'what the killed processes had in work is there',
    );
    const redelivered = after.all.find(again('plumb-generator'))?.attributes['plumb.sample.id'];
    const one = await plumb(['trace', String(redelivered), '--json', '--state', killed], folder);
    const { accountedShare, orphans } = summarySchema.parse(JSON.parse(one.stdout));
    assert.ok(accountedShare >= 0.95, `${accountedShare} of ${String(redelivered)}`);
    assert.equal(orphans, 0);
  },
);
