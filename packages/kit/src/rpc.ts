/** `@plumb/kit/rpc`: gRPC servers and clients for protobuf-es services. */
export { openClientCredentials } from './access/client-credentials.ts';
export type { ClientCredentialFiles, ClientCredentials } from './access/client-credentials.ts';
export { createClient } from './rpc/client.ts';
export type { ClientOptions } from './rpc/client.ts';
export { healthOf } from './rpc/health.ts';
export { isLoopback } from './rpc/loopback.ts';
export { addService, createServer } from './rpc/server.ts';
export type { HealthStatus, RpcServer, ServerOptions } from './rpc/server.ts';
export type {
  CallContext,
  CallOptions,
  ClientMethod,
  Handler,
  Implementation,
  RpcClient,
} from './rpc/types.ts';
