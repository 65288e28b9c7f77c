import { readFile } from 'node:fs/promises';

/** A row of the table in docs/metrics.md. */
export interface DocumentedMetric {
  readonly name: string;
  readonly kind: string;
  readonly unit: string;
  /** False where the row says that only something special brings the metric about. */
  readonly always: boolean;
}

/** The documented metrics by name. */
export async function documentedMetrics(): Promise<Map<string, DocumentedMetric>> {
  const page = await readFile(new URL('../../docs/metrics.md', import.meta.url), 'utf8');
  const rows = page.matchAll(
    /^\| `([a-z_.0-9]+)` \| ([a-z -]+) \| (?:`([^`]*)`)? *\| [^|]* \| [^|]* \| ([^|]*) \|$/gm,
  );
  return new Map(
    [...rows].map(([, name = '', kind = '', unit = '', when = '']) => [
      name,
      { name, kind: kind.trim(), unit, always: when.trim() === '' },
    ]),
  );
}
