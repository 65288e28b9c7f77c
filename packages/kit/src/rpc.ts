/** `@plumb/kit/rpc`: gRPC servers and clients for protobuf-es services. */
export { createClient } from './rpc/client.ts';
export type { ClientOptions, ClientTls } from './rpc/client.ts';
export { addService, createServer, isLoopback } from './rpc/server.ts';
export type { HealthStatus, RpcServer, ServerOptions, ServerTls } from './rpc/server.ts';
export type {
  CallContext,
  CallOptions,
  ClientMethod,
  Handler,
  Implementation,
  RpcClient,
} from './rpc/types.ts';
