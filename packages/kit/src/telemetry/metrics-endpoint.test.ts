import assert from 'node:assert/strict';
import { test } from 'node:test';
import { PrometheusExporter } from '@opentelemetry/exporter-prometheus';
import { serveMetrics } from './metrics-endpoint.ts';

test('a kubelet is told whether the process answers and whether it serves', async (t) => {
  let serving = false;
  const endpoint = await serveMetrics(
    new PrometheusExporter({ preventServerStart: true }),
    '127.0.0.1',
    0,
    () => serving,
  );
  t.after(() => endpoint.close());
  const ask = async (path: string): Promise<number> =>
    (await fetch(`http://${endpoint.address}${path}`)).status;
  assert.deepEqual([await ask('/livez'), await ask('/readyz')], [200, 503]);
  serving = true;
  assert.deepEqual([await ask('/livez'), await ask('/readyz?verbose')], [200, 200]);
  assert.equal(await ask('/elsewhere'), 404);
});
