import { serviceSettings, variableName } from '@plumb/kit/config';
import { z } from 'zod';
import { generatorSettings } from '../../services/generator/config.ts';
import { judgeSettings } from '../../services/judge/config.ts';
import { loopSettings } from '../../services/loop/config.ts';
import { rewardSettings } from '../../services/reward/config.ts';
import { trainerSettings } from '../../services/trainer/config.ts';

/** The services of the chart. */
export const serviceNames = ['generator', 'reward', 'judge', 'trainer', 'loop'] as const;
export type ServiceName = (typeof serviceNames)[number];

const schemas: Readonly<Record<ServiceName, z.ZodObject>> = {
  generator: generatorSettings,
  reward: rewardSettings,
  judge: judgeSettings,
  trainer: trainerSettings,
  loop: loopSettings,
};

/** What a service reads from its environment. */
export const schemaOf = (service: ServiceName): z.ZodObject => schemas[service];

/** Settings that follow from other values: the chart writes them itself. */
const ofTheChart: ReadonlySet<string> = new Set([
  'listen',
  'metricsListen',
  'natsUrl',
  'natsReplicas',
  'natsUser',
  'natsPasswordFile',
  'natsCredentialsFile',
  'natsCa',
  'tlsCert',
  'tlsKey',
  'tlsCa',
  'tlsClientCa',
  'authCallersFile',
  'authJwks',
  'authJwtIssuer',
  'authJwtAudience',
  'authJwtRolesClaim',
  'authCallsPerSecond',
  'authItemsPerHour',
  'authTokenFile',
  'insecurePlaintext',
  'insecureNoAuth',
  'spanDirectory',
  'traceRatio',
  'artifacts',
  'modelsFolder',
  'databaseUrl',
  'judgeAddress',
  'rewardAddress',
  'trainerAddress',
  'judgesFile',
  'rewards',
  'trainingBackend',
  'trainingPodTemplate',
  'trainingInstance',
  'trainingOwner',
  'trainingNodes',
  'trainingQueue',
  'trainingPriorityClass',
  'trainingBackoffLimit',
  'trainingActiveDeadlineSeconds',
  'trainingTtlSeconds',
  'trainingImageDeadlineSeconds',
  'trainingRuntime',
  'kubeconfig',
  'kubeContext',
  'kubeNamespace',
  'webListen',
  'webKeyFile',
  'leaderElection',
  'feedbackRuns',
  'podName',
  'podNamespace',
]);

/** What may stand under `components.<service>.settings`: the service's own settings, less those of the chart. */
export function settingsOf(service: ServiceName): z.ZodObject {
  const shape = Object.entries(schemas[service].shape)
    .filter(([key]) => !ofTheChart.has(key))
    .map(([key, setting]) => {
      const hint = setting instanceof z.ZodType ? setting.description : undefined;
      return [
        key,
        z
          .union([z.string(), z.number(), z.boolean()])
          .optional()
          .describe(`\`${variableName(key)}\`: ${hint ?? ''}`),
      ] as const;
    });
  return z.strictObject(Object.fromEntries(shape));
}

/** Names of the variables that any service knows, for a look at what is rendered. */
export function variablesOf(service: ServiceName): ReadonlySet<string> {
  return new Set(Object.keys({ ...serviceSettings, ...schemas[service].shape }).map(variableName));
}
