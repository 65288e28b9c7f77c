/** The toybox referee (a rule-based stand-in for a vision-language model) as an OpenAI-compatible HTTP endpoint. */

import { parseArgs } from 'node:util';
import { invalidArgument, PlumbError } from '@plumb/kit/errors';
import { splitAddress } from '@plumb/kit/config';
import { runService } from '@plumb/kit/lifecycle';
import { startTelemetry } from '@plumb/kit/telemetry';
import { categories } from '../src/captions.ts';
import type { Category } from '../src/captions.ts';
import { checkMisbehaviour, faultKinds, wellBehaved } from '../src/referee-endpoint/misbehaviour.ts';
import type { Misbehaviour } from '../src/referee-endpoint/misbehaviour.ts';
import { refereeDescription } from '../src/referee-endpoint/model.ts';
import packageJson from '../package.json' with { type: 'json' };
import { refereeEndpoint } from '../src/referee-endpoint/server.ts';

const usage = `${refereeDescription}

node packages/toybox/bin/referee-endpoint.ts [options]
  --listen HOST:PORT        loopback, or another where PLUMB_INSECURE_PLAINTEXT=true says so; default PLUMB_REFEREE_LISTEN, else 127.0.0.1:0
  --noise-rate SHARE        share of clips whose verdict is turned round, the same clips each time
  --bias CATEGORY=SHARE,... share of a category's bad clips that are accepted; below 0, of its good ones that are rejected
  --latency-ms MS           added to every answer
  --fault-rate SHARE        share of calls that fail
  --faults KIND,...         of ${faultKinds.join(', ')}; default all but stall
  --retry-after SECONDS     what a 429 asks for; default 1
  --seed N                  decides which clips and calls are hit
A request may ask for its own: model toybox-referee@noise=0.2,bias.FD=0.3,latency=100,fault=0.1,seed=4.
PLUMB_REFEREE_API_KEY, if set, is the key that callers must send.`;

function options(): { listen: string; misbehaviour: Misbehaviour; help: boolean } {
  const { values } = parseArgs({
    options: {
      listen: { type: 'string' },
      'noise-rate': { type: 'string' },
      bias: { type: 'string' },
      'latency-ms': { type: 'string' },
      'fault-rate': { type: 'string' },
      faults: { type: 'string' },
      'retry-after': { type: 'string' },
      seed: { type: 'string' },
      help: { type: 'boolean', default: false },
    },
  });
  const faults = values.faults?.split(',').map((name) => {
    const kind = faultKinds.find((known) => known === name);
    if (kind === undefined) {
      throw invalidArgument('--faults', `names '${name}'; known are ${faultKinds.join(', ')}`);
    }
    return kind;
  });
  return {
    listen: values.listen ?? process.env['PLUMB_REFEREE_LISTEN'] ?? '127.0.0.1:0',
    help: values.help,
    misbehaviour: checkMisbehaviour({
      bias: Object.fromEntries((values.bias?.split(',') ?? []).map(biasOf)),
      noiseRate: Number(values['noise-rate'] ?? wellBehaved.noiseRate),
      latencyMs: Number(values['latency-ms'] ?? wellBehaved.latencyMs),
      faultRate: Number(values['fault-rate'] ?? wellBehaved.faultRate),
      faults: faults ?? wellBehaved.faults,
      retryAfterSeconds: Number(values['retry-after'] ?? wellBehaved.retryAfterSeconds),
      seed: Number(values.seed ?? wellBehaved.seed),
    }),
  };
}

function biasOf(text: string): [Category, number] {
  const [name, share] = text.split('=');
  const category = categories.find((known) => known === name);
  if (category === undefined) {
    throw invalidArgument('--bias', `names the category '${name}'; known are ${categories.join(', ')}`);
  }
  return [category, Number(share)];
}

await runService({
  name: 'referee-endpoint',
  start: async (context) => {
    let settings;
    try {
      settings = options();
    } catch (error) {
      throw new PlumbError({
        code: 'INVALID_ARGUMENT',
        reason: 'CONFIGURATION_INVALID',
        message: error instanceof Error ? error.message : 'the options cannot be read',
        cause: error,
      });
    }
    if (settings.help) {
      process.stderr.write(`${usage}\n`);
      process.exit(0);
    }
    const { host, port } = splitAddress(settings.listen);
    const isLoopback = host === '127.0.0.1' || host === '::1' || host === 'localhost';
    const isTold = (variable: string): boolean => context.env[variable] === 'true';
    const isOpenKnowingly =
      isTold('PLUMB_INSECURE_PLAINTEXT') &&
      (isTold('PLUMB_INSECURE_NO_AUTH') || context.env['PLUMB_REFEREE_API_KEY'] !== undefined);
    if (!isLoopback && !isOpenKnowingly) {
      throw new PlumbError({
        code: 'INVALID_ARGUMENT',
        reason: 'ADDRESS_NOT_LOOPBACK',
        message: `--listen is '${settings.listen}'; the referee endpoint has no TLS; listen on loopback, for example 127.0.0.1:8791, or, where the network itself encrypts, set PLUMB_INSECURE_PLAINTEXT=true, and PLUMB_REFEREE_API_KEY or PLUMB_INSECURE_NO_AUTH=true`,
      });
    }
    const telemetry = await startTelemetry({
      service: 'plumb-referee',
      version: packageJson.version,
      spanDirectory: context.env['PLUMB_SPAN_DIRECTORY'],
      traces: context.env['PLUMB_TRACES'] !== 'false',
    });
    context.onStop('telemetry', () => telemetry.shutdown());
    const app = refereeEndpoint({
      misbehaviour: settings.misbehaviour,
      apiKey: context.env['PLUMB_REFEREE_API_KEY'],
    });
    await app.listen({ host, port });
    context.onStop('endpoint', () => app.close());
    const bound = app.server.address();
    if (bound === null || typeof bound === 'string') throw new TypeError('not listening on a port');
    return {
      address: host.includes(':') ? `[${host}]:${bound.port}` : `${host}:${bound.port}`,
      metrics: telemetry.metricsAddress,
    };
  },
});
