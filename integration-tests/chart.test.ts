/**
 * The services as the chart runs them: its environment variables, its configuration of NATS with a user for each service, its
 * callers' file, TLS everywhere, artifacts in S3, and PostgreSQL where it is installed. Then `helm test`'s own check, the
 * migration, and a whole run.
 */
import assert from 'node:assert/strict';
import { execFile } from 'node:child_process';
import { mkdir, mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, before, test } from 'node:test';
import { createAuthority } from '@plumb/kit/testing/certificates';
import { startNatsServer } from '@plumb/kit/testing/nats-server';
import { startS3Server } from '@plumb/media/testing/s3-server';
import { exampleFile } from '../charts/src/examples.ts';
import { render } from '../charts/src/helm.ts';
import { objectsIn } from '../charts/src/rendered.ts';
import { postgresMissing, startPostgres } from '../services/loop/testing/postgres-server.ts';
import { chartWorld } from './support/chart-environment.ts';
import type { ChartWorld } from './support/chart-environment.ts';
import { startPlumb } from './support/command-line.ts';
import type { CommandLine } from './support/command-line.ts';
import { startProcess, startService } from './support/service-process.ts';
import type { ServiceProcess } from './support/service-process.ts';
import { smallRunSpec } from './support/small-run.ts';

const timeout = 600_000;
const root = join(import.meta.dirname, '..');
const users = ['generator', 'reward', 'judge', 'trainer', 'loop', 'operator'] as const;
const usersSecret = 'plumb-nats-users';

let folder: string;
let world: ChartWorld;
let databaseUrl: string;
let s3Environment: Readonly<Record<string, string>>;
const services = new Map<string, ServiceProcess>();
const stops: (() => Promise<unknown>)[] = [];

before(
  async () => {
    folder = await mkdtemp(join(tmpdir(), 'plumb-chart-'));
    stops.push(() => rm(folder, { recursive: true, force: true }));
    const objects = objectsIn(
      await render({
        values: [exampleFile('kind')],
        set: [
          'artifacts={"url":"s3://plumb/cluster","s3":{"credentialsSecret":"s3"},"volume":{"enabled":false}}',
          // The first model of a line is promoted by whoever starts the first run.
          'auth.callers=[{"name":"person","roles":["admin"],"certificate":"person.example"}]',
          'components.trainer.settings={"checkpointEverySteps":2}',
        ],
        upgrade: true,
      }),
    );
    const s3 = await startS3Server();
    stops.push(() => s3.stop());
    s3Environment = s3.env;
    const passwords = Object.fromEntries(
      users.map((user) => [`${usersSecret}/${user}`, `password-of-${user}`]),
    );
    const authority = await createAuthority('the release');
    const person = await authority.issue([{ type: 'dns', value: 'person.example' }]);
    await writeFile(join(folder, 'person.crt'), person.certificate);
    await writeFile(join(folder, 'person.key'), person.key, { mode: 0o600 });
    await writeFile(join(folder, 'ca.crt'), authority.certificate);
    world = await chartWorld(objects, {
      folder,
      authority,
      usersSecret,
      secrets: {
        ...passwords,
        's3/AWS_ACCESS_KEY_ID': s3.env['AWS_ACCESS_KEY_ID'] ?? '',
        's3/AWS_SECRET_ACCESS_KEY': s3.env['AWS_SECRET_ACCESS_KEY'] ?? '',
        'plumb-postgresql/password': 'unused: the test server trusts this machine',
      },
    });
    if (postgresMissing === undefined) {
      const postgres = await startPostgres();
      stops.push(() => postgres.stop());
      databaseUrl = postgres.url;
    } else databaseUrl = `pglite:${join(folder, 'ledger')}`;

    const configuration = join(folder, 'nats.conf');
    // The broker takes addresses and the store from its arguments here.
    const config = world
      .config('plumb-nats', 'nats.conf', 'nats')
      .replace(/^(listen|http|jetstream)\b.*$/gm, '');
    await writeFile(configuration, config);
    for (const user of users) process.env[`NATS_PASSWORD_${user.toUpperCase()}`] = `password-of-${user}`;
    process.env['POD_NAME'] = 'plumb-nats-0';
    const nats = await startNatsServer({
      configuration,
      port: world.port('nats', 4222),
      storeDirectory: join(folder, 'jetstream'),
    });
    stops.push(() => nats.stop());

    const own = { ...s3.env, PLUMB_SPAN_DIRECTORY: join(folder, 'spans') };
    await mkdir(own.PLUMB_SPAN_DIRECTORY);
    services.set(
      'referee',
      await startProcess('packages/toybox/bin/referee-endpoint.ts', world.environment('referee')),
    );
    for (const name of ['judge', 'reward', 'generator', 'trainer', 'loop']) {
      const env = { ...world.environment(name), ...own };
      services.set(
        name,
        await startService(name, name === 'loop' ? { ...env, PLUMB_DATABASE_URL: databaseUrl } : env),
      );
    }
  },
  { timeout },
);

