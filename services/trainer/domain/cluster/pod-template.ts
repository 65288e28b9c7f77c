import { fieldPath, invalidArguments } from '@plumb/kit/errors';
import type { FieldViolation } from '@plumb/kit/errors';
import { z } from 'zod';
import { trainerContainer } from './job-name.ts';

const quantity = z.union([z.string(), z.number()]);
const container = z.looseObject({
  name: z.string().min(1),
  image: z.string().min(1),
  command: z.array(z.string()).optional(),
  args: z.array(z.string()).optional(),
  env: z.array(z.looseObject({ name: z.string().min(1), value: z.string().optional() })).optional(),
  resources: z
    .looseObject({
      limits: z.record(z.string(), quantity).optional(),
      requests: z.record(z.string(), quantity).optional(),
    })
    .optional(),
  securityContext: z.looseObject({}).optional(),
});

/** The part of a pod template that we read; all else goes through as it is, and the API server checks it. */
const podTemplateSchema = z.looseObject({
  metadata: z
    .looseObject({
      labels: z.record(z.string(), z.string()).optional(),
      annotations: z.record(z.string(), z.string()).optional(),
    })
    .optional(),
  spec: z.looseObject({
    containers: z.array(container).min(1),
    restartPolicy: z.string().optional(),
    securityContext: z.looseObject({}).optional(),
    automountServiceAccountToken: z.boolean().optional(),
    terminationGracePeriodSeconds: z.int().optional(),
  }),
});

export type PodTemplate = z.infer<typeof podTemplateSchema>;

/**
 * Checks a pod template (a v1 PodTemplate's `template`) that training pods are made from.
 * @param source how errors call it
 * @throws PlumbError INVALID_ARGUMENT (CONFIGURATION_INVALID) with every bad field
 */
export function parsePodTemplate(value: unknown, source: string): PodTemplate {
  const parsed = podTemplateSchema.safeParse(value);
  if (!parsed.success) {
    throw invalidArguments(
      parsed.error.issues.map((issue) => ({
        field: `${source}: ${fieldPath(issue.path)}`,
        description: issue.message,
      })),
      { reason: 'CONFIGURATION_INVALID' },
    );
  }
  const { spec } = parsed.data;
  const violations: FieldViolation[] = [];
  if (!spec.containers.some(({ name }) => name === trainerContainer)) {
    violations.push({
      field: `${source}: spec.containers`,
      description: `none is named ${trainerContainer}; give the one that trains that name`,
    });
  }
  if (spec.restartPolicy !== undefined && spec.restartPolicy !== 'Never') {
    violations.push({
      field: `${source}: spec.restartPolicy`,
      description: `is ${spec.restartPolicy}; leave it out, it is always Never so that each failure is a pod that can be looked at`,
    });
  }
  if (violations.length > 0) throw invalidArguments(violations, { reason: 'CONFIGURATION_INVALID' });
  return parsed.data;
}

/**
 * The template with the job in it, at the "restricted" level of the pod security standards unless the template says
 * otherwise.
 */
export function podOf(
  template: PodTemplate,
  job: {
    readonly labels: Readonly<Record<string, string>>;
    readonly annotations: Readonly<Record<string, string>>;
    readonly args: readonly string[];
    readonly env: Readonly<Record<string, string>>;
  },
): PodTemplate {
  const { spec, metadata } = template;
  return {
    ...template,
    metadata: {
      ...metadata,
      labels: { ...metadata?.labels, ...job.labels },
      annotations: { ...metadata?.annotations, ...job.annotations },
    },
    spec: {
      automountServiceAccountToken: false,
      enableServiceLinks: false,
      // Long enough to take a checkpoint after SIGTERM.
      terminationGracePeriodSeconds: 60,
      ...spec,
      restartPolicy: 'Never',
      securityContext: {
        runAsNonRoot: true,
        seccompProfile: { type: 'RuntimeDefault' },
        ...spec.securityContext,
      },
      containers: spec.containers.map((given) => ({
        ...given,
        securityContext: {
          allowPrivilegeEscalation: false,
          readOnlyRootFilesystem: true,
          capabilities: { drop: ['ALL'] },
          ...given.securityContext,
        },
        ...(given.name === trainerContainer
          ? {
              args: [...(given.args ?? []), ...job.args],
              env: [
                ...(given.env ?? []).filter(({ name }) => !Object.hasOwn(job.env, name)),
                ...Object.entries(job.env).map(([name, value]) => ({ name, value })),
              ],
            }
          : {}),
      })),
    },
  };
}
