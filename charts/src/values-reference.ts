import { z } from 'zod';
import { valuesSchema } from './values-schema.ts';

interface JsonSchema {
  readonly type?: string;
  readonly description?: string;
  readonly enum?: readonly unknown[];
  readonly const?: unknown;
  readonly anyOf?: readonly JsonSchema[];
  readonly items?: JsonSchema;
  readonly properties?: Readonly<Record<string, JsonSchema>>;
  readonly additionalProperties?: unknown;
}

/** The JSON Schema of the chart's values: unknown keys are refused. */
export function valuesJsonSchema(): Record<string, unknown> {
  return {
    ...z.toJSONSchema(valuesSchema, { target: 'draft-7', reused: 'inline' }),
    title: 'Values of the plumb chart',
  };
}

const typeOf = (schema: JsonSchema): string => {
  if (schema.enum !== undefined) return schema.enum.map((value) => `\`${String(value)}\``).join(', ');
  if (schema.const !== undefined) return `\`${JSON.stringify(schema.const)}\``;
  if (schema.anyOf !== undefined) return [...new Set(schema.anyOf.map(typeOf))].join(', ');
  if (schema.type === 'array') return 'list';
  return schema.type ?? 'any';
};

/** A value as the table shows it. */
const shown = (value: unknown): string => {
  if (value === undefined) return '';
  const text = JSON.stringify(value);
  return text.length > 60 ? '_see values.yaml_' : `\`${text.replaceAll('|', '\\|')}\``;
};

const at = (values: unknown, key: string): unknown =>
  typeof values === 'object' && values !== null ? Reflect.get(values, key) : undefined;

/** Rows of every key, its type, its default and what it means. A component's share of what all have is not repeated. */
function rowsOf(schema: JsonSchema, values: unknown, path: string, common: ReadonlySet<string>): string[] {
  return Object.entries(schema.properties ?? {}).flatMap(([key, child]) => {
    const here = path === '' ? key : `${path}.${key}`;
    const value = at(values, key);
    const isComponent = /^components\.[a-z]+$/.test(path);
    if (isComponent && common.has(key)) {
      // Only a component's own default is worth a row.
      return value === undefined
        ? []
        : [`| \`${here}\` | ${typeOf(child)} | ${shown(value)} | see \`default.${key}\` |`];
    }
    const inner = child.properties === undefined ? [] : rowsOf(child, value, here, common);
    const words = child.description ?? '';
    const own =
      child.properties === undefined
        ? [`| \`${here}\` | ${typeOf(child)} | ${shown(value)} | ${words.replaceAll('|', '\\|')} |`]
        : [`| **\`${here}\`** | | | ${words} |`];
    return [...own, ...inner];
  });
}

/** docs/kubernetes-values.md, from the schema and values.yaml. */
export function valuesReference(values: unknown): string {
  const schema = z.toJSONSchema(valuesSchema) as JsonSchema;
  const common = new Set(Object.keys(schema.properties?.['default']?.properties ?? {}));
  return [
    '# Values of the chart',
    '',
    'Made from `charts/src/values-schema.ts` and `charts/plumb/values.yaml` by `npm run chart`. A key that is not here is refused.',
    '[Kubernetes](kubernetes.md) says how they are used.',
    '',
    '| value | type | default | meaning |',
    '| --- | --- | --- | --- |',
    ...rowsOf(schema, values, '', common),
    '',
  ].join('\n');
}
