import type { DescService } from '@bufbuild/protobuf';
import { z } from 'zod';
import type { Access } from '../access/access.ts';
import { openServiceAccess } from '../access/from-settings.ts';
import { connectBus } from '../bus/connect-bus.ts';
import type { Bus } from '../bus/connect-bus.ts';
import { checkAccessSettings } from '../config/access-settings.ts';
import { loadConfig } from '../config/load-config.ts';
import { serviceSettings, splitAddress } from '../config/service-settings.ts';
import { createClient } from '../rpc/client.ts';
import type { ClientOptions } from '../rpc/client.ts';
import { createServer } from '../rpc/server.ts';
import type { RpcServer } from '../rpc/server.ts';
import type { RpcClient } from '../rpc/types.ts';
import { startTelemetry } from '../telemetry/start-telemetry.ts';
import packageJson from '../../package.json' with { type: 'json' };
import type { ServiceAddresses, ServiceContext } from './run-service.ts';

/** What the server of a service needs beyond its settings. */
export interface FoundationOptions {
  /** Short name of the service, for example reward. */
  readonly name: string;
  /** Largest request, in bytes; the server's own default without it. */
  readonly maxReceiveBytes?: number;
}

/** What every service stands on; all of it is stopped with the service. */
export interface Foundation<Config> {
  readonly config: Config;
  /** Connected, with the platform's streams. */
  readonly bus: Bus;
  /** Add services to it, then `serve`. */
  readonly server: RpcServer;
  /** A client of another service of the platform, closed when the service stops. */
  readonly connect: <S extends DescService>(
    service: S,
    address: string,
    options?: ClientOptions,
  ) => RpcClient<S>;
  /** Who may call the server; undefined where everybody may. */
  readonly access: Access | undefined;
  /** Binds the server and says where the process is found. What is registered later is stopped before it. */
  readonly serve: () => Promise<ServiceAddresses>;
}

/**
 * The beginning of every service's `start`: settings, telemetry, the broker with its streams, and a server that is yet to
 * be bound.
 *
 * @throws PlumbError CONFIGURATION_INVALID, PORT_IN_USE, ADDRESS_NOT_LOOPBACK, BROKER_UNAVAILABLE
 */
export async function startFoundation<Shape extends z.ZodRawShape & typeof serviceSettings>(
  ctx: ServiceContext,
  schema: z.ZodObject<Shape>,
  options: FoundationOptions,
): Promise<Foundation<z.output<z.ZodObject<Shape>>>> {
  const config = loadConfig(schema, ctx.env);
  // The compiler cannot see that the wider schema's output has these.
  const settings = loadConfig(z.object(serviceSettings), ctx.env);
  checkAccessSettings(settings);
  const metrics = splitAddress(settings.metricsListen);
  let server: RpcServer | undefined;
  const telemetry = await startTelemetry({
    isReady: () => server?.isServing() === true,
    service: `plumb-${options.name}`,
    version: packageJson.version,
    spanDirectory: settings.spanDirectory,
    metricsHost: metrics.host,
    metricsPort: metrics.port,
    logLevel: settings.logLevel,
    traces: settings.traces,
    traceRatio: settings.traceRatio,
    slowSeconds: settings.traceSlowSeconds,
  });
  ctx.onStop('telemetry', () => telemetry.shutdown());
  const access = await openServiceAccess(settings);
  ctx.onStop('access', () => {
    access.close();
  });
  server = createServer({
    ...splitAddress(settings.listen),
    tls: access.tls?.credentials,
    access: access.access,
    insecurePlaintext: settings.insecurePlaintext,
    insecureNoAuth: settings.insecureNoAuth,
    reflection: settings.reflection,
    maxConnectionAgeMs:
      settings.maxConnectionAgeSeconds === undefined ? undefined : settings.maxConnectionAgeSeconds * 1000,
    signal: ctx.signal,
    ...(options.maxReceiveBytes === undefined ? {} : { maxReceiveBytes: options.maxReceiveBytes }),
  });
  const bus = await connectBus({
    url: settings.natsUrl,
    name: options.name,
    signal: ctx.signal,
    access: {
      user: settings.natsUser,
      passwordFile: settings.natsPasswordFile,
      credentialsFile: settings.natsCredentialsFile,
      caFile: settings.natsCa,
    },
    replicas: settings.natsReplicas,
  });
  ctx.onStop('bus', () => bus.close());
  await bus.ensureStreams();
  return {
    config,
    bus,
    server,
    access: access.access,
    connect: (service, address, clientOptions) => {
      const client = createClient(service, address, { credentials: access.outgoing, ...clientOptions });
      ctx.onStop(`client of ${service.typeName}`, () => {
        client.close();
      });
      return client;
    },
    serve: async () => {
      const { address } = await server.listen();
      ctx.onStop('server', () => server.stop());
      return { address, metrics: telemetry.metricsAddress };
    },
  };
}
