import { failedPrecondition, invalidArgument } from '@plumb/kit/errors';
import { loadConfig, serviceSettings } from '@plumb/kit/config';
import { openClientCredentials } from '@plumb/kit/rpc';
import type { ClientCredentials } from '@plumb/kit/rpc';
import { z } from 'zod';
import { runningComponents } from '../state/running-system.ts';
import { existingStateFolder } from '../state/state-folder.ts';

export const serviceNames = ['generator', 'reward', 'judge', 'trainer', 'loop'] as const;
export type ServiceName = (typeof serviceNames)[number];

/** Where the parts of a deployment are. What is undefined is not looked at. */
export interface Deployment {
  /** In words: a state folder, or the environment. */
  readonly where: string;
  /** host:port. */
  readonly services: Readonly<Partial<Record<ServiceName, string>>>;
  readonly nats: {
    readonly url: string;
    readonly access: {
      readonly user?: string | undefined;
      readonly passwordFile?: string | undefined;
      readonly credentialsFile?: string | undefined;
      readonly caFile?: string | undefined;
    };
  };
  /** A folder, or s3://bucket/prefix. */
  readonly artifacts: string | undefined;
  /** postgres://...; the embedded ledger can be opened by its loop alone. */
  readonly databaseUrl: string | undefined;
  readonly credentials: ClientCredentials;
  /** Set in a pod, or where a kubeconfig is named. */
  readonly kubernetes:
    { readonly kubeconfig: string | undefined; readonly context: string | undefined } | undefined;
}

const address = z.string().min(1).optional().describe('host:port');

const settings = z.object({
  natsUrl: serviceSettings.natsUrl,
  natsUser: serviceSettings.natsUser,
  natsPasswordFile: serviceSettings.natsPasswordFile,
  natsCredentialsFile: serviceSettings.natsCredentialsFile,
  natsCa: serviceSettings.natsCa,
  tlsCa: serviceSettings.tlsCa,
  tlsCert: serviceSettings.tlsCert,
  tlsKey: serviceSettings.tlsKey,
  authTokenFile: serviceSettings.authTokenFile,
  insecurePlaintext: serviceSettings.insecurePlaintext,
  artifacts: z.string().min(1).optional().describe('a folder, or s3://bucket/prefix'),
  databaseUrl: z.string().min(1).optional().describe('postgres://user@host/database'),
  generatorAddress: address,
  rewardAddress: address,
  judgeAddress: address,
  trainerAddress: address,
  loopAddress: address,
  kubeconfig: z.string().min(1).optional().describe('the path of a kubeconfig'),
  kubeContext: z.string().min(1).optional().describe('a context of the kubeconfig'),
});

/**
 * The deployment that the environment describes, in the settings that services have, or the embedded system that runs in a
 * state folder.
 *
 * @throws PlumbError FAILED_PRECONDITION when there is neither; CONFIGURATION_INVALID naming a bad variable
 */
export async function findDeployment(
  stateFolder: string,
  env: Readonly<Record<string, string | undefined>>,
): Promise<Deployment> {
  const config = loadConfig(settings, env);
  const kubernetes =
    config.kubeconfig !== undefined || env['KUBERNETES_SERVICE_HOST'] !== undefined
      ? { kubeconfig: config.kubeconfig, context: config.kubeContext }
      : undefined;
  if (env['PLUMB_NATS_URL'] === undefined || env['PLUMB_NATS_URL'] === '') {
    const folder = await existingStateFolder(stateFolder);
    const components = folder === undefined ? undefined : await runningComponents(folder);
    if (folder === undefined || components === undefined) {
      throw failedPrecondition(
        `nothing runs in ${stateFolder}, and PLUMB_NATS_URL is not set; start a system with \`./plumb up\`, or set the variables of the deployment (docs/doctor.md)`,
      );
    }
    const at = (name: string): string | undefined =>
      components.find((component) => component.name === name)?.address;
    return {
      where: `the system in ${folder.path}`,
      services: present(Object.fromEntries(serviceNames.map((name) => [name, at(name)]))),
      nats: { url: `nats://${at('nats-server') ?? ''}`, access: {} },
      artifacts: folder.entry('artifacts'),
      databaseUrl: undefined,
      credentials: await openClientCredentials({}),
      kubernetes,
    };
  }
  if (config.databaseUrl !== undefined && !/^postgres(ql)?:\/\//.test(config.databaseUrl)) {
    throw invalidArgument(
      'PLUMB_DATABASE_URL',
      'is no postgres:// URL; an embedded ledger can be opened by its loop alone, leave it out',
    );
  }
  const named = (path: string | undefined, variable: string) =>
    path === undefined ? undefined : { path, variable };
  return {
    where: 'the deployment that the environment describes',
    services: present({
      generator: config.generatorAddress,
      reward: config.rewardAddress,
      judge: config.judgeAddress,
      trainer: config.trainerAddress,
      loop: config.loopAddress,
    }),
    nats: {
      url: config.natsUrl,
      access: {
        user: config.natsUser,
        passwordFile: config.natsPasswordFile,
        credentialsFile: config.natsCredentialsFile,
        caFile: config.natsCa,
      },
    },
    artifacts: config.artifacts,
    databaseUrl: config.databaseUrl,
    credentials: await openClientCredentials({
      ca: named(config.tlsCa, 'PLUMB_TLS_CA'),
      certificate: named(config.tlsCert, 'PLUMB_TLS_CERT'),
      key: named(config.tlsKey, 'PLUMB_TLS_KEY'),
      token: named(config.authTokenFile, 'PLUMB_AUTH_TOKEN_FILE'),
      insecurePlaintext: config.insecurePlaintext,
    }),
    kubernetes,
  };
}

function present(
  addresses: Readonly<Partial<Record<string, string | undefined>>>,
): Partial<Record<ServiceName, string>> {
  return Object.fromEntries(Object.entries(addresses).filter(([, value]) => value !== undefined));
}
