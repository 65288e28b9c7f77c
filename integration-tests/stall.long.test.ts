import assert from 'node:assert/strict';
import { mkdtemp, readFile, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { test } from 'node:test';
import { setTimeout as delay } from 'node:timers/promises';
import { z } from 'zod';
import { plumb, startPlumb } from './support/command-line.ts';
import { startOtlpReceiver } from './support/otlp-receiver.ts';
import { smallDemo } from './support/small-demo.ts';

const statusSchema = z.object({
  components: z.array(z.object({ name: z.string(), pid: z.number().optional() })),
});
const topSchema = z.object({
  stalls: z.array(z.object({ stage: z.string(), cause: z.string(), runs: z.number() })),
});

test(
  'an endpoint that hangs: judge and score stall, with the cause in the log, a span, metrics, top and watch',
  { timeout: 300_000 },
  async (t) => {
    const folder = await mkdtemp(join(tmpdir(), 'plumb stall '));
    const receiver = await startOtlpReceiver();
    t.after(async () => {
      receiver.close();
      await rm(folder, { recursive: true, force: true });
    });
    const state = join(folder, 'state');
    process.env['OTEL_EXPORTER_OTLP_ENDPOINT'] = receiver.url;
    process.env['PLUMB_STALL_BUDGETS'] = 'judge=3,score=6';
    const demo = startPlumb([...smallDemo, '--state', state], folder);
    while (!receiver.spans.some(({ name }) => name === 'load model')) await delay(50);
    const status = statusSchema.parse(
      JSON.parse((await plumb(['status', '--json', '--state', state], folder)).stdout),
    );
    const referee = status.components.find(({ name }) => name === 'referee')?.pid;
    assert.ok(referee !== undefined);
    process.kill(referee, 'SIGSTOP');
    let resumed = false;
    const resume = (): void => {
      if (!resumed) process.kill(referee, 'SIGCONT');
      resumed = true;
    };
    t.after(resume);

    const stalls = async () => {
      const top = await plumb(['top', '--once', '--json', '--state', state], folder);
      return topSchema.parse(JSON.parse(top.stdout)).stalls;
    };
    let seen = await stalls();
    while (seen.length < 2) seen = await stalls();
    assert.deepEqual(
      seen
        .map(({ stage, cause, runs }) => [stage, cause, runs] as const)
        .toSorted(([a], [b]) => a.localeCompare(b)),
      [
        ['judge', 'endpoint-silent', 1],
        ['score', 'endpoint-silent', 1],
      ],
    );
    const text = await plumb(['top', '--once', '--state', state], folder);
    assert.match(text.stdout, /STALLED +judge in 1 run: endpoint silent/);

    const stallSpan = () =>
      receiver.spans.find(
        ({ name, attributes }) => name === 'stall' && attributes['plumb.stage'] === 'judge',
      );
    while (stallSpan() === undefined) await delay(50);
    const runId = String(stallSpan()?.attributes['plumb.run.id']);
    assert.match(
      String(stallSpan()?.attributes['plumb.stall.cause']),
      /calls are with the endpoint referee of the judge and none is answered/,
    );
    const watch = startPlumb(['run', 'watch', runId, '--state', state], folder);
    while (!watch.stderr().includes('STALLED: judge')) await delay(50);

    resume();
    assert.equal(await watch.ended, 0, watch.stderr());
    assert.equal(await demo.ended, 0, demo.stderr());
    const log = await readFile(join(state, 'logs', 'loop.log'), 'utf8');
    assert.match(log, /judge has made no progress for \d+ s: \d+ calls are with the endpoint referee/);
    assert.match(log, /judge moves again/);
    assert.equal(receiver.metrics.get('plumb.loop.stalls')?.kind, 'counter');
    assert.equal(receiver.metrics.get('plumb.loop.stalled_stages')?.kind, 'up-down counter');
    const root = receiver.spans.find(
      ({ name, spanId }) => name === 'iteration' && spanId === stallSpan()?.parentSpanId,
    );
    assert.ok(root !== undefined, "the stall is in the iteration's trace");
  },
);
