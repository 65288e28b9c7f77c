import assert from 'node:assert/strict';
import { test } from 'node:test';
import { readPrometheusText } from './prometheus-text.ts';
import type { Snapshot } from './snapshot.ts';
import { viewOf } from './snapshot.ts';
import { topLines } from './top-lines.ts';

const at = (atMs: number, loop: string, generator: string): Snapshot => ({
  atMs,
  processes: [
    {
      name: 'loop',
      metrics: 'x:1',
      state: 'ready',
      restarts: 0,
      answered: true,
      readings: readPrometheusText(loop),
    },
    {
      name: 'generator',
      metrics: 'x:2',
      state: 'ready',
      restarts: 2,
      answered: generator !== '',
      readings: readPrometheusText(generator),
    },
  ],
});
const labels = 'messaging_consumer_group_name="generator",messaging_destination_name="plumb.tasks.generate"';
const loop = `plumb_queue_depth{${labels}} 12\nplumb_queue_unsettled{${labels}} 4\nplumb_queue_age{${labels}} 9.5\nplumb_loop_stalled_stages{plumb_stage="score",plumb_stall_kind="endpoint-silent"} 1\nplumb_loop_stalled_stages{plumb_stage="train"} 0`;

test('rates between two looks, queues and stalls', () => {
  const view = viewOf(
    at(3000, loop, 'plumb_generator_clips_total 30\nprocess_memory_usage 1e8'),
    at(1000, loop, 'plumb_generator_clips_total 10'),
  );
  assert.equal(view.rates.clips, 10);
  assert.equal(view.rates.scores, undefined);
  assert.deepEqual(view.queues, [
    { consumer: 'generator', waiting: 12, inWork: 4, oldestSeconds: 9.5, perSecond: undefined },
  ]);
  assert.deepEqual(view.stalls, [{ stage: 'score', cause: 'endpoint-silent', runs: 1 }]);
  const lines = topLines(view);
  assert.ok(
    lines.every((line) => line.length <= 80),
    lines.join('\n'),
  );
  assert.match(lines.join('\n'), /score in 1 run: endpoint silent/);
});

test('a process that was started again, or does not answer', () => {
  const restarted = viewOf(
    at(2000, loop, 'plumb_generator_clips_total 5'),
    at(1000, loop, 'plumb_generator_clips_total 900'),
  );
  assert.equal(restarted.rates.clips, 0);
  const silent = viewOf(at(2000, loop, ''), undefined);
  assert.equal(silent.processes[1]?.state, 'no answer');
  assert.equal(silent.rates.clips, undefined);
});
