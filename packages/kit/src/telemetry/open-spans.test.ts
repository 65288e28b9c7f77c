import assert from 'node:assert/strict';
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { hostname, tmpdir } from 'node:os';
import path from 'node:path';
import { test } from 'node:test';
import type { TestContext } from 'node:test';
import { startTelemetry } from '../telemetry.ts';
import type { SpanRecord } from '../telemetry.ts';

function folder(t: TestContext): string {
  const directory = mkdtempSync(path.join(tmpdir(), 'plumb-open-'));
  t.after(() => {
    rmSync(directory, { recursive: true });
  });
  return directory;
}

/** Runs code in a process with telemetry, until it says that it is there, and kills it. */
async function killed(directory: string, body: string): Promise<void> {
  const module = JSON.stringify(new URL('../telemetry.ts', import.meta.url).href);
  const child = spawn(
    process.execPath,
    [
      '--input-type=module',
      '--eval',
      `import { currentCarrier, startSpan, startTelemetry, tracer, withSpan } from ${module};
       await startTelemetry({ service: 'dying', version: '1', spanDirectory: process.env.SPANS });
       setInterval(() => {}, 1000);
       ${body}`,
    ],
    { env: { ...process.env, SPANS: directory }, stdio: ['ignore', 'pipe', 'inherit'] },
  );
  const exited = once(child, 'exit');
  await Promise.race([once(child.stdout, 'data'), exited]);
  child.kill('SIGKILL');
  await exited;
}

const spansIn = (directory: string): SpanRecord[] =>
  readdirSync(directory)
    .filter((name) => name.endsWith('.jsonl'))
    .flatMap((name) => readFileSync(path.join(directory, name), 'utf8').trim().split('\n'))
    .map((line) => JSON.parse(line) as SpanRecord);

test('what others know of a killed process is written by the next one, once', async (t) => {
  const directory = folder(t);
  await killed(
    directory,
    `await withSpan(tracer('t'), 'work', { attributes: { 'plumb.sample.id': 's1' } }, async () => {
       startSpan(tracer('t'), 'known to nobody').span.end();
       await withSpan(tracer('t'), 'call', {}, async () => {
         console.log(JSON.stringify(currentCarrier()));
         await new Promise(() => {});
       });
     });`,
  );
  assert.deepEqual(spansIn(directory), []);
  const next = await startTelemetry({ service: 'dying', version: '1', spanDirectory: directory });
  await next.shutdown();
  const spans = spansIn(directory);
  assert.deepEqual(spans.map(({ name }) => name).toSorted(), ['call', 'work']);
  const [call, work] = ['call', 'work'].map((name) => spans.find((span) => span.name === name));
  assert.equal(call?.parentSpanId, work?.spanId);
  assert.equal(work?.attributes['plumb.sample.id'], 's1');
  assert.equal(work?.status, 'error');
  assert.match(work?.statusMessage ?? '', /died before/);
  assert.ok(work !== undefined && work.endMs >= work.startMs);
  // Neither list nor a second account of it is left.
  assert.deepEqual(
    readdirSync(directory).filter((name) => name.endsWith('.open')),
    [],
  );
  await (await startTelemetry({ service: 'dying', version: '1', spanDirectory: directory })).shutdown();
  assert.equal(spansIn(directory).length, 2);
});

test('what was written before the end is not written again', async (t) => {
  const directory = folder(t);
  await killed(
    directory,
    `await withSpan(tracer('t'), 'sent', {}, () => { currentCarrier(); });
     const { readdirSync, readFileSync } = await import('node:fs');
     const written = () => readdirSync(process.env.SPANS).some((name) =>
       name.endsWith('.open') && readFileSync(process.env.SPANS + '/' + name, 'utf8').includes('"written"'));
     while (!written()) await new Promise((resolve) => setTimeout(resolve, 20));
     console.log('written');`,
  );
  await (await startTelemetry({ service: 'dying', version: '1', spanDirectory: directory })).shutdown();
  assert.deepEqual(
    spansIn(directory).map(({ name, status }) => [name, status]),
    [['sent', 'unset']],
  );
});

test('a living process keeps its list', async (t) => {
  const directory = folder(t);
  const other = spawn(process.execPath, ['--eval', 'setInterval(() => {}, 1000)']);
  t.after(() => other.kill());
  await once(other, 'spawn');
  const name = `dying-${hostname()}-${other.pid}.open`;
  writeFileSync(path.join(directory, name), '');
  await (await startTelemetry({ service: 'dying', version: '1', spanDirectory: directory })).shutdown();
  assert.ok(readdirSync(directory).includes(name));
});
