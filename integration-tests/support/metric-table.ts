import { readFile } from 'node:fs/promises';

/** A row of the table in docs/metrics.md. */
export interface DocumentedMetric {
  readonly name: string;
  readonly kind: string;
  readonly unit: string;
  /** Labels that the row names; undefined where it names a convention, which has many. */
  readonly labels: readonly string[] | undefined;
  /** False where the row says that only something special brings the metric about. */
  readonly always: boolean;
}

/** The documented metrics by name. */
export async function documentedMetrics(): Promise<Map<string, DocumentedMetric>> {
  const page = await readFile(new URL('../../docs/metrics.md', import.meta.url), 'utf8');
  const rows = page.matchAll(
    /^\| `([a-z_.0-9]+)` \| ([a-z -]+) \| (?:`([^`]*)`)? *\| [^|]* \| ([^|]*) \| ([^|]*) \|$/gm,
  );
  let above: readonly string[] = [];
  return new Map(
    [...rows].map(([, name = '', kind = '', unit = '', meaning = '', when = '']) => {
      const [, said = ''] = /\(([^()]*)\)\s*$/.exec(meaning) ?? [];
      if (!said.includes('as above'))
        above = [...said.matchAll(/`([a-z_.]+)`/g)].map(([, label = '']) => label);
      const labels = said.includes('conventions') ? undefined : above;
      return [name, { name, kind: kind.trim(), unit, labels, always: when.trim() === '' }];
    }),
  );
}
