import { z } from 'zod';
import { feedbackRunSpecSchema } from './feedback-run-spec.ts';

/** Where FeedbackRuns are in the Kubernetes API. */
export const feedbackRunKind = {
  group: 'plumb.dev',
  version: 'v1alpha1',
  plural: 'feedbackruns',
  kind: 'FeedbackRun',
} as const;

type Schema = Record<string, unknown>;

/** Most characters of a status message; the API server keeps objects below 1.5 MiB. */
export const maxMessageLength = 4_096;

const conditionSchema: Schema = {
  type: 'object',
  required: ['type', 'status', 'reason', 'message', 'lastTransitionTime'],
  properties: {
    type: { type: 'string', maxLength: 316 },
    status: { type: 'string', enum: ['True', 'False', 'Unknown'] },
    reason: { type: 'string', minLength: 1, maxLength: 1024 },
    message: { type: 'string', maxLength: 32_768 },
    lastTransitionTime: { type: 'string', format: 'date-time' },
    observedGeneration: { type: 'integer', format: 'int64', minimum: 0 },
  },
};

const statusSchema: Schema = {
  type: 'object',
  properties: {
    observedGeneration: {
      type: 'integer',
      format: 'int64',
      description: 'Generation of the spec that the status is about.',
    },
    runId: { type: 'string', description: 'Id of the run, for plumb run report and the dashboard.' },
    state: {
      type: 'string',
      enum: ['Pending', 'Refused', 'Running', 'Paused', 'Succeeded', 'Failed', 'Cancelled'],
    },
    stage: { type: 'string', description: 'What the iteration is at.' },
    iteration: { type: 'string', description: 'Iteration under way, of how many.' },
    acceptance: {
      type: 'string',
      description:
        'Share of held-out clips that the judge accepts: of the model that the run began with, and of its last candidate.',
    },
    currentModel: { type: 'string', description: 'Version that the run would sample from next.' },
    startTime: { type: 'string', format: 'date-time' },
    completionTime: { type: 'string', format: 'date-time' },
    conditions: {
      type: 'array',
      items: conditionSchema,
      'x-kubernetes-list-type': 'map',
      'x-kubernetes-list-map-keys': ['type'],
    },
  },
};

/**
 * The CustomResourceDefinition of FeedbackRun: the schema of its spec follows from the schema that the loop checks with. Made
 * into charts/plumb/crds/feedbackruns.yaml by `node services/loop/definition.ts`.
 */
export function feedbackRunDefinition() {
  const { group, version, plural, kind } = feedbackRunKind;
  const column = (name: string, jsonPath: string, more: Schema = {}) => ({
    name,
    type: 'string',
    jsonPath,
    ...more,
  });
  return {
    apiVersion: 'apiextensions.k8s.io/v1',
    kind: 'CustomResourceDefinition',
    metadata: { name: `${plural}.${group}` },
    spec: {
      group,
      scope: 'Namespaced',
      names: { plural, singular: 'feedbackrun', kind, listKind: `${kind}List`, shortNames: ['fbr'] },
      versions: [
        {
          name: version,
          served: true,
          storage: true,
          subresources: { status: {} },
          additionalPrinterColumns: [
            column('State', '.status.state'),
            column('Iteration', '.status.iteration'),
            column('Acceptance', '.status.acceptance'),
            column('Run', '.status.runId', { priority: 1 }),
            column('Model', '.status.currentModel', { priority: 1 }),
            column('Age', '.metadata.creationTimestamp', { type: 'date' }),
          ],
          schema: {
            openAPIV3Schema: {
              type: 'object',
              description:
                'A run of Plumb: samples clips, has them judged, finetunes, evaluates and promotes.',
              required: ['spec'],
              properties: { spec: specSchema(), status: statusSchema },
            },
          },
        },
      ],
    },
  };
}

function specSchema(): Schema {
  return structural(
    z.toJSONSchema(feedbackRunSpecSchema, { target: 'openapi-3.0', io: 'input', unrepresentable: 'any' }),
  ) as Schema;
}

/**
 * What Kubernetes takes of a schema (a "structural" one). Fields that a schema does not name are refused by the API server's
 * own strict validation, so additionalProperties goes. Defaults go too: the loop knows them, some of them by the model.
 */
function structural(node: unknown): unknown {
  if (Array.isArray(node)) return node.map(structural);
  if (typeof node !== 'object' || node === null) return node;
  const { additionalProperties, default: _default, $schema: _schema, ...rest } = node as Schema;
  const types = (rest['anyOf'] as readonly Schema[] | undefined)?.map(({ type }) => type);
  if (types?.join() === 'integer,string') return { 'x-kubernetes-int-or-string': true };
  const schema: Schema = Object.fromEntries(
    Object.entries(rest).map(([key, value]) => [
      key,
      key === 'properties'
        ? Object.fromEntries(
            Object.entries(value as Schema).map(([name, child]) => [name, structural(child)]),
          )
        : structural(value),
    ]),
  );
  // A section of settings that the trainer checks.
  if (typeof additionalProperties === 'object') schema['x-kubernetes-preserve-unknown-fields'] = true;
  return schema;
}
