/** A small service of all parts, run as a process by the tests of the lifecycle. EXAMPLE_MODE chooses how it misbehaves. */
import { setTimeout as delay } from 'node:timers/promises';
import { z } from 'zod';
import { loadConfig, serviceSettings, splitAddress } from '../config.ts';
import { runService } from '../lifecycle.ts';
import { addService, createServer } from '../rpc.ts';
import { startTelemetry } from '../telemetry.ts';
import { EchoService } from './echo-service.ts';

const settings = z.object({ listen: serviceSettings.listen, logLevel: serviceSettings.logLevel });

await runService({
  name: 'example',
  stopDeadlineMs: 3000,
  start: async (ctx) => {
    const config = loadConfig(settings, ctx.env);
    const mode = ctx.env['EXAMPLE_MODE'];
    const telemetry = await startTelemetry({ service: 'example', version: '0', logLevel: config.logLevel });
    ctx.onStop('telemetry', () => telemetry.shutdown());
    const server = createServer({ ...splitAddress(config.listen), signal: ctx.signal });
    addService(server, EchoService, {
      say: (request) => request,
      look: (request) => request,
      async *repeat(request) {
        yield request;
      },
      join: () => ({}),
      async *chat(requests) {
        yield* requests;
      },
    });
    const { address } = await server.listen();
    ctx.onStop('server', () => server.stop());
    if (mode === 'hang') ctx.onStop('hanging', () => delay(60_000), { deadlineMs: 60_000 });
    if (mode === 'late') ctx.onStop('late', () => delay(60_000), { deadlineMs: 50 });
    if (mode === 'throw') {
      setImmediate(() => {
        throw new Error('nobody catches me');
      });
    }
    if (mode === 'reject') {
      setImmediate(() => {
        void Promise.reject(new Error('nobody awaits me'));
      });
    }
    if (mode === 'fail') {
      setImmediate(() => {
        ctx.fail(new Error('the engine is gone'));
      });
    }
    return { address, metrics: telemetry.metricsAddress };
  },
});
