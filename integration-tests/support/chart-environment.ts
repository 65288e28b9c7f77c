import { mkdir, writeFile } from 'node:fs/promises';
import { createServer } from 'node:net';
import { once } from 'node:events';
import { join } from 'node:path';
import type { TestAuthority } from '@plumb/kit/testing/certificates';
import { z } from 'zod';
import type { Rendered } from '../../charts/src/rendered.ts';

const root = join(import.meta.dirname, '../..');

const podSchema = z.object({
  containers: z.tuple([
    z.object({
      command: z.array(z.string()).optional(),
      env: z.array(
        z.object({
          name: z.string(),
          value: z.string().optional(),
          valueFrom: z.object({ secretKeyRef: z.object({ name: z.string(), key: z.string() }) }).optional(),
        }),
      ),
    }),
  ]),
});
const deploymentSchema = z.object({ template: z.object({ spec: podSchema }) });
const configSchema = z.record(z.string(), z.string());

/** The chart's objects on this machine: its host names are this host, its paths a folder, its secrets those given. */
export interface ChartWorld {
  /** The port of this machine that stands for a port of a component. */
  port(component: string, port: number): number;
  /** What a ConfigMap holds under a key, made local. */
  config(name: string, key: string, component: string): string;
  /** The environment of a component's Deployment, or of a Pod or Job by its own name. */
  environment(component: string): Record<string, string>;
  /** The program of a Pod or Job. */
  program(name: string): string;
}

/** Ports of every component: a free one of this machine for each. */
const componentPorts: readonly (readonly [string, number])[] = [
  ...['generator', 'reward', 'judge', 'trainer', 'loop'].flatMap((name) => [
    [name, 50051] as const,
    [name, 9464] as const,
  ]),
  ['referee', 8791],
  ['nats', 4222],
  ['nats', 8222],
  ['postgresql', 5432],
];

/**
 * Makes the chart's rendered objects usable here: the services are run as the chart would run them, with TLS, certificates of
 * their own, users of the broker and the callers' file.
 * @param secrets values of Secrets, by `<name>/<key>`; keys that pods mount as files are written for each component
 */
export async function chartWorld(
  objects: readonly Rendered[],
  options: {
    readonly folder: string;
    readonly authority: TestAuthority;
    readonly secrets: Readonly<Record<string, string>>;
    /** The Secret whose keys are the passwords of the broker's users. */
    readonly usersSecret: string;
  },
): Promise<ChartWorld> {
  const { folder, authority, secrets } = options;
  const ports = new Map<string, number>();
  for (const [name, port] of componentPorts) ports.set(`${name}:${port}`, await freePort());
  const portOf = (component: string, port: number): number => {
    const found = ports.get(`${component}:${port}`);
    if (found === undefined) throw new Error(`the chart has no port ${port} of ${component}`);
    return found;
  };
  for (const name of ['generator', 'reward', 'judge', 'trainer', 'loop', 'client', 'nats']) {
    const { certificate, key } = await authority.issue([
      { type: 'dns', value: `plumb-${name}.plumb.svc` },
      { type: 'dns', value: 'localhost' },
    ]);
    const files = {
      'tls/tls.crt': certificate,
      'tls/tls.key': key,
      'tls/ca.crt': authority.certificate,
      'callers/callers.yaml': find(objects, 'ConfigMap', 'plumb-callers')?.data['callers.yaml'] ?? '',
      'nats/password': secrets[`${options.usersSecret}/${name}`] ?? '',
    };
    for (const [path, text] of Object.entries(files)) {
      await mkdir(join(folder, name, path, '..'), { recursive: true });
      await writeFile(join(folder, name, path), text, { mode: 0o600 });
    }
  }
  const local = (text: string, component: string): string =>
    text
      .replaceAll('/etc/plumb/', `${join(folder, component)}/`)
      .replaceAll('/app/', `${root}/`)
      .replaceAll('/models/', `${join(folder, 'models')}/`)
      .replaceAll(
        /(?:dns:\/\/\/)?plumb-([a-z]+)\.plumb\.svc:(\d+)/g,
        (_, name: string, port: string) => `localhost:${portOf(name, Number(port))}`,
      )
      .replaceAll(
        /^"?0\.0\.0\.0:(\d+)"?$/g,
        (_, port: string) => `0.0.0.0:${portOf(component, Number(port))}`,
      );

  return {
    port: portOf,
    config: (name, key, component) => local(find(objects, 'ConfigMap', name)?.data[key] ?? '', component),
    environment: (component) => {
      const pod = podOf(objects, component);
      const identity = objects.some(({ metadata }) => metadata.name === component) ? 'client' : component;
      return Object.fromEntries(
        pod.containers[0].env.map(({ name, value, valueFrom }) => {
          if (value !== undefined) return [name, local(value, identity)];
          const { name: secret, key } = valueFrom?.secretKeyRef ?? { name: '', key: '' };
          const held = secrets[`${secret}/${key}`];
          if (held === undefined)
            throw new Error(`${component} wants ${secret}/${key}, which the test does not have`);
          return [name, held];
        }),
      );
    },
    program: (name) => podOf(objects, name).containers[0].command?.at(-1) ?? '',
  };
}

function find(objects: readonly Rendered[], kind: string, name: string) {
  const object = objects.find((candidate) => candidate.kind === kind && candidate.metadata.name === name);
  return object === undefined ? undefined : { data: configSchema.parse(object['data'] ?? {}) };
}

/** The pod of a component's Deployment, or of a Pod or Job by its whole name. */
function podOf(objects: readonly Rendered[], name: string): z.infer<typeof podSchema> {
  for (const { kind, metadata, spec } of objects) {
    if (kind === 'Deployment' && metadata.name === `plumb-${name}`)
      return deploymentSchema.parse(spec).template.spec;
    if (kind === 'Pod' && metadata.name === name) return podSchema.parse(spec);
    if (kind === 'Job' && metadata.name === name) return deploymentSchema.parse(spec).template.spec;
  }
  throw new Error(`the chart has no pod of ${name}`);
}

async function freePort(): Promise<number> {
  const server = createServer().listen(0, '127.0.0.1');
  await once(server, 'listening');
  const address = server.address();
  server.close();
  await once(server, 'close');
  if (address === null || typeof address === 'string') throw new Error('the operating system gave no port');
  return address.port;
}
