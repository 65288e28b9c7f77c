import { parseAllDocuments } from 'yaml';
import { z } from 'zod';

const objectSchema = z.looseObject({
  apiVersion: z.string(),
  kind: z.string(),
  metadata: z.looseObject({
    name: z.string(),
    labels: z.record(z.string(), z.string()).optional(),
    annotations: z.record(z.string(), z.string()).optional(),
  }),
});

/** A rendered Kubernetes object. */
export type Rendered = z.infer<typeof objectSchema>;

/** The objects in what helm has rendered. YAML 1.1, as Kubernetes reads it. */
export function objectsIn(text: string): Rendered[] {
  return parseAllDocuments(text, { version: '1.1', uniqueKeys: true })
    .map((document) => {
      const [error] = document.errors;
      if (error !== undefined) throw error;
      return document.toJS() as unknown;
    })
    .filter((document) => document !== null)
    .map((document) => objectSchema.parse(document));
}

/** Dashboards as a reference to where they come from: they are large and committed once already. */
export function withoutDashboards(text: string): string {
  return text.replaceAll(/^ {2}(plumb-[a-z]+\.json): ".*"$/gm, '  $1: (deploy/dashboards/$1)');
}