after(async () => {
  await Promise.all([...services.values()].map((service) => service.stop()));
  for (const stop of stops.toReversed()) await stop();
});

/** Runs a program of the chart's to its end. */
function runProgram(name: string, env: Readonly<Record<string, string>> = {}) {
  return new Promise<{ code: number; stdout: string; stderr: string }>((resolve) => {
    const program = join(root, world.program(name));
    execFile(
      process.execPath,
      [program],
      { env: { ...process.env, ...world.environment(name), ...env } },
      (error, stdout, stderr) => resolve({ code: error === null ? 0 : Number(error.code), stdout, stderr }),
    );
  });
}

test('a kubelet sees every service serve, on the port that needs no TLS', { timeout }, async () => {
  for (const name of ['generator', 'reward', 'judge', 'trainer', 'loop']) {
    const answer = await fetch(`http://localhost:${world.port(name, 9464)}/readyz`);
    assert.equal(answer.status, 200, name);
  }
});

test("helm test's pod scores a clip", { timeout }, async () => {
  const { code, stdout, stderr } = await runProgram('plumb-test-score');
  assert.equal(code, 0, stderr);
  assert.match(stdout, /^\{"reward":"motion_floor","version":"[^"]+","value":[\d.]+\}\n$/);
});

test('the migration of an upgrade finds the ledger as the loop has made it', { timeout }, async (t) => {
  if (!databaseUrl.startsWith('postgres:')) {
    t.skip(`${postgresMissing ?? ''}: PGlite is open in the loop's process alone`);
    return;
  }
  const { code, stdout, stderr } = await runProgram('plumb-migrate', { PLUMB_DATABASE_URL: databaseUrl });
  assert.equal(code, 0, stderr);
  assert.equal(stdout, 'The schema of the ledger is up to date.\n');
});

test(
  'a run, from a model file to its report, with the least rights that the chart gives',
  { timeout },
  async () => {
    const spec = join(folder, 'spec.yaml');
    await writeFile(spec, smallRunSpec({ samplesPerPrompt: 2, iterations: 1 }));
    const command: CommandLine = startPlumb(
      [
        'run',
        'create',
        spec,
        '--json',
        `--address=localhost:${world.port('loop', 50051)}`,
        `--ca=${join(folder, 'ca.crt')}`,
        `--cert=${join(folder, 'person.crt')}`,
        `--key=${join(folder, 'person.key')}`,
      ],
      folder,
      { ...s3Environment, PLUMB_ARTIFACTS: 's3://plumb/cluster' },
    );
    assert.equal(await command.ended, 0, `${command.stderr()}\n${services.get('loop')?.log() ?? ''}`);
    const result: unknown = JSON.parse(command.stdout().trimEnd().split('\n').at(-1) ?? '');
    assert.ok(typeof result === 'object' && result !== null && 'state' in result && 'counts' in result);
    assert.match(String(result.state), /SUCCEEDED|succeeded|DONE|COMPLETED/i);
    for (const [name, service] of services) {
      assert.ok(
        !/[Pp]ermissions? [Vv]iolation|not permit this subject/.test(service.log()),
        `${name}:\n${service.log()}`,
      );
    }
  },
);
