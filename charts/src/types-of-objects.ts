import { execFile } from 'node:child_process';
import { mkdir, rm, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { promisify } from 'node:util';
import { z } from 'zod';
import { root } from './helm.ts';
import type { Rendered } from './rendered.ts';

const run = promisify(execFile);

/** Packages with the types of API groups that are not Kubernetes' own. */
const packages: Readonly<Record<string, string>> = {
  'keda.sh': '@kubernetes-models/keda/',
  'monitoring.coreos.com': '@kubernetes-models/prometheus-operator/',
  'cert-manager.io': '@kubernetes-models/cert-manager/',
};

const name = z.string().regex(/^[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*$/);
const quantity = z.union([
  z.number(),
  z.string().regex(/^[+-]?(\d+(\.\d*)?|\.\d+)([KMGTPE]i|[numkMGTPE]|[eE][+-]?\d+)?$/),
]);
const toleration = z.strictObject({
  key: z.string().optional(),
  operator: z.enum(['Exists', 'Equal']).optional(),
  value: z.string().optional(),
  effect: z.enum(['NoSchedule', 'PreferNoSchedule', 'NoExecute']).optional(),
  tolerationSeconds: z.int().optional(),
});

/**
 * The objects of Kueue that the chart makes; no package has its types. Written from the fields of the CRDs of Kueue 0.15,
 * version v1beta2; https://kueue.sigs.k8s.io/docs/reference/kueue.v1beta2/.
 */
const kueue: Readonly<Record<string, z.ZodType>> = {
  ResourceFlavor: z.strictObject({
    nodeLabels: z.record(z.string(), z.string()).optional(),
    tolerations: z.array(toleration).max(8).optional(),
    topologyName: name.optional(),
  }),
  ClusterQueue: z.strictObject({
    cohortName: name.optional(),
    namespaceSelector: z.strictObject({ matchLabels: z.record(z.string(), z.string()) }),
    preemption: z.strictObject({
      withinClusterQueue: z.enum(['Never', 'LowerPriority', 'LowerOrNewerEqualPriority']),
    }),
    resourceGroups: z
      .array(
        z.strictObject({
          coveredResources: z.array(z.string()).min(1).max(64),
          flavors: z
            .array(
              z.strictObject({
                name,
                resources: z.array(z.strictObject({ name: z.string(), nominalQuota: quantity })).min(1),
              }),
            )
            .min(1),
        }),
      )
      .max(16),
  }),
  LocalQueue: z.strictObject({ clusterQueue: name }),
};

const validating = z.looseObject({ validate: z.function() });

/** The module with the type of an object; undefined for those of Kueue. */
function moduleOf({ apiVersion, kind }: Rendered): string | undefined {
  const group = apiVersion.includes('/') ? (apiVersion.split('/')[0] ?? '') : '';
  if (group === 'kueue.x-k8s.io') return undefined;
  return `${packages[group] ?? 'kubernetes-models/'}${apiVersion}/${kind}`;
}

/**
 * Validates an object against the schema of its kind.
 * @throws Error that names the field
 */
export async function validate(object: Rendered): Promise<void> {
  const module = moduleOf(object);
  if (module === undefined) {
    const schema = kueue[object.kind];
    if (schema === undefined) throw new Error(`no schema of ${object.kind}`);
    schema.parse(object['spec']);
    return;
  }
  const exported = (await import(module)) as Readonly<Record<string, new (object: unknown) => unknown>>;
  const Kind = exported[object.kind];
  if (Kind === undefined) throw new Error(`no schema of ${object.apiVersion} ${object.kind}`);
  try {
    validating.parse(new Kind(object)).validate();
  } catch (error) {
    throw new Error(`${object.kind} ${object.metadata.name}: ${String(error)}`, { cause: error });
  }
}

/**
 * Lets the compiler compare objects with the types of their kinds: unlike the schemas it finds fields that do not exist, which
 * a cluster would drop without a word.
 * @returns the compiler's lines; empty if all is well
 */
export async function unknownFields(objects: readonly Rendered[]): Promise<string> {
  const folder = join(root, 'node_modules/.cache/plumb-chart');
  const imports = new Map<string, string>();
  const lines = objects.flatMap((object) => {
    const module = moduleOf(object);
    if (module === undefined) return [];
    const type = imports.get(module) ?? `T${imports.size}`;
    imports.set(module, type);
    return [
      `// ${object.kind} ${object.metadata.name}`,
      `check<${type}>(${JSON.stringify(object, undefined, 1)});`,
    ];
  });
  const head = [...imports].map(([module, type]) => {
    const kind = module.split('/').at(-1) ?? '';
    return `import type { I${kind} as ${type} } from '${module}';`;
  });
  await mkdir(folder, { recursive: true });
  const file = join(folder, `objects-${process.pid}.ts`);
  await writeFile(file, [...head, 'declare function check<T>(object: T): void;', ...lines, ''].join('\n'));
  try {
    await run(
      join(root, 'node_modules/.bin/tsc'),
      [
        '--noEmit',
        '--strict',
        '--skipLibCheck',
        '--ignoreConfig',
        '--module',
        'nodenext',
        '--target',
        'es2024',
        '--types',
        '',
        file,
      ],
      { maxBuffer: 2 ** 24 },
    );
    return '';
  } catch (error) {
    if (error instanceof Error && 'stdout' in error && typeof error.stdout === 'string') return error.stdout;
    throw error;
  } finally {
    await rm(file);
  }
}
