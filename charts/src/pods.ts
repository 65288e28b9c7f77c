import { z } from 'zod';
import type { Rendered } from './rendered.ts';

const envSchema = z.array(z.looseObject({ name: z.string(), value: z.string().optional() }));
const containerSchema = z.looseObject({
  name: z.string(),
  env: envSchema.optional(),
  resources: z.looseObject({}),
  securityContext: z.looseObject({}),
  volumeMounts: z.array(z.looseObject({ name: z.string(), mountPath: z.string() })),
  readinessProbe: z.looseObject({}).optional(),
  livenessProbe: z.looseObject({}).optional(),
});
const podSchema = z.looseObject({
  containers: z.array(containerSchema).min(1),
  initContainers: z.array(containerSchema).optional(),
  volumes: z.array(z.looseObject({ name: z.string() })).default([]),
  securityContext: z.looseObject({}),
  automountServiceAccountToken: z.boolean(),
  serviceAccountName: z.string().optional(),
  terminationGracePeriodSeconds: z.number().optional(),
});
export type Pod = z.infer<typeof podSchema>;
const templated = z.looseObject({
  template: z.looseObject({ spec: podSchema }),
  volumeClaimTemplates: z.array(z.looseObject({ metadata: z.looseObject({ name: z.string() }) })).default([]),
});

/** The pod of an object that has one. */
export function podOf(object: Rendered): Pod | undefined {
  if (object.kind === 'Pod') return podSchema.parse(object['spec']);
  if (!['Deployment', 'StatefulSet', 'Job'].includes(object.kind)) return undefined;
  const { template, volumeClaimTemplates } = templated.parse(object['spec']);
  // A StatefulSet makes a volume of each of its claims.
  const claims = volumeClaimTemplates.map(({ metadata }) => ({
    name: metadata.name,
    persistentVolumeClaim: {},
  }));
  return { ...template.spec, volumes: [...template.spec.volumes, ...claims] };
}

/** Of a pod of the restricted level: https://kubernetes.io/docs/concepts/security/pod-security-standards/ */
export const restrictedPod = z.looseObject({
  runAsNonRoot: z.literal(true),
  runAsUser: z.number().min(1),
  seccompProfile: z.strictObject({ type: z.literal('RuntimeDefault') }),
});
export const restrictedContainer = z.strictObject({
  allowPrivilegeEscalation: z.literal(false),
  readOnlyRootFilesystem: z.literal(true),
  capabilities: z.strictObject({ drop: z.tuple([z.literal('ALL')]) }),
});
export const restrictedVolumes: ReadonlySet<string> = new Set([
  'configMap',
  'secret',
  'emptyDir',
  'persistentVolumeClaim',
  'projected',
]);
