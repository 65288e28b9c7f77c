import assert from 'node:assert/strict';
import { once } from 'node:events';
import { mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { createServer } from 'node:http';
import { hostname, tmpdir } from 'node:os';
import path from 'node:path';
import { test } from 'node:test';
import { setTimeout as delay } from 'node:timers/promises';
import { startTelemetry, tracer, withSpan } from '../telemetry.ts';

test('a collector that refuses costs its spans, which are counted', { timeout: 60_000 }, async (t) => {
  const directory = mkdtempSync(path.join(tmpdir(), 'plumb-kit-'));
  t.after(() => {
    rmSync(directory, { recursive: true });
  });
  const collector = createServer((request, response) => {
    request.resume();
    response.writeHead(400).end();
  }).listen(0, '127.0.0.1');
  await once(collector, 'listening');
  t.after(() => collector.close());
  const bound = collector.address();
  assert.ok(bound !== null && typeof bound === 'object');
  const telemetry = await startTelemetry({
    service: 'refused',
    version: '1',
    spanDirectory: directory,
    otlpEndpoint: `http://127.0.0.1:${bound.port}`,
  });
  for (let i = 0; i < 600; i++) await withSpan(tracer('test'), 'span', {}, () => undefined);
  const lost = async (): Promise<number> => {
    const text = await (await fetch(`http://${telemetry.metricsAddress}/metrics`)).text();
    const line = /^plumb_telemetry_lost_spans_total\{[^}]*collector[^}]*\} (\d+)/m.exec(text);
    return Number(line?.[1] ?? 0);
  };
  // A full batch goes out at once; the rest at the end.
  while ((await lost()) < 512) await delay(50);
  await telemetry.shutdown();
  const written = readFileSync(
    path.join(directory, `refused-${hostname()}-${process.pid}.jsonl`),
    'utf8',
  ).trim();
  assert.equal(written.split('\n').length, 600);
});
